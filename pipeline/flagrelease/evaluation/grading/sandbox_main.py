"""Runs inside the sandbox, and imports nothing of flagrelease: a program on each of its cases, in a process of its own.

`sandbox_main.py PROGRAM CASES`: CASES is {"inputs": […], "function": NAME or null, "seconds": S}. With a function an
input is one JSON value a line, its arguments; else it is the program's stdin. Prints a JSON list: what the program
printed or returned (as JSON) for each input, up to the first that failed, which is null.
"""

import io
import json
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

_MOST_BYTES = 1 << 20


def main(program: str, cases: str) -> int:
    asked = json.loads(Path(cases).read_text())
    code = compile(Path(program).read_text(), "program", "exec")
    outputs: list[str | None] = []
    for text in asked["inputs"]:
        outputs.append(_alone(code, text, asked["function"], asked["seconds"]))
        if outputs[-1] is None:
            break
    print(json.dumps(outputs))  # noqa: T201  its output is what it is run for
    return 0


def _alone(code: Any, text: str, function: str | None, seconds: int) -> str | None:
    with tempfile.TemporaryFile() as out:
        child = os.fork()
        if child == 0:
            signal.alarm(seconds)
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            os.dup2(out.fileno(), 1)
            ended = 1
            try:
                _run(code, text, function)
                sys.stdout.flush()
                ended = 0
            except SystemExit as stopped:
                sys.stdout.flush()
                ended = 0 if stopped.code in (None, 0) else 1
            finally:
                os._exit(ended)
        _, status = os.waitpid(child, 0)
        out.seek(0)
        said = out.read(_MOST_BYTES + 1)
    return None if status or len(said) > _MOST_BYTES else said.decode(errors="replace")


def _run(code: Any, text: str, function: str | None) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    sys.stdin = io.TextIOWrapper(io.BytesIO(text.encode()))
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  the descriptor that was put there
    exec(code, names)  # noqa: S102  that is what the sandbox is for
    if function is not None:
        arguments = [json.loads(line) for line in text.split("\n") if line.strip()]
        owner = names["Solution"]() if "Solution" in names else None
        called = getattr(owner, function) if owner is not None else names[function]
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  what it prints is not its answer
        returned = json.dumps(called(*arguments))
        os.ftruncate(1, 0)
        os.lseek(1, 0, os.SEEK_SET)
        os.write(1, returned.encode())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
