"""Grade in a separate process, for graders that may never finish, such as symbolic algebra.

The process exits when its pipe closes, so it does not outlive this one.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType

from flagrelease.evaluation.question import Grade, Question, Reply, Task

__all__ = ["GradingFailedError", "GradingWorker"]


class GradingFailedError(Exception):
    """The grader timed out, or its process ended."""


class GradingWorker:
    """One grading process, started at the first question and restarted after a timeout."""

    def __init__(self, task: Task, *, seconds: float = 30.0) -> None:
        self._task = task
        self._seconds = seconds
        self._lock = asyncio.Lock()
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def __enter__(self) -> GradingWorker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    async def grade(self, question: Question, reply: Reply) -> Grade:
        """The task's grade of `reply`. Raises GradingFailedError."""
        async with self._lock:
            return await asyncio.to_thread(self._grade, question, reply)

    def _grade(self, question: Question, reply: Reply) -> Grade:
        if self._pipe is None:
            self._start()
        assert self._pipe is not None  # noqa: S101  _start sets it
        try:
            self._pipe.send((question, reply))
            if self._pipe.poll(self._seconds):
                answer: Grade | Exception = self._pipe.recv()
                if isinstance(answer, Exception):
                    raise answer
                return answer
        except (EOFError, OSError) as error:
            self._stop()
            raise GradingFailedError(f"the grader's process ended: {error}") from None
        self._stop()
        raise GradingFailedError(f"the grader did not decide within {self._seconds:.0f} s")

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._task), daemon=True)
        self._process.start()
        theirs.close()

    def _stop(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.kill()
            self._process.join(5)
        self._pipe = self._process = None


def _serve(pipe: Connection, task: Task) -> None:
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            question, reply = pipe.recv()
            try:
                pipe.send(task.grade(question, reply))
            except Exception as error:
                pipe.send(error)
