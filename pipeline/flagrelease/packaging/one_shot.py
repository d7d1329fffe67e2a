"""Run a program to its end on the chip's host, and remove its container however it ends."""

from __future__ import annotations

import queue
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.errors import CommandFailed, FlagreleaseError
from flagrelease.ports.container_runner import Ended, Running, labels
from flagrelease.recipe.container import ContainerRun, Placement
from flagrelease.recipe.devices import limited

KEPT_LINES = 200
_POLL = 0.1
_ENDED = re.compile(r"ended with (\d+)$")
_LATE = 124
"""The exit code of `timeout` for a program that took too long."""
_DRAIN_SECONDS = 10.0

Printed = queue.SimpleQueue[str | None]
"""Output lines as they arrive; None at the end."""


def of(
    job: Job,
    context: Context,
    *,
    name: str,
    image: str,
    argv: Sequence[str],
    mounts: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> ContainerRun:
    """Describe a run of `argv` in `image` with the chip's container flags and without network.

    For plain processes, a mount must have the same path inside as outside.
    """
    cell = job.cell
    flags = limited(cell.chip, context.devices, processes=job.runner == "process")
    return ContainerRun(
        image=image,
        entrypoint=tuple(argv[:1]),
        command=tuple(argv[1:]),
        mounts=tuple(mounts),
        env={**flags.env, **(env or {})},
        flags=flags,
        offline=True,
        placement=Placement(
            name=f"flagrelease-{cell.slug}-{name}-{context.run_id}",
            port=None,
            labels=labels(context.run_id, cell.id, context.workspace.root),
        ),
    )


def executing(job: Job, context: Context, image: str, name: str) -> Callable[..., tuple[int, str]]:
    """A function that runs a program in a container of `image` with the chip's flags, and returns its exit code and its
    last lines."""

    def execute(argv: Sequence[str], *, seconds: float) -> tuple[int, str]:
        run = of(job, context, name=name, image=image, argv=argv)
        try:
            return 0, finish(context, run, seconds=seconds, line=lambda _text: None)
        except CommandFailed as error:
            ended = _ENDED.search(error.what)
            return int(ended[1]) if ended else _LATE, error.detail or error.why

    return execute


def finish(context: Context, run: ContainerRun, *, seconds: float, line: Callable[[str], None]) -> str:
    """Run it to its end, for at most `seconds`, and return its last lines. `line` gets each line as it is printed.

    Raises CommandFailed, with the last lines as detail, if it fails or takes too long; also the errors of `start`.
    """
    with context.meter.waiting():
        running = context.ports.runner.start(run)
        printed: Printed = queue.SimpleQueue()
        over = threading.Event()
        reader = threading.Thread(target=_read, args=(running, printed, over), daemon=True)
        try:
            reader.start()
            return _watched(context, run.placement.name or run.image, running, printed, seconds, line)
        finally:
            running.stop()
            over.set()
            if reader.is_alive():
                reader.join(_DRAIN_SECONDS)


def _watched(
    context: Context, name: str, running: Running, printed: Printed, seconds: float, line: Callable[[str], None]
) -> str:
    clock = context.ports.clock
    deadline = clock.monotonic() + seconds
    last: deque[str] = deque(maxlen=KEPT_LINES)
    ended: Ended | None = None
    drained = False
    while (ended is None or not drained) and (now := clock.monotonic()) <= deadline:
        try:
            # Wait briefly, so that an interrupt reaches this thread at once.
            text = printed.get(timeout=_POLL)
        except queue.Empty:
            if ended is None and (ended := running.ended()) is not None:
                deadline = now + _DRAIN_SECONDS  # a reader that lost its connection to the engine never ends
            continue
        if text is None:
            drained = True
        else:
            last.append(text)
            line(text)
    tail = "\n".join(last)
    if ended is None:
        raise CommandFailed(f"{name} did not end within {seconds:.0f} s", why="it was stopped", detail=tail)
    if ended.code != 0 or ended.out_of_memory:
        why = "memory ran out" if ended.out_of_memory else ended.error or (last[-1] if last else "it printed nothing")
        raise CommandFailed(f"{name} ended with {ended.code}", why=why, detail=tail)
    return tail


def _read(running: Running, printed: Printed, over: threading.Event) -> None:
    with suppress(FlagreleaseError):  # `ended`, called by the other thread, raises it too
        for text in running.lines():
            printed.put(text)
            if over.is_set():
                break
    printed.put(None)
