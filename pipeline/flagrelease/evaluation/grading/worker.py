"""Grade in a separate process, for graders that may never finish, such as symbolic algebra.

The process exits when its pipe closes, so it does not outlive this one. What a reply makes a grader do is limited: a
reply that takes more than the limits in processor time or memory is wrong, on a busy machine as on an idle one.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import signal
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType

from flagrelease.errors import FlagreleaseError
from flagrelease.evaluation.question import Grade, Question, Reply, Task

__all__ = ["GradingFailedError", "GradingWorker", "grade"]

_PROCESSOR_SECONDS = 30.0
_MEMORY_BYTES = 4 << 30
_NO_ANSWER = Grade(False, None)


class GradingFailedError(Exception):
    """The grader timed out, or its process ended."""


def grade(task: Task, question: Question, reply: Reply) -> Grade:
    """The task's grade. Raises GradingFailedError for a defect of the grader, which then costs this answer only."""
    try:
        return task.grade(question, reply)
    except FlagreleaseError:
        raise
    except (MemoryError, RecursionError):
        return _NO_ANSWER
    except Exception as error:
        raise GradingFailedError(f"the grader failed with {type(error).__name__}: {error}"[:300]) from error


class GradingWorker:
    """One grading process, started at the first question and restarted after a timeout.

    `processor_seconds` limit the time that one reply may take; `seconds` also count when the process only waits.
    """

    def __init__(self, task: Task, *, seconds: float = 300.0, processor_seconds: float = _PROCESSOR_SECONDS) -> None:
        self._task = task
        self._seconds = seconds
        self._processor_seconds = processor_seconds
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
            if self._stop() == -signal.SIGPROF:
                return _NO_ANSWER
            raise GradingFailedError(f"the grader's process ended: {error}") from None
        self._stop()
        raise GradingFailedError(f"the grader did not decide within {self._seconds:.0f} s")

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._task, self._processor_seconds), daemon=True)
        self._process.start()
        theirs.close()

    def _stop(self) -> int | None:
        """End the process. Returns its exit code; negative for a signal."""
        code = None
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.join(0.5)  # one that has closed its end of the pipe is about to exit
            self._process.kill()
            self._process.join(5)
            code = self._process.exitcode
        self._pipe = self._process = None
        return code


def _serve(pipe: Connection, task: Task, processor_seconds: float) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = _MEMORY_BYTES if most == resource.RLIM_INFINITY else min(_MEMORY_BYTES, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            question, reply = pipe.recv()
            try:
                signal.setitimer(signal.ITIMER_PROF, processor_seconds)  # SIGPROF ends the process
                graded: Grade | Exception = grade(task, question, reply)
            except (FlagreleaseError, GradingFailedError) as error:
                graded = error
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            pipe.send(graded)
