"""Programs as answers: extraction, grading, and isolation in the sandbox."""

from __future__ import annotations

import base64
import json
import os
import pickle
import resource
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from flagrelease.errors import EnvironmentFault
from flagrelease.evaluation.datasets import DataFile, DataSet
from flagrelease.evaluation.grading import programs
from flagrelease.evaluation.grading.programs import Case, cases, passes, program
from flagrelease.evaluation.question import Reply
from flagrelease.evaluation.tasks import TASKS

needs_sandbox = pytest.mark.skipif(not programs.sandbox(), reason="bubblewrap (bwrap) is not installed")
DOUBLE = [Case("3\n", "6\n"), Case("-1\n", "-2")]


def test_the_last_fenced_block_is_the_program() -> None:
    text = "First:\n```python\na\n```\nno, rather\n```py\nb = 1\nc\n```\nThat is it."
    assert program(text) == "b = 1\nc\n"
    assert program(text, "def f():") == "def f():\nb = 1\nc\n"
    assert program(text, "b = 1") == "b = 1\nc\n"
    assert program("no code") == program("```python\nopen") == ""


def packed(value: Any) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def test_test_cases_are_text_and_nothing_else_is_unpickled() -> None:
    one = [{"input": "1", "output": "2", "testtype": "stdin"}]
    row = {"public_test_cases": json.dumps(one), "private_test_cases": packed(json.dumps(one))}
    assert cases(row) == [Case("1", "2")] * 2
    assert cases({**row, "private_test_cases": "[]"}) == [Case("1", "2")]
    for evil in (Path("/etc"), one):
        with pytest.raises(ValueError):
            cases({**row, "private_test_cases": packed(evil)})


@needs_sandbox
@pytest.mark.parametrize(
    ("code", "right"),
    [
        ("print(int(input()) * 2)", True),
        ("import sys\nprint(sum(map(int, sys.stdin.read().split())) * 2.0)", True),  # 6.0 is 6
        ("print(int(input()) * 2); exit()", True),
        ("print(int(input()) + 3)", False),
        ("print(int(input()) * 2, 'and more')", False),
        ("raise ValueError", False),
        ("print(int(input()) * 2); exit(3)", False),
        ("this is no python", False),
        ("import os; os.kill(os.getppid(), 9)", False),
        ("while True: print('x' * 100)", False),
        ("x = bytearray(3 << 30); print(int(input()) * 2)", False),
        ("", False),
    ],
)
def test_a_program_passes_if_every_output_is_right(code: str, right: bool) -> None:
    assert passes(code, DOUBLE, None) is right


@needs_sandbox
def test_a_function_is_called_with_the_values_of_each_line() -> None:
    tests = [Case('[1, 2]\n"x"', '["x", 3]'), Case('[5]\n"y"', '["y", 5]')]
    method = "class Solution:\n    def f(self, a: List[int], b: str):\n        print('noise')\n        return b, sum(a)"
    assert passes(method, tests, "f")
    assert passes("def f(a, b): return [b, sum(a)]", tests, "f")
    assert not passes("def g(a, b): return [b, sum(a)]", tests, "f")
    assert not passes("def f(a, b): return [b, 3]", tests, "f")


@needs_sandbox
def test_a_program_that_never_ends_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_CASE_SECONDS", 1)
    assert not passes("while True: pass", DOUBLE, None)
    assert not passes("import time; time.sleep(60)", DOUBLE, None)
    monkeypatch.setattr(programs, "_SECONDS", 1.0)
    assert not passes("import signal\nsignal.alarm(0)\nimport time; time.sleep(60)", DOUBLE, None)


@needs_sandbox
@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.create_connection(('127.0.0.1', {port}), timeout=1); print(int(input()) * 2)",
        "open('{secret}').read(); print(int(input()) * 2)",
        "open('{secret}', 'w'); print(int(input()) * 2)",
        "open('/usr/x', 'w'); print(int(input()) * 2)",
        "import os; os.environ['SOME_API_KEY']; print(int(input()) * 2)",
        "import os; assert len([p for p in os.listdir('/proc') if p.isdigit()]) > 8; print(int(input()) * 2)",
    ],
)
def test_nothing_of_the_host_is_reachable(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setenv("SOME_API_KEY", "hush")
    secret = tmp_path / "secret"
    secret.write_text("hush")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not passes(code.format(port=port, secret=secret), DOUBLE, None)
    assert secret.read_text() == "hush"


FORGE = """\
import os
channel = os.open(f"/proc/{os.getppid()}/fd/1", os.O_WRONLY)
os.write(channel, FORGED)
os.kill(os.getppid(), 9)
"""


@needs_sandbox
@pytest.mark.parametrize(
    "forged", [b"5", b"null", b'"66"', b"{}", b"[5, 5]", b'[["6"], "-2"]', b"[6, -2]", b"[" * 100_000, b"\xff", b""]
)
@pytest.mark.parametrize("function", [None, "f"])
def test_what_a_program_writes_in_place_of_the_outputs_is_wrong(forged: bytes, function: str | None) -> None:
    assert not passes(FORGE.replace("FORGED", repr(forged)), DOUBLE, function)


@needs_sandbox
@pytest.mark.parametrize("read", ["input()", "open(0).read()", "sys.stdin.buffer.read().decode()", "next(sys.stdin)"])
def test_the_input_can_be_read_in_every_way(read: str) -> None:
    assert passes(f"print({read}.strip() + 'é')", [Case("ü\n", "üé"), Case("中文", "中文é")], None)
    assert passes("def f(a): return a + 'é'", [Case('"中"', '"中é"')], "f")
    assert not passes("print('\ud800')", [Case("", "?")], None), "no text, and no error of the grader either"


@needs_sandbox
def test_programs_are_utf_8_in_every_locale() -> None:
    code = (
        "import locale\nassert locale.getpreferredencoding(False) != 'UTF-8'\n"
        "from flagrelease.evaluation.grading.programs import Case, passes\n"
        "print(passes('print(input() + \\'\\u4e2d\\')', [Case('\\u00fc', '\\u00fc\\u4e2d')], None))"
    )
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


MANY = """\
import os, time
count = 0
try:
    while count < 600:
        if os.fork() == 0:
            time.sleep(5)
            os._exit(0)
        count += 1
except OSError:
    pass
if count == 600:
    print(int(input()) * 2)
"""
FILL = """\
import os
for number in range(20):
    with open(f"{FOLDER}/{number}", "wb") as stream:
        stream.write(bytes(15 << 20))
print(int(input()) * 2)
"""
LEFT = """\
import os, time
n = int(input())
before = len([p for p in os.listdir("/proc") if p.isdigit()])
if os.fork() == 0:
    time.sleep(5)
    os._exit(0)
if n == 3 or before > 3:
    print(n * 2)
"""
NAMESPACE = """\
import ctypes
if ctypes.CDLL(None).unshare(0x10000000) == 0:
    print(int(input()) * 2)
"""


@needs_sandbox
@pytest.mark.parametrize(
    "code", [MANY, LEFT, *(FILL.replace("{FOLDER}", folder) for folder in ("/tmp", "/dev/shm", "/dev", "/"))]
)
def test_the_sandbox_bounds_processes_and_files(code: str) -> None:
    assert not passes(code, DOUBLE, None)


@needs_sandbox
@pytest.mark.parametrize(("each", "right"), [(10, True), (80, False)])
def test_memory_is_bounded_for_all_processes_together(each: int, right: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the four processes has less than the limit of one."""
    monkeypatch.setattr(programs, "_MEMORY_BYTES", 200 << 20)
    code = (
        "import os, time\n"
        "children = []\n"
        "for _ in range(3):\n"
        "    if (child := os.fork()) == 0:\n"
        f"        kept = b'x' * ({each} << 20)\n"
        "        time.sleep(0.7)\n"
        "        os._exit(0)\n"
        "    children.append(child)\n"
        "for child in children: os.waitpid(child, 0)\n"
        "print(int(input()) * 2)\n"
    )
    assert passes(code, [Case("3", "6")], None) is right


@needs_sandbox
def test_a_program_makes_no_user_namespace() -> None:
    if "--disable-userns" not in programs._isolation(programs.sandbox()):
        pytest.skip("this bubblewrap cannot forbid it")
    assert not passes(NAMESPACE, DOUBLE, None)


@needs_sandbox
def test_a_program_with_a_few_processes_threads_and_files_is_right() -> None:
    code = (
        "import concurrent.futures as futures, multiprocessing, threading\n"
        "open('/tmp/x', 'wb').write(bytes(10 << 20))\n"
        "n = int(input())\n"
        "with futures.ThreadPoolExecutor(8) as pool: assert list(pool.map(abs, range(8))) == list(range(8))\n"
        "with multiprocessing.get_context('fork').Pool(4) as pool: print(sum(pool.map(int, [n, n])))\n"
    )
    assert passes(code, DOUBLE, None)


@needs_sandbox
def test_messages_of_a_program_take_no_memory_here() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code = "import sys\nfor _ in range(300): sys.stderr.write('x' * 10**6)\nprint(int(input()) * 2)"
    assert passes(code, DOUBLE, None)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "KiB"


@needs_sandbox
def test_an_output_that_is_also_a_secret_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "778899")
    assert passes("print(778899)", [Case("", "778899")], None)


@needs_sandbox
def test_an_older_bubblewrap_gets_the_options_that_it_knows(tmp_path: Path) -> None:
    for name, refused in (("old", "--disable-userns"), ("older", "--size")):
        path = tmp_path / name
        path.write_text(f'#!/bin/sh\ncase "$*" in *{refused}*) exit 1;; esac\nexec {programs.sandbox()} "$@"\n')
        path.chmod(0o755)
        assert refused not in programs._isolation(str(path))
        assert "--tmpfs" in programs._isolation(str(path))
    with pytest.raises(EnvironmentFault, match="bubblewrap cannot start a sandbox"):
        programs._isolation("/bin/false")


@needs_sandbox
def test_livebench_s_coding_is_asked_and_graded(tmp_path: Path) -> None:
    tests = [{"input": "3\n", "output": "6\n", "testtype": "stdin"}]
    row = {
        "question_id": "q",
        "task": "LCB_generation",
        "turns": ["Double it."],
        "livebench_release_date": "2024-07-26",
        "livebench_removal_date": "",
        "public_test_cases": json.dumps(tests),
        "private_test_cases": packed(json.dumps(tests)),
        "original_json": {"metadata": "{}"},
    }
    path = tmp_path / "question.jsonl"
    path.write_text(json.dumps(row) + "\n")
    data = DataSet(benchmark="livebench", digest="0" * 64, files=(DataFile(name=path.name, path=path),))
    (question,) = TASKS["livebench"].read(data, 0)
    graded = [
        TASKS["livebench"].grade(question, Reply(text=text, finish_reason="stop", completion_tokens=1)).correct
        for text in ("```python\nprint(int(input()) * 2)\n```", "```python\nprint(7)\n```", "six")
    ]
    assert graded == [True, False, False]


def test_without_a_sandbox_no_program_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert programs.sandbox() == ""
