"""Programs as answers: extraction, grading, and isolation in the sandbox."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

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
