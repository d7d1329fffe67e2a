"""Load on a served model: one small protocol, and what every number of it means.

TTFT  request sent until its first event that carries a token
E2E   request sent until its last event that carries a token or the reason why it ended
TPOT  (E2E − TTFT) / (output tokens − 1)
ITL   time between two successive events of one request that carry tokens; pooled over the requests of a run
request, output and total throughput
      finished requests, their output tokens, their input and output tokens, by the seconds of the run:
      from the first request sent until the last one ended
goodput
      finished requests that meet both limits of an SLO (TTFT and TPOT), by the seconds of the run
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, geometric_mean, median
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

from flagrelease.config.matrix import Slo
from flagrelease.contract.speed_results import LoadFigures, Spread
from flagrelease.errors import SmokeFailed

if TYPE_CHECKING:
    from flagrelease.ports.command import Command

__all__ = ["Load", "LoadGenerator", "LoadPoint", "LoadTool", "Request", "SlowStarter", "Target", "figures", "spread"]


@dataclass(frozen=True, kw_only=True)
class LoadPoint:
    """`requests` prompts of `input_tokens` random tokens, answered with `output_tokens`, `concurrency` at once."""

    input_tokens: int
    output_tokens: int
    concurrency: int
    requests: int

    def __str__(self) -> str:
        return f"{self.input_tokens:,} in, {self.output_tokens:,} out, {self.concurrency} at once"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request. Seconds; `start_s` counts from the start of the run. A failed one has an `error` and no times."""

    start_s: float
    ttft_s: float
    e2e_s: float
    input_tokens: int
    output_tokens: int
    error: str = ""

    @property
    def tpot_s(self) -> float | None:
        """Nothing where there was no second token."""
        if self.error or self.output_tokens < 2:
            return None
        return (self.e2e_s - self.ttft_s) / (self.output_tokens - 1)

    def meets(self, slo: Slo) -> bool:
        """Whether it finished within both limits."""
        tpot = self.tpot_s
        return not self.error and self.ttft_s <= slo.ttft and (tpot is None or tpot <= slo.tpot)


@dataclass(frozen=True, kw_only=True)
class Load:
    """One run at one load point."""

    requests: tuple[Request, ...]
    seconds: float
    itl_s: Spread

    @property
    def finished(self) -> tuple[Request, ...]:
        return tuple(request for request in self.requests if not request.error)

    @property
    def output_tokens_per_s(self) -> float:
        return sum(request.output_tokens for request in self.finished) / self.seconds


class LoadGenerator(Protocol):
    """Puts load on one server. `name` says with which tool, for the record."""

    @property
    def name(self) -> str: ...

    def measure(self, points: Sequence[LoadPoint], seed: int) -> list[Load]:
        """One run at each point; `seed` makes the prompts. Failed requests are in it, with their errors.

        Raises SmokeFailed where the tool measured nothing.
        """
        ...


@runtime_checkable
class SlowStarter(LoadGenerator, Protocol):
    """One that is better given many points at once, and begins each run with a warm-up of its own, left out of the
    result."""

    def in_turns(self, other: Self, points: Sequence[LoadPoint], seed: int) -> list[tuple[Load, Load]]:
        """Own run and the other's at each point, one right after the other; who is first alternates. The tool that
        runs beside this server has to reach the other one.

        Raises SmokeFailed where the tool measured nothing.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server that load is put on, as it is reached from this host and from inside its container."""

    base_url: str
    """Ends in /v1."""
    model: str
    tokenizer: Path
    """The folder of the weights on this host."""
    port_inside: int
    folder_inside: str
    execute: Callable[..., tuple[int, str]]
    """Runs a program in the container: its exit code and what it printed."""
    command: Command
    """Runs a program on this host."""


@dataclass(frozen=True, kw_only=True)
class LoadTool:
    """A load generator, and all in which it differs from the others."""

    make: Callable[[Target, Mapping[str, str]], LoadGenerator]
    """Makes it for a server, given the environment."""
    lacking: Callable[[Mapping[str, str]], tuple[str, str] | None] = lambda _env: None
    """What this machine lacks for it, given the environment, and what to do about it."""
    engine: str = ""
    """The only engine whose image has it, where it runs inside."""


def spread(values: Iterable[float]) -> Spread:
    """Median and 99th percentile (nearest rank) of what was measured. Raises SmokeFailed for nothing."""
    ordered = sorted(values)
    if not ordered:
        raise SmokeFailed(
            "a run under load measured nothing", why="no request had a second token", hint="see the server's log"
        )
    return Spread(median=median(ordered), p99=ordered[max(0, math.ceil(0.99 * len(ordered)) - 1)])


def figures(runs: Sequence[Load], slo: Slo) -> LoadFigures:
    """The runs of one stack at one load point, together.

    Latencies are pooled over requests; rates are geometric means over runs, so that the quotient of two stacks'
    rates is the ratio that the gate judges; goodput is the arithmetic mean, since it may be 0.
    """
    finished = [request for run in runs for request in run.finished]
    tpots = [tpot for request in finished if (tpot := request.tpot_s) is not None]
    return LoadFigures(
        requests=sum(len(run.requests) for run in runs),
        failed=sum(len(run.requests) - len(run.finished) for run in runs),
        ttft_s=spread(request.ttft_s for request in finished),
        tpot_s=spread(tpots),
        itl_s=Spread(median=median(run.itl_s.median for run in runs), p99=median(run.itl_s.p99 for run in runs)),
        e2e_s=spread(request.e2e_s for request in finished),
        requests_per_s=geometric_mean(len(run.finished) / run.seconds for run in runs),
        output_tokens_per_s=geometric_mean(run.output_tokens_per_s for run in runs),
        total_tokens_per_s=geometric_mean(
            sum(one.input_tokens + one.output_tokens for one in run.finished) / run.seconds for run in runs
        ),
        goodput_per_s=fmean(sum(one.meets(slo) for one in run.requests) / run.seconds for run in runs),
    )
