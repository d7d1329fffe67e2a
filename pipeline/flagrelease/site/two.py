"""Do the same for many items in two processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

WORTH_A_PROCESS = 50
"""Items whose work takes longer than a process takes to start."""


def in_two(items: Sequence[T], work: Callable[[T], object]) -> None:
    """Do `work`, whose effect is on files, for each item; for every other one in a second, forked process.

    If that process fails, its part is done here once more, which raises the error.
    """
    if len(os.sched_getaffinity(0)) < 2 or len(items) < WORTH_A_PROCESS:
        _each(items, work)
        return
    helper = multiprocessing.get_context("fork").Process(target=_quietly, args=(items[1::2], work), daemon=True)
    helper.start()
    _each(items[::2], work)
    helper.join()
    if helper.exitcode:
        _each(items[1::2], work)


def _each(items: Sequence[T], work: Callable[[T], object]) -> None:
    for item in items:
        work(item)


def _quietly(items: Sequence[T], work: Callable[[T], object]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # end at once, without a second message
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        _each(items, work)
    except BaseException:
        os._exit(1)
