"""Time kernels with exclusive use of the chip and a flushed cache: one launch to screen, graph replays to decide."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from flagkernels.operators.backend import TimingEvent

__all__ = ["ChipTimer", "Timer"]

FLUSH_BYTES = 256 << 20  # as in triton.testing; used if the chip does not report its cache size
INFINITE = (math.inf, math.inf, math.inf)

Launcher = Callable[[], object]


class Timer(Protocol):
    """Measures milliseconds on the chip; infinity for a launcher that cannot run on this chip."""

    def screen(self, launchers: Sequence[Launcher], *, fresh: Sequence[bool]) -> list[float]:
        """Time one launch of each. `fresh` ones are launched once before, as the first launch loads the binary."""
        ...

    def replay(self, launchers: Sequence[Launcher], rounds: int) -> list[list[float]]:
        """Time `rounds` launches of each, in turns, so that clock drift favours none."""
        ...

    def alive(self) -> bool:
        """False once the device context is lost, for instance after an illegal access."""
        ...


def quantiles(times: Sequence[float]) -> tuple[float, float, float]:
    """(p50, p20, p80), the order of FlagGems' benchmark table."""
    if len(times) < 2:
        return (times[0],) * 3 if times else INFINITE
    fifths = statistics.quantiles(times, n=5, method="inclusive")
    return (statistics.median(times), fifths[0], fifths[3])


class ChipTimer:
    """Times with `torch.cuda`, or another vendor's module with the same interface (torch.musa, torch.npu …)."""

    def __init__(self, module: Any, device: str) -> None:
        import torch

        self.module = module
        cache = getattr(module.get_device_properties(device), "L2_cache_size", 0) if _has_properties(module) else 0
        self.buffer = torch.empty(5 * cache or FLUSH_BYTES, dtype=torch.int8, device=device)
        self.graphs = hasattr(module, "CUDAGraph")

    def screen(self, launchers: Sequence[Launcher], *, fresh: Sequence[bool]) -> list[float]:
        pairs: list[tuple[TimingEvent, TimingEvent] | None] = []
        for launcher, first in zip(launchers, fresh, strict=True):
            try:
                if first:
                    launcher()
                pairs.append(self._timed(launcher))
            except Exception as error:
                if not cannot_run(error):
                    raise
                pairs.append(None)
        self.module.synchronize()
        return [math.inf if pair is None else float(pair[0].elapsed_time(pair[1])) for pair in pairs]

    def replay(self, launchers: Sequence[Launcher], rounds: int) -> list[list[float]]:
        captured = [self._captured(launcher) for launcher in launchers]
        pairs: list[list[tuple[TimingEvent, TimingEvent]]] = [[] for _ in captured]
        for _ in range(rounds):
            for launcher, into in zip(captured, pairs, strict=True):
                into.append(self._timed(launcher))
        self.module.synchronize()
        return [[float(start.elapsed_time(end)) for start, end in into] for into in pairs]

    def alive(self) -> bool:
        try:
            self.module.synchronize()
        except Exception:
            return False
        return True

    def _timed(self, launcher: Launcher) -> tuple[TimingEvent, TimingEvent]:
        start, end = (self.module.Event(enable_timing=True) for _ in range(2))
        # The flush also keeps the chip busy while Python prepares the launch, so no idle gap is timed.
        self.buffer.zero_()
        self.buffer.zero_()
        start.record()
        launcher()
        end.record()
        return start, end

    def _captured(self, launcher: Launcher) -> Launcher:
        if not self.graphs:
            return launcher
        graph, stream = self.module.CUDAGraph(), self.module.Stream()
        stream.wait_stream(self.module.current_stream())
        # Not `module.graph`, which collects garbage and empties the allocator before each of thousands of captures.
        with self.module.stream(stream):
            launcher()
            graph.capture_begin()
            try:
                launcher()
            finally:
                graph.capture_end()
        self.module.current_stream().wait_stream(stream)
        replay: Launcher = graph.replay
        return replay


def _has_properties(module: Any) -> bool:
    return hasattr(module, "get_device_properties")


def cannot_run(error: BaseException) -> bool:
    """True for Triton's errors about a candidate that does not fit this chip; others are faults of the process."""
    return type(error).__name__ in {"OutOfResources", "CompileTimeAssertionFailure", "PTXASError", "CompilationError"}
