"""Each job in a process of its own, several at once, with limits; a process that dies costs its own job only.

The processes are forked from a server that has imported torch and never touched the chip, so that a start costs
milliseconds instead of seconds and no child inherits a device context."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import multiprocessing.context
import multiprocessing.forkserver
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
from typing import Any

from flagkernels.qualify import worker

__all__ = ["Outcome", "run_all"]

POLL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a process ended. `ended` is `done`, or crash, hang, out-of-memory … with the reason and the case at which;
    `short`: how many of the dropped cases lacked memory of the chip."""

    job: Any
    ended: str
    reason: str
    at: str
    results: tuple[dict[str, Any], ...]
    dropped: int
    short: int
    seconds: float
    peak_bytes: int
    log_tail: str


@dataclass
class _Running:
    job: Any
    process: Any
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
        """Takes what the child has sent; False when it will send no more."""
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
    """The fork server, with torch in it and what FlagGems imports besides. It never touches the chip."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(
        ["flagkernels.qualify.worker", "sqlalchemy.orm", "yaml"]
    )  # missing ones are passed over
    path = os.pathsep.join(filter(None, sys.path))  # the server does not apply our sys.path itself
    # Processes that end without their interpreter's own exit leave FlagGems' locks to the tracker, which would warn.
    quiet = ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), "ignore:resource_tracker:UserWarning")))
    with _environment(PYTHONPATH=path, PYTHONWARNINGS=quiet):
        multiprocessing.forkserver.ensure_running()
    return found


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
    jobs: Iterable[Any],
    *,
    width: int,
    seconds: float,
    finished: Callable[[Outcome], None],
    doing: Callable[[str], None],
    target: Callable[[Any, Connection], None] = worker.run,
) -> None:
    """Runs `target(job, pipe)` for each job, at most `width` at once, each for at most `seconds`; calls `finished` as
    each ends. A job is a worker.Job or has its `operator`, `memory` and `log`.

    On any exception (Ctrl-C included) the processes that still run are ended."""
    waiting, running = deque(jobs), list[_Running]()
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
    job: Any,
    seconds: float,
    target: Callable[[Any, Connection], None],
) -> _Running:
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=target, args=(job, theirs), daemon=True, name=f"qualify {job.operator}")
    process.start()
    theirs.close()
    return _Running(job=job, process=process, pipe=ours, deadline=time.monotonic() + seconds)


def _overdue(item: _Running) -> bool:
    """Ends a process that is past its deadline or over its memory."""
    item.peak = max(item.peak, _resident(item.process.pid))
    if time.monotonic() > item.deadline:
        item.ended = "hang"
        item.reason = f"no answer within {item.deadline - item.began:.0f} s"
    elif item.peak > item.job.memory + BASE_RESIDENT:
        item.ended, item.reason = "out-of-memory", f"{item.peak >> 20} MiB resident, limit {item.job.memory >> 20} MiB"
    else:
        return False
    item.process.kill()
    return True


BASE_RESIDENT = 2 << 30  # torch, Triton and a device context are not the operator's own


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        return 0


def _end(item: _Running) -> Outcome:
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
