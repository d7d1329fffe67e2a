"""Extract programs from answers and run them on their test cases in a sandbox.

The sandbox is bubblewrap (`bwrap`): no network, no environment, no files except Python itself and a small empty /tmp,
a separate process namespace, limits on memory, time, processes and output. Without bubblewrap, no program is run.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from flagrelease.errors import CommandFailed, EnvironmentFault
from flagrelease.evaluation.grading.tree_memory import bounded
from flagrelease.ports.command import run

__all__ = ["Case", "cases", "passes", "program", "sandbox"]

_DRIVER = Path(__file__).with_name("sandbox_main.py")
_FENCE = re.compile(r"^\s*```", re.MULTILINE)
_CASE_SECONDS = 6
_SECONDS = 25.0  # for all cases together; below the grading process's timeout of 30 s
_MEMORY_BYTES = 2 << 30
"""Of each process, and of all together."""
_TMP_BYTES = 128 << 20
_OUTPUT_BYTES = 256 << 20
"""Of all cases together, as JSON; sandbox_main.py limits each of them, and the files of the program."""
_PRELUDE = (
    "import bisect, collections, functools, heapq, itertools, json, math, operator, random, re, string, sys\n"
    "from collections import *\nfrom functools import *\nfrom heapq import *\nfrom itertools import *\n"
    "from math import *\nfrom bisect import *\nfrom typing import *\nsys.setrecursionlimit(50000)\n"
)


@dataclass(frozen=True)
class Case:
    """A test case: stdin, or one JSON argument per line, and the expected output."""

    input: str
    output: str


def sandbox() -> str:
    """The path of bubblewrap; empty if the sandbox is unavailable."""
    return shutil.which("bwrap") or "" if shutil.which("prlimit") else ""


def program(text: str, partial: str = "") -> str:
    """The last fenced block of an answer, prefixed with the `partial` solution given unless it repeats that."""
    fences = list(_FENCE.finditer(text))
    if len(fences) < 2:
        return ""
    head, tail = fences[-2], fences[-1]
    code = text[head.end() : tail.start()].partition("\n")[2]
    return code if not partial or code.startswith(partial) else f"{partial}\n{code}"


def cases(row: Mapping[str, Any]) -> list[Case]:
    """Public and private test cases of a LiveCodeBench question. Raises ValueError."""
    tests = json.loads(row["public_test_cases"])
    private = row["private_test_cases"]
    try:
        tests += json.loads(private)
    except ValueError:
        tests += json.loads(_unpickled(zlib.decompress(base64.b64decode(private))))
    return [Case(test["input"], test["output"]) for test in tests]


class _Text(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise ValueError(f"test cases must be text, but refer to {module}.{name}")


def _unpickled(raw: bytes) -> str:
    """Unpickle a string, which is what the benchmark's authors store; anything else is refused."""
    text = _Text(io.BytesIO(raw)).load()
    if not isinstance(text, str):
        raise ValueError(f"test cases must be text, not a {type(text).__name__}")
    return text


def passes(code: str, tests: Sequence[Case], function: str | None) -> bool:
    """Whether the program returns the expected output of every case within the time limits."""
    if not code.strip() or not tests:
        return False
    with tempfile.TemporaryDirectory(prefix="flagrelease-program-") as folder:
        work = Path(folder)
        # A lone surrogate is no UTF-8: a program with one is read there as an error.
        (work / "program.py").write_bytes((_PRELUDE + code).encode("utf-8", "surrogatepass"))
        request = {"inputs": [case.input for case in tests], "function": function, "seconds": _CASE_SECONDS}
        (work / "cases.json").write_text(json.dumps(request), encoding="utf-8")
        printed = work / "printed"
        try:
            argv = _argv(work, printed)
            bound = partial(bounded, most_bytes=_MEMORY_BYTES)
            run(argv, seconds=_SECONDS, env={}, inherit=False, check=False, during=bound)
            outputs = json.loads(printed.read_bytes())
        except (CommandFailed, ValueError, RecursionError):
            return False
    # The program may have written there itself.
    if not isinstance(outputs, list) or len(outputs) != len(tests) or not all(isinstance(out, str) for out in outputs):
        return False
    same = _same_value if function else _same_text
    return all(same(given, case.output) for given, case in zip(outputs, tests, strict=True))


def _argv(work: Path, printed: Path) -> list[str]:
    """The command line that runs the program and writes what the driver prints to the file `printed`.

    The program may write to the driver's output, so that is a file with a limited size: a pipe would be read without
    one, or block.
    """
    python = Path(sys.base_prefix) / "bin" / "python3"
    shell = ["/bin/sh", "-c", 'exec "$@" >"$0" 2>/dev/null', str(printed)]
    limits = [str(shutil.which("prlimit")), f"--as={_MEMORY_BYTES}", "--core=0", f"--fsize={_OUTPUT_BYTES}"]
    inputs = [
        "--ro-bind",
        str(work / "program.py"),
        "/program.py",
        "--ro-bind",
        str(work / "cases.json"),
        "/cases.json",
    ]
    driver = ["--ro-bind", str(_DRIVER), "/driver.py", "--remount-ro", "/", "--chdir", "/tmp"]  # noqa: S108  inside
    command = [str(python), "-I", "-X", "utf8", "/driver.py", "/program.py", "/cases.json"]
    return [*shell, *limits, *_isolation(sandbox()), *inputs, *driver, *command]


@lru_cache
def _isolation(bwrap: str) -> tuple[str, ...]:
    """bubblewrap with the strictest options that this machine allows. Raises EnvironmentFault if it cannot run."""
    options = ["--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--proc", "/proc", "--dev", "/dev"]
    for path in (Path(path) for path in ("/usr", "/lib", "/lib64", "/bin", sys.base_prefix)):
        if path.exists():  # only Python and the system's libraries are readable
            options += ["--ro-bind", str(path), str(path)]
    # An older bubblewrap, or one with setuid, knows less.
    size = ["--size", str(_TMP_BYTES)]
    userns = ["--unshare-user", "--disable-userns"]
    why = ""
    for stricter, bound in ((userns, size), ([], size), ([], [])):
        mounts = [*bound, "--tmpfs", "/tmp", *bound, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]  # noqa: S108  inside
        argv = [bwrap, *options, *stricter, *mounts]
        tried = run([*argv, "--remount-ro", "/", "/bin/true"], seconds=_SECONDS, env={}, inherit=False, check=False)
        if tried.code == 0:
            return tuple(argv)
        why = tried.stderr.strip()[-200:]
    raise EnvironmentFault(
        "bubblewrap cannot start a sandbox",
        why=why,
        hint="allow user namespaces, in which programs are run to grade them",
    )


def _same_value(given: str, expected: str) -> bool:
    try:
        return bool(json.loads(given) == json.loads(expected))
    except (ValueError, RecursionError):
        return False


def _same_text(given: str, expected: str) -> bool:
    """Compare line by line, ignoring spaces at the ends; numbers by value."""
    mine, theirs = (text.strip().splitlines() for text in (given, expected))
    return len(mine) == len(theirs) and all(map(_same_line, mine, theirs))


def _same_line(given: str, expected: str) -> bool:
    mine, theirs = given.split(), expected.split()
    if mine == theirs:
        return True
    try:
        return [Decimal(word) for word in mine] == [Decimal(word) for word in theirs]
    except InvalidOperation:
        return False
