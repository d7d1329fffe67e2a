"""Time work on a chip with device events, CUDA graphs and pairs, and compute the interval of a paired ratio."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Clock", "Ratio", "paired", "ratio"]


@dataclass(frozen=True)
class Ratio:
    """The median of paired ratios with a distribution-free 95 % interval."""

    median: float
    low: float
    high: float
    pairs: int
    """Number of pairs."""

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def ratio(native: Sequence[float], other: Sequence[float]) -> Ratio:
    """native / other: above one, the other is faster.

    The samples are pairs taken right after one another, so that slow phases of the machine affect both. The interval is
    between order statistics of the ratios (sign test; Conover, Practical Nonparametric Statistics, 3rd ed., §3.2); with
    fewer than six pairs it spans all of them."""
    ratios = sorted(n / o for n, o in zip(native, other, strict=True))
    count = len(ratios)
    rank = 0
    while rank < count // 2 and 2 * sum(math.comb(count, k) for k in range(rank + 1)) <= 0.05 * 2**count:
        rank += 1
    rank = max(rank - 1, 0)
    return Ratio(statistics.median(ratios), ratios[rank], ratios[count - 1 - rank], count)


class Clock:
    """Times work on one device: with device events, or with the host's clock on the CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.module: Any = None if device.type == "cpu" else torch.get_device_module(device)
        self.name = "cpu" if self.module is None else str(self.module.get_device_name(device))

    def sync(self) -> None:
        if self.module is not None:
            self.module.synchronize()

    def once(self, run: Callable[[], Any]) -> float:
        """Seconds of one run."""
        if self.module is None:
            began = time.perf_counter()
            run()
            return time.perf_counter() - began
        start, end = self.module.Event(enable_timing=True), self.module.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def times(self, run: Callable[[], Any], count: int, warm: int = 3) -> list[float]:
        """Seconds of each of `count` runs, after `warm` untimed ones."""
        for _ in range(warm):
            run()
        self.sync()
        return [self.once(run) for _ in range(count)]

    def in_a_row(self, run: Callable[[], Any], count: int, *, host_s: float) -> float:
        """Mean seconds of `count` consecutive runs, before each of which the host is busy for `host_s` seconds. On the
        CPU, which has no asynchronous device, seconds of a single run."""
        self.sync()
        if self.module is None:
            return self.once(run)
        began = time.perf_counter()
        for _ in range(count):
            until = time.perf_counter() + host_s
            while time.perf_counter() < until:  # sleep is too coarse
                pass
            run()
        self.sync()
        return (time.perf_counter() - began) / count

    def graph(self, run: Callable[[], Any], warm: int = 2) -> Callable[[], Any]:
        """Capture the run in a graph and return its replay; the run itself if the device has no graphs.

        Raises what `run` raises; RuntimeError if it cannot be captured because it synchronises."""
        if self.module is None or not hasattr(self.module, "CUDAGraph"):
            return run
        stream = self.module.Stream()
        stream.wait_stream(self.module.current_stream())
        with self.module.stream(stream):
            for _ in range(warm):
                run()
        self.module.current_stream().wait_stream(stream)
        self.sync()
        captured = self.module.CUDAGraph()
        with self.module.graph(captured):
            run()
        self.sync()
        return captured.replay  # type: ignore[no-any-return]


def paired(
    clock: Clock, native: Callable[[], Any], other: Callable[[], Any], *, pairs: int
) -> tuple[list[float], list[float]]:
    """Time `pairs` runs of each, in the order AB BA AB …, so that drift favours neither."""
    for run in (native, other):
        clock.times(run, 1)
    first: list[float] = []
    second: list[float] = []
    for index in range(pairs):
        for run, times in ((native, first), (other, second)) if index % 2 == 0 else ((other, second), (native, first)):
            times.append(clock.once(run))
    return first, second
