"""Run a program on each test case in a separate process. Runs inside the sandbox, without flagrelease.

`sandbox_main.py PROGRAM CASES`: CASES is {"inputs": […], "function": NAME or null, "seconds": S}. With a function, an
input is its arguments, one JSON value per line; otherwise it is the program's stdin. Prints a JSON list of what the
program printed or returned (as JSON) for each input, up to the first failure, which is null.
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
    request = json.loads(Path(cases).read_text())
    code = compile(Path(program).read_text(), "program", "exec")
    outputs: list[str | None] = []
    for text in request["inputs"]:
        outputs.append(_run_in_child(code, text, request["function"], request["seconds"]))
        if outputs[-1] is None:
            break
    print(json.dumps(outputs))  # noqa: T201  the output of this program
    return 0


def _run_in_child(code: Any, text: str, function: str | None, seconds: int) -> str | None:
    with tempfile.TemporaryFile() as out:
        child = os.fork()
        if child == 0:
            signal.alarm(seconds)
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            os.dup2(out.fileno(), 1)
            exit_code = 1
            try:
                _run(code, text, function)
                sys.stdout.flush()
                exit_code = 0
            except SystemExit as stopped:
                sys.stdout.flush()
                exit_code = 0 if stopped.code in (None, 0) else 1
            finally:
                os._exit(exit_code)
        _, status = os.waitpid(child, 0)
        out.seek(0)
        output = out.read(_MOST_BYTES + 1)
    return None if status or len(output) > _MOST_BYTES else output.decode(errors="replace")


def _run(code: Any, text: str, function: str | None) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    sys.stdin = io.TextIOWrapper(io.BytesIO(text.encode()))
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  the redirected descriptor
    exec(code, names)  # noqa: S102  inside the sandbox
    if function is not None:
        arguments = [json.loads(line) for line in text.split("\n") if line.strip()]
        owner = names["Solution"]() if "Solution" in names else None
        called = getattr(owner, function) if owner is not None else names[function]
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  only the returned value counts
        returned = json.dumps(called(*arguments))
        os.ftruncate(1, 0)
        os.lseek(1, 0, os.SEEK_SET)
        os.write(1, returned.encode())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
