"""Answers that are programs: taken out of the text, run on their test cases in a sandbox, and compared.

The sandbox is bubblewrap (`bwrap`): no network, no environment, no file but Python itself and an empty /tmp, its own
processes, limits on memory, time and output. Without it no program is run at all.
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
from pathlib import Path
from typing import Any

from flagrelease.errors import CommandFailed
from flagrelease.ports.command import run

__all__ = ["Case", "cases", "passes", "program", "sandbox"]

_DRIVER = Path(__file__).with_name("sandbox_main.py")
_FENCE = re.compile(r"^\s*```", re.MULTILINE)
_CASE_SECONDS = 6
_SECONDS = 25.0  # of all cases together; a grade that takes longer than the referee waits is no grade
_MEMORY_BYTES = 2 << 30
_PRELUDE = (
    "import bisect, collections, functools, heapq, itertools, json, math, operator, random, re, string, sys\n"
    "from collections import *\nfrom functools import *\nfrom heapq import *\nfrom itertools import *\n"
    "from math import *\nfrom bisect import *\nfrom typing import *\nsys.setrecursionlimit(50000)\n"
)


@dataclass(frozen=True)
class Case:
    input: str
    output: str


def sandbox() -> str:
    """The sandbox's program, or nothing where there is none."""
    return shutil.which("bwrap") or "" if shutil.which("prlimit") else ""


def program(text: str, partial: str = "") -> str:
    """The last fenced block of an answer, behind the beginning that was given where it does not repeat that."""
    fences = list(_FENCE.finditer(text))
    if len(fences) < 2:
        return ""
    head, tail = fences[-2], fences[-1]
    code = text[head.end() : tail.start()].partition("\n")[2]
    return code if not partial or code.startswith(partial) else f"{partial}\n{code}"


def cases(row: Mapping[str, Any]) -> list[Case]:
    """Public and private test cases of a LiveCodeBench question. Raises ValueError."""
    found = json.loads(row["public_test_cases"])
    private = row["private_test_cases"]
    try:
        found += json.loads(private)
    except ValueError:
        found += json.loads(_unpickled(zlib.decompress(base64.b64decode(private))))
    return [Case(one["input"], one["output"]) for one in found]


class _Text(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise ValueError(f"test cases name {module}.{name}: they are text")


def _unpickled(raw: bytes) -> str:
    """The benchmark's authors pickle a string; nothing else is taken."""
    text = _Text(io.BytesIO(raw)).load()
    if not isinstance(text, str):
        raise ValueError(f"test cases are a {type(text).__name__}")
    return text


def passes(code: str, tests: Sequence[Case], function: str | None) -> bool:
    """Whether the program gives every case's output, in time."""
    if not code.strip() or not tests:
        return False
    with tempfile.TemporaryDirectory(prefix="flagrelease-program-") as folder:
        work = Path(folder)
        (work / "program.py").write_text(_PRELUDE + code)
        asked = {"inputs": [one.input for one in tests], "function": function, "seconds": _CASE_SECONDS}
        (work / "cases.json").write_text(json.dumps(asked))
        try:
            done = run(_argv(work), seconds=_SECONDS, env={}, inherit=False, check=False)
            outputs = json.loads(done.stdout)
        except (CommandFailed, ValueError):
            return False
    if len(outputs) != len(tests) or None in outputs:
        return False
    same = _same_value if function else _same_text
    return all(same(given, one.output) for given, one in zip(outputs, tests, strict=True))


def _argv(work: Path) -> list[str]:
    """The sandbox's command line; Python and the system's libraries are all that can be read."""
    readable = [Path(path) for path in ("/usr", "/lib", "/lib64", "/bin", sys.base_prefix)]
    words = [str(shutil.which("prlimit")), f"--as={_MEMORY_BYTES}", "--core=0", "--fsize=16777216", sandbox()]
    words += ["--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--proc", "/proc", "--dev", "/dev"]
    words += ["--tmpfs", "/tmp"]  # noqa: S108  the sandbox's own
    for path in readable:
        if path.exists():
            words += ["--ro-bind", str(path), str(path)]
    for source, name in ((work, "/work"), (_DRIVER, "/work.py")):
        words += ["--ro-bind", str(source), name]
    python = Path(sys.base_prefix) / "bin" / "python3"
    return [*words, "--chdir", "/tmp", str(python), "-I", "/work.py", "/work/program.py", "/work/cases.json"]  # noqa: S108


def _same_value(given: str, expected: str) -> bool:
    try:
        return bool(json.loads(given) == json.loads(expected))
    except ValueError:
        return False


def _same_text(given: str, expected: str) -> bool:
    """Line by line without spaces at the ends; numbers by their value."""
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
