"""Define the load generator protocol and its metrics.

TTFT  request sent until its first event that carries a token
E2E   request sent until its last event that carries a token or a finish reason
TPOT  (E2E − TTFT) / (output tokens − 1)
ITL   time between two successive events of one request that carry tokens; pooled over the requests of a run
request, output and total throughput
      finished requests, their output tokens, their input and output tokens, per second of the run:
      from the first request sent until the last one ended
goodput
      finished requests that meet both limits of an SLO (TTFT and TPOT), per second of the run
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, geometric_mean, median
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from flagrelease.config.matrix import Slo
from flagrelease.contract.speed_results import LoadFigures, Spread
from flagrelease.errors import SmokeFailed

if TYPE_CHECKING:
    from flagrelease.ports.command import Command

__all__ = [
    "Load",
    "LoadGenerator",
    "LoadPoint",
    "LoadTool",
    "Request",
    "SlowStarter",
    "Target",
    "figures",
    "is_token_count",
    "reported_load",
    "reported_request",
    "spread",
]

_CLOCK_S = 0.001
"""How much later a tool may note the first token than the last one of the same event."""
_MOST = 10**9
"""More seconds than any run takes, and more tokens than any context window has."""


@dataclass(frozen=True, kw_only=True)
class LoadPoint:
    """`requests` prompts of `input_tokens` random tokens, answered with `output_tokens`, `concurrency` at a time."""

    input_tokens: int
    output_tokens: int
    concurrency: int
    requests: int

    def __str__(self) -> str:
        return f"{self.input_tokens:,} in, {self.output_tokens:,} out, {self.concurrency} concurrent"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request of a run; times in seconds."""

    start_s: float
    """Since the start of the run."""
    ttft_s: float
    """0 for a failed request."""
    e2e_s: float
    """0 for a failed request."""
    input_tokens: int
    output_tokens: int
    error: str = ""
    """Why the request failed."""

    @property
    def tpot_s(self) -> float | None:
        """None for failed requests and for those without a second token."""
        if self.error or self.output_tokens < 2:
            return None
        return (self.e2e_s - self.ttft_s) / (self.output_tokens - 1)

    def meets(self, slo: Slo) -> bool:
        """Whether the request finished within both limits."""
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
    """Measures one server under load. `name` is the tool's name in the record."""

    @property
    def name(self) -> str: ...

    def measure(self, points: Sequence[LoadPoint], seed: int) -> list[Load]:
        """Measure one run at each point, failed requests included; `seed` determines the prompts.

        Raises SmokeFailed if the tool measured nothing.
        """
        ...


@runtime_checkable
class SlowStarter(LoadGenerator, Protocol):
    """A load generator that starts slowly, so should get many points per call. It warms up before each run, outside the
    result."""

    def in_turns(self, other: Self, points: Sequence[LoadPoint], seed: int) -> list[tuple[Load, Load]]:
        """Measure this server and the other one back to back at each point, in alternating order. The tool runs next
        to this server and has to reach the other one.

        Raises SmokeFailed if the tool measured nothing.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Target:
    """Addresses of a server under load, on this host and inside its container."""

    base_url: str
    """Ends in /v1."""
    model: str
    tokenizer: Path
    """The folder of the weights on this host."""
    port_inside: int
    folder_inside: str
    execute: Callable[..., tuple[int, str]]
    """Runs a program in the container; returns its exit code and output."""
    command: Command
    """Runs a program on this host."""


@dataclass(frozen=True, kw_only=True)
class LoadTool:
    """A load generator and its requirements."""

    make: Callable[[Target, Mapping[str, str]], LoadGenerator]
    """Creates the generator for a server, given the environment."""
    lacking: Callable[[Mapping[str, str]], tuple[str, str] | None] = lambda _env: None
    """The requirement that this machine lacks, with a hint, given the environment; None if there is none."""
    engine: str = ""
    """The only engine whose images contain the tool, if it runs inside the container."""


def reported_request(*, start: Any, ttft: Any, e2e: Any, before: Any, after: Any, error: str) -> Request:
    """A request as a tool reports it. Raises ValueError for values that cannot have been measured; those of a failed
    request are not used."""
    start_s = round(_seconds("a start", start), 6)
    if error:
        sent = before if type(before) is int else 0
        return Request(start_s=start_s, ttft_s=0.0, e2e_s=0.0, input_tokens=sent, output_tokens=0, error=error)
    ttft_s, e2e_s = _seconds("a time to first token", ttft), _seconds("a latency", e2e)
    if ttft_s > e2e_s + _CLOCK_S:
        raise ValueError(f"a latency of {e2e_s} s is shorter than its time to first token of {ttft_s} s")
    return Request(
        start_s=start_s,
        ttft_s=round(min(ttft_s, e2e_s), 6),
        e2e_s=round(e2e_s, 6),
        input_tokens=_tokens("input", before),
        output_tokens=_tokens("output", after),
    )


def reported_load(requests: Iterable[Request], *, seconds: Any, gaps: Iterable[Any]) -> Load:
    """A run as a tool reports it, `gaps` being the inter-token latencies of its finished requests.

    Raises ValueError for values that cannot have been measured, SmokeFailed if no finished request has a second token.
    """
    run = tuple(requests)
    duration = _seconds("the duration", seconds)
    if duration == 0:
        raise ValueError("the duration is 0 s")
    latencies = [_seconds("an inter-token latency", gap) for gap in gaps]
    # A run in which all requests failed is returned with their reasons, which its reader reports.
    failed = run and all(request.error for request in run)
    return Load(requests=run, seconds=duration, itl_s=Spread(median=0.0, p99=0.0) if failed else spread(latencies))


def is_token_count(value: Any) -> bool:
    """Whether a value that a server or tool reports can be the number of tokens of a prompt or an answer."""
    return type(value) is int and 0 < value <= _MOST


def _seconds(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= _MOST:
        raise ValueError(f"{name} is {str(value)[:40]}, not a number of seconds")
    return float(value)


def _tokens(name: str, value: Any) -> int:
    if not is_token_count(value):
        raise ValueError(f"a number of {name} tokens is {str(value)[:40]}")
    return int(value)


def spread(values: Iterable[float]) -> Spread:
    """Median and 99th percentile (nearest rank) of `values`. Raises SmokeFailed for an empty sequence."""
    ordered = sorted(values)
    if not ordered:
        raise SmokeFailed(
            "a run under load has no measurements", why="no request had a second token", hint="see the server's log"
        )
    return Spread(median=median(ordered), p99=ordered[max(0, math.ceil(0.99 * len(ordered)) - 1)])


def figures(runs: Sequence[Load], slo: Slo) -> LoadFigures:
    """Aggregate the runs of one stack at one load point.

    Latencies are pooled over requests. Rates are geometric means over runs, so that the quotient of two stacks' rates
    is the ratio that the gate tests. Goodput is the arithmetic mean, since it may be 0.
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
            sum(request.input_tokens + request.output_tokens for request in run.finished) / run.seconds for run in runs
        ),
        goodput_per_s=fmean(sum(request.meets(slo) for request in run.requests) / run.seconds for run in runs),
    )
