"""Run jobs in separate processes, several in parallel, with limits; a crash affects only its own job.

The processes are forked from a server that has imported torch but never used the chip, so that starting one takes
milliseconds instead of seconds, and no child inherits a device context."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import multiprocessing.context
import multiprocessing.forkserver
import multiprocessing.process
import os
import resource
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["Outcome", "Task", "run_all"]

POLL_S = 0.2


class Task(Protocol):
    """A job for one process, such as worker.Job or measure.bench.BenchJob."""

    @property
    def operator(self) -> str: ...
    @property
    def memory(self) -> int:
        """Bytes of host memory that the operator may use."""

    @property
    def log(self) -> str:
        """The file for the process's output."""


T = TypeVar("T", bound=Task)


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[T]):
    """How a process ended, and the results it sent before."""

    job: T
    ended: str
    """`done`, or a verdict: crash, hang, out-of-memory …, or worker.UNOPENED."""
    reason: str
    at: str
    """The case during which it ended."""
    results: tuple[dict[str, Any], ...]
    dropped: int
    """Cases that were not judged."""
    short: int
    """Dropped cases for which chip memory was insufficient."""
    seconds: float
    """Run time of the process."""
    peak_bytes: int
    """Maximum resident host memory."""
    log_tail: str
    """End of the process's output."""


@dataclass
class _Running(Generic[T]):
    """A running process and its messages so far."""

    job: T
    process: multiprocessing.process.BaseProcess
    pipe: Connection
    deadline: float
    began: float = field(default_factory=time.monotonic)
    results: list[dict[str, Any]] = field(default_factory=list)
    dropped: int = 0
    short: int = 0
    at: str = "start"
    ended: str = ""
    reason: str = ""
    peak: int = 0

    def read(self) -> bool:
        """Receive the child's messages; False if it will send no more."""
        try:
            while self.pipe.poll():
                message = json.loads(self.pipe.recv_bytes())
                if "start" in message:
                    self.at = message["start"]
                elif "result" in message:
                    self.results.append(message["result"])
                elif "dropped" in message:
                    self.dropped += 1
                    self.short += bool(message.get("short"))
                elif "end" in message:
                    self.ended, self.reason = message["end"], message.get("reason", "")
                    return False
        except (EOFError, OSError):
            return False
        return True


def context() -> multiprocessing.context.ForkServerContext:
    """The fork server, with torch and FlagGems' dependencies imported. It never uses the chip."""
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload(
        ["flagkernels.qualify.worker", "sqlalchemy.orm", "yaml"]
    )  # missing modules are ignored
    path = os.pathsep.join(filter(None, sys.path))  # the server does not inherit sys.path
    # Processes that skip the interpreter's exit leave FlagGems' locks to the resource tracker, which would warn.
    quiet = ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), "ignore:resource_tracker:UserWarning")))
    with _environment(PYTHONPATH=path, PYTHONWARNINGS=quiet):
        multiprocessing.forkserver.ensure_running()
    return forkserver


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def run_all(
    jobs: Iterable[T],
    *,
    width: int,
    seconds: float,
    finished: Callable[[Outcome[T]], None],
    doing: Callable[[str], None],
    target: Callable[[T, Connection], None],
) -> None:
    """Run `target(job, pipe)` for each job, at most `width` in parallel, each for at most `seconds`; call `finished`
    when one ends.

    On any exception, including Ctrl-C, the running processes are killed."""
    waiting, running = deque(jobs), list[_Running[T]]()
    spawn = context()
    try:
        while waiting or running:
            while waiting and len(running) < width:
                running.append(_start(spawn, waiting.popleft(), seconds, target))
            doing(" ".join(r.job.operator for r in running))
            wait([r.pipe for r in running] + [r.process.sentinel for r in running], timeout=POLL_S)
            for item in list(running):
                if not item.read() or _overdue(item) or not item.process.is_alive():
                    running.remove(item)
                    finished(_end(item))
    finally:
        for item in running:
            item.process.kill()
            item.process.join()


def _start(
    spawn: multiprocessing.context.ForkServerContext,
    job: T,
    seconds: float,
    target: Callable[[T, Connection], None],
) -> _Running[T]:
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=target, args=(job, theirs), daemon=True, name=f"qualify {job.operator}")
    process.start()
    theirs.close()
    return _Running(job=job, process=process, pipe=ours, deadline=time.monotonic() + seconds)


def _overdue(item: _Running[T]) -> bool:
    """Kill a process that exceeds its time or memory limit; True if it did."""
    item.peak = max(item.peak, _resident(item.process.pid or 0))
    if time.monotonic() > item.deadline:
        item.ended = "hang"
        item.reason = f"no answer within {item.deadline - item.began:.0f} s"
    elif item.peak > item.job.memory + BASE_RESIDENT:
        item.ended, item.reason = "out-of-memory", f"{item.peak >> 20} MiB resident, limit {item.job.memory >> 20} MiB"
    else:
        return False
    item.process.kill()
    return True


BASE_RESIDENT = 2 << 30  # bytes of torch, Triton and a device context, which do not count as the operator's


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        return 0


def _end(item: _Running[T]) -> Outcome[T]:
    item.process.join(timeout=10)
    if item.process.is_alive():
        item.process.kill()
        item.process.join()
    item.read()
    code = item.process.exitcode
    if not item.ended:
        item.ended = "crash"
        item.reason = (
            f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        )
    item.pipe.close()
    return Outcome(
        job=item.job,
        ended=item.ended,
        reason=item.reason,
        at=item.at,
        results=tuple(item.results),
        dropped=item.dropped,
        short=item.short,
        seconds=round(time.monotonic() - item.began, 2),
        peak_bytes=item.peak,
        log_tail=_tail(Path(item.job.log)),
    )


def _tail(path: Path, size: int = 1500) -> str:
    try:
        return path.read_bytes()[-size:].decode(errors="replace").strip()
    except OSError:
        return ""
