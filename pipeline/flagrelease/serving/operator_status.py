"""How often a release's operators run while its stack answers, by what the engine's processes tell of themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from flagrelease.contract import results
from flagrelease.contract.context import Context
from flagrelease.contract.flagkernels_files import Effective, decode_effective
from flagrelease.contract.job import Job
from flagrelease.errors import EnvironmentFault, FlagreleaseError
from flagrelease.serving.inside import CheckFailed, Inside
from flagrelease.serving.server import Served, ServeRequest, layout_of
from flagrelease.serving.servers import Serve

__all__ = ["STATUS_LAG_S", "Counting", "effective", "told"]

STATUS_LAG_S = 1.0
"""By then a process has told what happened in it (twice what flagkernels' process_file.py has)."""


def effective(at: Inside) -> Effective:
    """All processes together. Raises CheckFailed where nothing is in effect, or cannot be read."""
    place = layout_of(at.image, at.context.workspace).effective
    return told(at.execute("python3", "-W", "ignore", "-m", "flagkernels", "activate", "--effective", place))


def told(printed: str) -> Effective:
    """What a program printed of what is in effect. Raises CheckFailed where that cannot be read."""
    try:
        return decode_effective(printed)
    except EnvironmentFault as error:
        raise CheckFailed(
            f"what is in effect cannot be read: {error.why}; printed was: {printed.strip()[-200:]}"
        ) from None


class Counting:
    """A `Serve` that adds up in `called`, by operator, how often the release's operators were called between the start
    and the end of its blocks; None where nothing was told. What was captured in a graph is replayed without a call.

    A release whose evaluation called none has compared the vendor's kernels with themselves."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self.called: Counter[str] | None = None

    @contextmanager
    def __call__(self, job: Job, context: Context, request: ServeRequest) -> Iterator[Served]:
        counted = request.stack == "flagos" and context.optional(results.KERNELS) is not None
        with self._serve(job, context, request) as server:
            at = Inside(cell=job.cell, context=context, server=server, image=request.image, weights=request.weights)
            before = _calls(at) if counted else None
            yield server
            if before is not None:
                context.ports.clock.sleep(STATUS_LAG_S)
                after = _calls(at)
                if after is not None:
                    self.called = (self.called or Counter()) + (Counter(after) - Counter(before))


def _calls(at: Inside) -> Mapping[str, int] | None:
    """None, with a note, where it cannot be told: the answers are worth no less."""
    try:
        with at.context.meter.waiting():
            calls = effective(at).called
    except (CheckFailed, FlagreleaseError) as error:
        at.context.progress.note(f"how often operators ran cannot be told: {error}")
        return None
    return calls
