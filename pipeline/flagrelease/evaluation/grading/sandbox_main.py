"""Run a program on each test case in a separate process. Runs inside the sandbox, without flagrelease.

`sandbox_main.py PROGRAM CASES`: CASES is {"inputs": […], "function": NAME or null, "seconds": S}. With a function, an
input is its arguments, one JSON value per line; otherwise it is the program's stdin. Prints a JSON list of what the
program printed or returned (as JSON) for each input, up to the first failure, which is null.
"""

import json
import os
import re
import resource
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_MOST_BYTES = 1 << 20
_MOST_FILE_BYTES = 16 << 20
_MOST_PROCESSES = 128
_NAMESPACED = (5, 14)
"""The first Linux that counts RLIMIT_NPROC in each user namespace; before, it counts all processes of the user."""


def main(program: str, cases: str) -> int:
    request = json.loads(Path(cases).read_text(encoding="utf-8"))
    code = compile(Path(program).read_text(encoding="utf-8"), "program", "exec")
    outputs: list[str | None] = []
    for text in request["inputs"]:
        outputs.append(_run_in_child(code, text, request["function"], request["seconds"]))
        if outputs[-1] is None:
            break
    print(json.dumps(outputs))  # noqa: T201  the output of this program
    return 0


def _run_in_child(code: Any, text: str, function: str | None, seconds: int) -> str | None:
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out:
        given.write(text.encode(errors="surrogatepass"))
        given.seek(0)
        child = os.fork()
        if child == 0:
            exit_code = 1
            try:
                _limit(seconds)
                os.dup2(given.fileno(), 0)
                os.dup2(out.fileno(), 1)
                _run(code, text, function)
                sys.stdout.flush()
                exit_code = 0
            except SystemExit as stopped:
                sys.stdout.flush()
                exit_code = 0 if stopped.code in (None, 0) else 1
            finally:
                os._exit(exit_code)
        status = _wait(child)
        out.seek(0)
        output = out.read(_MOST_BYTES + 1)
    return None if status or len(output) > _MOST_BYTES else output.decode(errors="replace")


def _limit(seconds: int) -> None:
    signal.alarm(seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST_FILE_BYTES, _MOST_FILE_BYTES))
    version = tuple(map(int, re.findall(r"[0-9]+", os.uname().release)[:2]))
    if version >= _NAMESPACED:
        resource.setrlimit(resource.RLIMIT_NPROC, (_MOST_PROCESSES, _MOST_PROCESSES))


def _wait(child: int) -> int:
    """The child's exit status. Its descendants end with it, or when there are too many: root has no RLIMIT_NPROC."""
    pause = 0.0005
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            _end_others()
            return status
        if sum(name.isdigit() for name in os.listdir("/proc")) > _MOST_PROCESSES:  # noqa: PTH208  names, often
            _end_others()
        time.sleep(pause)
        pause = min(pause * 2, 0.01)


def _end_others() -> None:
    """Kill all other processes of the sandbox, in which this is the second one, after bubblewrap's own."""
    if os.getpid() == 2:  # never the machine's
        with suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)


def _run(code: Any, text: str, function: str | None) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  the redirected descriptor
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
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
