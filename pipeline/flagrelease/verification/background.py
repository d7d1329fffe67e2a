"""Run a part of a verification in a second process, while this one goes on."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection

from flagrelease.verification.findings import Check

__all__ = ["start"]

Part = Callable[[], list[Check]]


def start(part: Part) -> Part:
    """Start `part`; the returned function waits for its result. It is forked, so that nothing has to be sent to it.

    A process that ends without a result, for whatever reason, has its part done here.
    """
    if len(os.sched_getaffinity(0)) < 2:
        return part
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(part, theirs), daemon=False)
    process.start()
    theirs.close()

    def wait() -> list[Check]:
        try:
            found: list[Check] = ours.recv()
        except EOFError:
            return part()
        finally:
            ours.close()
            process.join()
        return found

    return wait


def _run(part: Part, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # end at once, without a second message
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    pipe.send(part())
    pipe.close()
