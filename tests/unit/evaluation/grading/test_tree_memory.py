"""The memory of a program with all its descendants is bounded."""

from __future__ import annotations

import signal
import sys
import time
from functools import partial

import pytest

from flagrelease.evaluation.grading.tree_memory import bounded
from flagrelease.ports import command

FORKS = """
import os, time
size = int(os.environ["SIZE"])
before = b"x" * size
for _ in range(3):
    if os.fork() == 0:
        after = b"y" * size if os.environ["EACH"] else b""
        time.sleep(60 if os.environ["EACH"] else 0.5)
        os._exit(0)
for _ in range(3):
    os.wait()
"""


@pytest.mark.parametrize(("each", "code"), [("1", -signal.SIGKILL), ("", 0)], ids=["each", "shared"])
def test_memory_is_that_of_all_processes_and_what_they_share_counts_once(each: str, code: int) -> None:
    env = {"SIZE": str(60 << 20), "EACH": each}
    argv = [sys.executable, "-c", FORKS]
    began = time.monotonic()
    done = command.run(argv, seconds=30, env=env, check=False, during=partial(bounded, most_bytes=150 << 20))
    assert done.code == code
    assert time.monotonic() - began < 20
