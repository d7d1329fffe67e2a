"""Compute the speed ratios and figures of a release again from its measured requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from flagrelease.config.matrix import Traffic
from flagrelease.contract.speed_results import OtherWork, Speed, SpeedPoint, Spread
from flagrelease.errors import FlagreleaseError
from flagrelease.stages.card.record import Record
from flagrelease.stages.speed.inputs import BASELINE
from flagrelease.stages.speed.load import Load, LoadPoint, Request
from flagrelease.stages.speed.pairs import Pair
from flagrelease.stages.speed.report import judge, point_figures
from flagrelease.verdict.types import Verdict, worst_verdict
from flagrelease.verification.findings import Check, agrees, differs, not_checked
from flagrelease.verification.release import Release
from flagrelease.verification.values import differences

__all__ = ["checks"]

_CHECK = "speed"
_FILE = "speed/requests.jsonl"
_NOT_STORED = ("baseline.itl_s.median", "baseline.itl_s.p99", "candidate.itl_s.median", "candidate.itl_s.p99")


@dataclass(frozen=True, kw_only=True)
class _Line(Request):
    """One request in the evidence."""

    load: LoadPoint
    round: int
    start: int
    stack: str
    first: bool
    run_s: float
    run_cpu_s: float | None = None
    other_work: OtherWork | None = None


@dataclass(kw_only=True)
class _Run:
    """One stack's run of a pair."""

    start: int
    seconds: float
    cpu_s: float | None
    requests: list[Request] = field(default_factory=list)

    @property
    def load(self) -> Load:
        # Without inter-token latencies, which are not stored for each request.
        return Load(requests=tuple(self.requests), seconds=self.seconds, itl_s=Spread(median=0.0, p99=0.0))


_Runs = dict[tuple[int, str], _Run]
"""By the number of the pair, and the stack."""


def checks(release: Release) -> Iterator[Check]:
    """Compare each load point, then the verdict, with the record."""
    speed = release.record.speed
    if speed is None:
        return
    path = release.find("speed", _FILE)
    if path is None or not path.is_file():
        yield not_checked(_CHECK, "all load points", f"{_FILE} is not in the folder", decisive=True)
        return
    try:
        measured = _read(path.read_bytes())
    except ValueError as error:
        yield differs(_CHECK, path.name, f"cannot be read: {error}")
        return
    known = set()
    for point in speed.points:
        load = next((load for load in measured if _same(load, point)), None)
        known.add(load)
        yield from _point(release.record, point, load, measured[load] if load is not None else {})
    for load in measured:
        if load not in known:
            yield differs(_CHECK, str(load), "measured, and not in the record")
    yield from _verdict(speed)
    yield not_checked(_CHECK, "inter-token latency", "it is not stored for each request")


def _read(raw: bytes) -> dict[LoadPoint, _Runs]:
    """The runs of each load point. Raises ValueError."""
    decoder = msgspec.json.Decoder(_Line)
    points: dict[LoadPoint, _Runs] = {}
    for line in raw.splitlines():
        read = decoder.decode(line)
        run = points.setdefault(read.load, {}).setdefault(
            (read.round, read.stack), _Run(start=read.start, seconds=read.run_s, cpu_s=read.run_cpu_s)
        )
        if (run.start, run.seconds, run.cpu_s) != (read.start, read.run_s, read.run_cpu_s) or read.run_s <= 0:
            raise ValueError(f"requests of round {read.round} of {read.load} disagree about their run")
        run.requests.append(read)
    return points


def _same(load: LoadPoint, point: SpeedPoint) -> bool:
    return (load.input_tokens, load.output_tokens, load.concurrency) == (
        point.input_tokens,
        point.output_tokens,
        point.concurrency,
    )


def _point(record: Record, point: SpeedPoint, load: LoadPoint | None, runs: _Runs) -> Iterator[Check]:
    subject = f"{point.input_tokens:,} in, {point.output_tokens:,} out, {point.concurrency} at once"
    rounds = sorted({number for number, _ in runs})
    pairs = [(runs.get((number, BASELINE)), runs.get((number, record.stack))) for number in rounds]
    both = [(one, other) for one, other in pairs if one is not None and other is not None and one.start == other.start]
    traffic = _traffic(record, point)
    if traffic is None:
        yield differs(_CHECK, subject, "the profile in the record has no such load")
        return
    if load is None or not both or len(both) != len(rounds):
        yield differs(_CHECK, subject, f"{len(rounds) - len(both)} of {len(rounds)} rounds have not both stacks")
        return
    try:
        computed = _computed(load, traffic, both)
    except (FlagreleaseError, ArithmeticError, ValueError) as error:
        yield differs(_CHECK, subject, f"cannot be computed: {error}")
        return
    found = differences(point, computed, without=_NOT_STORED)
    yield from (differs(_CHECK, subject, text) for text in found)
    if not found:
        low, high = computed.interval95
        text = f"{computed.ratio:.2f} [{low:.2f}, {high:.2f}] of the native speed, {computed.verdict}"
        yield agrees(_CHECK, subject, f"computed again from {len(both)} pairs of runs: {text}")


def _computed(load: LoadPoint, traffic: Traffic, both: Sequence[tuple[_Run, _Run]]) -> SpeedPoint:
    """The load point as its requests give it."""
    pairs = [
        (
            one.start,
            Pair(baseline=one.load, candidate=other.load, baseline_cpu_s=one.cpu_s, candidate_cpu_s=other.cpu_s),
        )
        for one, other in both
    ]
    return point_figures(load, traffic, pairs, judge(pairs, traffic))


def _traffic(record: Record, point: SpeedPoint) -> Traffic | None:
    return next(
        (
            traffic
            for traffic in record.profile.speed
            if (traffic.input, traffic.output) == (point.input_tokens, point.output_tokens)
            and point.concurrency in traffic.concurrency
        ),
        None,
    )


def _verdict(speed: Speed) -> Iterator[Check]:
    verdict = worst_verdict(Verdict(point.verdict) for point in speed.points)
    decisive = [point.reason for point in speed.points if point.verdict == verdict.value]
    if verdict.value != speed.verdict:
        yield differs("verdict", "speed", f"verdict is {speed.verdict}, by the rule {verdict.value}")
    elif not any(reason in speed.reason for reason in decisive):
        yield differs("verdict", "speed", f"reason is {speed.reason!r}, which is that of no load point")
    else:
        yield agrees("verdict", "speed", f"{verdict.value}, the worst of {len(speed.points)} load points")
