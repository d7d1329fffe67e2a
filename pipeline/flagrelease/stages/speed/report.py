"""Report a measurement: the result of the stage, and the evidence of every request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import msgspec

from flagrelease.config.matrix import Stack, Traffic
from flagrelease.contract import speed_results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.stages.speed.inputs import BASELINE
from flagrelease.stages.speed.load import Load, LoadPoint, figures
from flagrelease.stages.speed.other_work import mean
from flagrelease.stages.speed.pairs import Pair, Starts
from flagrelease.stages.speed.points import load_points, too_long
from flagrelease.store.evidence import Evidence
from flagrelease.verdict.speed import SpeedVerdict, speed_so_far
from flagrelease.verdict.types import worst_verdict

COLOCATED = "both servers running, each pair of runs on one and then on the other, which is first by lot"
SEPARATE = "one server at a time, which is first by lot"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured and judged."""

    tool: str
    """The load generator."""
    starts: Starts
    judged: Mapping[LoadPoint, SpeedVerdict]
    seed: str
    """Decides which stack was first."""


def report(job: Job, context: Context, measured: Measured) -> speed_results.Speed:
    """The stage's result. Stores the evidence."""
    loads, pairs = load_points(job), {point: measured.starts.at(point) for point in measured.judged}
    other = mean(pair.other for at in pairs.values() for _start, pair in at)
    verdict = worst_verdict(result.verdict for result in measured.judged.values())
    return speed_results.Speed(
        verdict=verdict.value,
        reason=_reason(measured.judged, other),
        points=tuple(point_figures(point, loads[point], pairs[point], measured.judged[point]) for point in loads),
        baseline_name=f"{BASELINE} on {job.cell.chip_name}",
        tool=measured.tool,
        turns=COLOCATED if job.cell.holds_both else SEPARATE,
        left_out=too_long(job),
        evidence=(_evidence(context, job.cell.stack, pairs),),
        seed=measured.seed,
        other_work=other,
    )


def _reason(judged: Mapping[LoadPoint, SpeedVerdict], other: speed_results.OtherWork | None) -> str:
    verdict = worst_verdict(result.verdict for result in judged.values())
    decisive = [(point, result) for point, result in judged.items() if result.verdict is verdict]
    worst, slowest = min(decisive, key=lambda item: item[1].interval[0])
    if verdict == "PASS":
        return f"{worst}: {slowest.reason}"
    reason = f"{worst}, {slowest.runs} pairs in {slowest.starts} starts: {slowest.reason}"
    if verdict == "INCONCLUSIVE" and other is not None and other.text:
        reason += f"; {other.text}"
    return f"{reason} (and {len(decisive) - 1} more load points)" if len(decisive) > 1 else reason


def judge(pairs: Sequence[tuple[int, Pair]], traffic: Traffic) -> SpeedVerdict:
    """Judge what was measured at a load point: pairs with the number of their start. Raises ComparisonRefused."""
    return speed_so_far(
        [pair.baseline.output_tokens_per_s for _start, pair in pairs],
        [pair.candidate.output_tokens_per_s for _start, pair in pairs],
        starts=[start for start, _pair in pairs],
        gate=traffic.gate,
    )


def point_figures(
    point: LoadPoint, traffic: Traffic, pairs: Sequence[tuple[int, Pair]], judged: SpeedVerdict
) -> speed_results.SpeedPoint:
    """The result of a load point."""
    runs = [pair for _start, pair in pairs]
    baseline = figures([pair.baseline for pair in runs], traffic.slo)
    candidate = figures([pair.candidate for pair in runs], traffic.slo)
    return speed_results.SpeedPoint(
        input_tokens=point.input_tokens,
        output_tokens=point.output_tokens,
        concurrency=point.concurrency,
        rounds=len(runs),
        baseline=replace(baseline, cpu_s=_sum(pair.baseline_cpu_s for pair in runs)),
        candidate=replace(candidate, cpu_s=_sum(pair.candidate_cpu_s for pair in runs)),
        ratio=judged.ratio,
        interval95=judged.interval,
        gate=judged.gate,
        ttft_slo=traffic.slo.ttft,
        tpot_slo=traffic.slo.tpot,
        verdict=judged.verdict.value,
        reason=judged.reason,
        starts=len({start for start, _pair in pairs}),
    )


def _sum(seconds: Iterable[float | None]) -> float | None:
    values = list(seconds)
    known = [value for value in values if value is not None]
    return round(sum(known), 3) if len(known) == len(values) else None


def _evidence(context: Context, stack: Stack, pairs: Mapping[LoadPoint, Iterable[tuple[int, Pair]]]) -> Evidence:
    """Write one line per request: load point, start, pair, stack, and measurements."""
    lines = []
    for point, at in pairs.items():
        for number, (start, pair) in enumerate(at):
            sides: tuple[tuple[Stack, Load, float | None, bool], ...] = (
                (BASELINE, pair.baseline, pair.baseline_cpu_s, pair.baseline_first),
                (stack, pair.candidate, pair.candidate_cpu_s, not pair.baseline_first),
            )
            for name, load, cpu_s, first in sides:
                where = {"load": asdict(point), "round": number, "start": start, "stack": name, "first": first}
                run = {"run_s": load.seconds, "run_cpu_s": cpu_s, "other_work": pair.other}
                lines += [msgspec.json.encode({**where, **run, **asdict(request)}) for request in load.requests]
    return context.evidence.put("speed/requests.jsonl", b"\n".join(lines) + b"\n")
