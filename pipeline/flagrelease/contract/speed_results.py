"""The result of the speed stage. stages/speed/load.py defines each figure."""

from __future__ import annotations

from dataclasses import dataclass

from flagrelease.contract.handles import VerdictName
from flagrelease.store.evidence import Evidence


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
    """Runs of each stack."""
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

    @property
    def summary(self) -> str:
        least, count = min(point.interval95[0] for point in self.points), len(self.points)
        return f"{self.verdict}: {least:.2f} of the native speed at least, {count} load point{'s' * (count != 1)}"
