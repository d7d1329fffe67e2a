"""How often a release's operators run while its stack answers, by what the engine's processes tell of themselves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flagrelease.container_inside import Inside, Wrong
from flagrelease.context import Context
from flagrelease.errors import FlagreleaseError
from flagrelease.job import Job
from flagrelease.servers import Serve
from flagrelease.serving import Served, ServeRequest, layout_of

__all__ = ["TOLD_WITHIN_S", "Counting", "effective", "told"]

TOLD_WITHIN_S = 1.0
"""By then a process has told what happened in it (twice what flagkernels' process_file.py has)."""


def effective(at: Inside) -> Mapping[str, Any]:
    """All processes together: Effective of flagkernels.engine.activate.

    Raises Wrong where nothing is in effect, or cannot be read."""
    place = layout_of(at.image, at.context.workspace).effective
    return told(at.execute("python3", "-W", "ignore", "-m", "flagkernels", "activate", "--effective", place))


def told(printed: str) -> Mapping[str, Any]:
    """The JSON object in what a program printed: a vendor's libraries may have said something around it."""
    try:
        found: Mapping[str, Any] = json.loads(printed[printed.index("{\n") : printed.rindex("}") + 1])
    except ValueError:
        raise Wrong(f"what is in effect cannot be read: {printed.strip()[-200:]}") from None
    return found


class Counting:
    """A `Serve` that adds up in `called`, by operator, how often the release's operators were called between the start
    and the end of its blocks; None where nothing was told. What was captured in a graph is replayed without a call.

    A release whose evaluation called none has compared the vendor's kernels with themselves."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self.called: Counter[str] | None = None

    @contextmanager
    def __call__(self, job: Job, context: Context, request: ServeRequest) -> Iterator[Served]:
        counted = request.stack == "flagos" and context.upstream.get("kernels") is not None
        with self._serve(job, context, request) as server:
            at = Inside(cell=job.cell, context=context, server=server, image=request.image, weights=request.weights)
            before = _calls(at) if counted else None
            yield server
            if before is not None:
                context.ports.clock.sleep(TOLD_WITHIN_S)
                after = _calls(at)
                if after is not None:
                    self.called = (self.called or Counter()) + (Counter(after) - Counter(before))


def _calls(at: Inside) -> Mapping[str, int] | None:
    """None, with a note, where it cannot be told: the answers are worth no less."""
    try:
        with at.context.meter.waiting():
            calls: Mapping[str, int] = effective(at)["called"]
    except (Wrong, FlagreleaseError, KeyError) as error:
        at.context.progress.note(f"how often operators ran cannot be told: {error}")
        return None
    return calls
