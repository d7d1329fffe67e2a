"""The result of the speed stage. stages/speed/load.py defines each figure."""

from __future__ import annotations

from dataclasses import dataclass

from flagrelease.contract.handles import VerdictName
from flagrelease.store.evidence import Evidence

_MUCH = 0.25
_MUCH_STOLEN = 0.10
"""Shares of a machine's cores above which other work is worth a remark."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The distribution of a latency."""

    median: float
    """Seconds."""
    p99: float
    """The 99th percentile in seconds."""


@dataclass(frozen=True, kw_only=True)
class LoadFigures:
    """One stack at one load point, over all rounds."""

    requests: int
    """Requests that were sent."""
    failed: int
    """Requests that failed."""
    ttft_s: Spread
    """Time to first token."""
    tpot_s: Spread
    """Time per output token after the first."""
    itl_s: Spread
    """Inter-token latency."""
    e2e_s: Spread
    """Latency of the complete answer."""
    requests_per_s: float
    """Finished requests per second."""
    output_tokens_per_s: float
    """Output tokens of finished requests per second."""
    total_tokens_per_s: float
    """Input and output tokens of finished requests per second."""
    goodput_per_s: float
    """Finished requests per second that meet both service-level objectives."""
    cpu_s: float | None = None
    """Processor seconds that the server used for these requests; None if they were not measured."""


@dataclass(frozen=True, kw_only=True)
class OtherWork:
    """Processor time that the compared servers could not use, averaged over `seconds`."""

    seconds: float
    cores: int
    """Cores of the machine."""
    others: float
    """Cores used by other programs."""
    stolen: float
    """Cores withheld by the hypervisor (steal time)."""

    @property
    def text(self) -> str:
        """What takes a noticeable share of the machine, in words; empty if nothing does."""
        found = []
        if self.others > _MUCH * self.cores:
            found.append(f"other work takes {self.others:.1f} of {self.cores} cores")
        if self.stolen > _MUCH_STOLEN * self.cores:
            found.append(f"the hypervisor withholds {self.stolen:.1f} of {self.cores} cores")
        return " and ".join(found)


@dataclass(frozen=True, kw_only=True)
class SpeedPoint:
    """The comparison at one load point."""

    input_tokens: int
    """Tokens of each prompt."""
    output_tokens: int
    """Tokens of each answer."""
    concurrency: int
    """Requests at the same time."""
    rounds: int
    """Runs of each stack, in pairs."""
    baseline: LoadFigures
    """The native stack."""
    candidate: LoadFigures
    """The stack that is released."""
    ratio: float
    """candidate / baseline in output tokens per second."""
    interval95: tuple[float, float]
    """The 95 % confidence interval of the ratio."""
    gate: float
    """The ratio that is required."""
    ttft_slo: float
    """Goodput's limit for the time to first token, in seconds."""
    tpot_slo: float
    """Goodput's limit for the time per output token, in seconds."""
    verdict: VerdictName
    """The verdict on this load point."""
    reason: str
    """The reason for it."""
    starts: int = 0
    """Starts of both servers in which it was measured; 0 in results of versions that did not count them."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The comparison with the native stack on the same chip."""

    verdict: VerdictName
    """The worst verdict of all load points."""
    reason: str
    """The reason of the worst load point."""
    points: tuple[SpeedPoint, ...]
    """The load points that were measured."""
    baseline_name: str
    """The baseline's name on the card."""
    tool: str
    """The load generator."""
    turns: str
    """How the two stacks alternated, in words for the card."""
    left_out: tuple[str, ...] = ()
    """Loads of the profile that were not measured, each with its reason."""
    evidence: tuple[Evidence, ...] = ()
    """Files that prove the result."""
    seed: str = ""
    """Decides which stack was first in each pair."""
    other_work: OtherWork | None = None
    """What else the machine did during the measurement; None if it is unknown."""

    @property
    def summary(self) -> str:
        least, count = min(point.interval95[0] for point in self.points), len(self.points)
        return f"{self.verdict}: {least:.2f} of the native speed at least, {count} load point{'s' * (count != 1)}"
