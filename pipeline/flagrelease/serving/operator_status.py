"""Per-operator call counts, read from the status file that each engine process writes."""

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

__all__ = ["STATUS_LAG_S", "Counting", "effective", "parse_effective"]

STATUS_LAG_S = 1.0
"""Seconds until a process has written its status file (twice the interval in flagkernels' process_file.py)."""


def effective(container: Inside) -> Effective:
    """The operators in effect, over all engine processes. Raises CheckFailed if there are none or on bad output."""
    folder = layout_of(container.image, container.context.workspace).effective
    argv = ("python3", "-W", "ignore", "-m", "flagkernels", "activate", "--effective", folder)
    return parse_effective(container.execute(*argv))


def parse_effective(printed: str) -> Effective:
    """Parse the output of `flagkernels activate --effective`. Raises CheckFailed."""
    try:
        return decode_effective(printed)
    except EnvironmentFault as error:
        raise CheckFailed(
            f"cannot read which operators are in effect: {error.why}; output: {printed.strip()[-200:]}"
        ) from None


class Counting:
    """A `Serve` that counts the calls of the release's operators while its blocks run.

    An evaluation without a call has compared the vendor's kernels with themselves. Operators captured in a graph are
    replayed without being called, hence not counted.
    """

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self.called: Counter[str] | None = None
        """Calls by operator, summed over all blocks; None if no status could be read."""

    @contextmanager
    def __call__(self, job: Job, context: Context, request: ServeRequest) -> Iterator[Served]:
        counted = request.stack == "flagos" and context.optional(results.KERNELS) is not None
        with self._serve(job, context, request) as server:
            container = Inside(
                cell=job.cell, context=context, server=server, image=request.image, weights=request.weights
            )
            before = _calls(container) if counted else None
            yield server
            if before is not None:
                context.ports.clock.sleep(STATUS_LAG_S)
                after = _calls(container)
                if after is not None:
                    self.called = (self.called or Counter()) + (Counter(after) - Counter(before))


def _calls(container: Inside) -> Mapping[str, int] | None:
    """The call counts; None, with a note, if they cannot be read: the answers are valid all the same."""
    try:
        with container.context.meter.waiting():
            calls = effective(container).called
    except (CheckFailed, FlagreleaseError) as error:
        container.context.progress.note(f"operator call counts are unavailable: {error}")
        return None
    return calls
