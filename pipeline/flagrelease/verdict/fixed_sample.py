"""The fixed-sample design: all questions are asked and judged once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from flagrelease.errors import ComparisonRefused, did_you_mean
from flagrelease.verdict import rule, wording
from flagrelease.verdict.flips import flips
from flagrelease.verdict.lengths import length_ratio, truncation_excess
from flagrelease.verdict.sensitivity import above_chance, independent, silent_sides
from flagrelease.verdict.types import (
    ALPHA,
    POWER,
    BenchmarkEvidence,
    BenchmarkVerdict,
    Comparison,
    Ground,
    SubsetLoss,
)

if TYPE_CHECKING:
    from flagrelease.verdict.samples import Sample
    from flagrelease.verdict.stats.pairing import PairedBenchmark

__all__ = ["compare"]


def compare(
    baseline: Sequence[Sample],
    candidate: Sequence[Sample],
    *,
    margins: Mapping[str, float],
    chances: Mapping[str, float] | None = None,
    clusters: Mapping[str, Mapping[str, str]] | None = None,
    populations: Mapping[str, int] | None = None,
    alpha: float = ALPHA,
    levels: Mapping[str, float] | None = None,
    baseline_weight: float = 0.0,
) -> Comparison:
    """Judge the candidate's answers against the baseline's for each benchmark, paired by question (`rule.decide`).

    `margins` are the non-inferiority margins (fractions) by benchmark, `chances` the chance levels where they are
    above 0. `clusters` maps, by benchmark, question ids to the story they share; by default `Sample.cluster`.
    `populations` has the number of questions of the complete benchmark, if not all of them were asked. A failed answer
    counts as wrong in the score, and as the value that is less favourable to the verdict in each bound of the interval.
    The confidence level of the interval is 1 − 2α; a regression is significant at α after Holm over the benchmarks.
    `levels` has the level of PASS where it is not α, `baseline_weight` the weight of a kept baseline's standard error
    in its bound (`paired.kept_error`).

    Raises ComparisonRefused for no answers, different benchmarks, questions or prompts, missing or duplicate answers, a
    side with nothing but errors, and a margin that is missing or not in (0, 1].
    """
    # Imported here because numpy and scipy would slow down `--help`.
    from flagrelease.verdict.stats.paired import holm, interval, lower_bound, regression_p
    from flagrelease.verdict.stats.pairing import pair
    from flagrelease.verdict.stats.subsets import worse_subsets

    paired = pair(baseline, candidate, clusters=clusters or {})
    for name in paired:
        _check_margin(name, margins)
    p_values = {name: regression_p(benchmark.pairs.best) for name, benchmark in paired.items()}
    significant = holm(p_values, alpha=alpha)
    sides = [_by_benchmark(side) for side in (baseline, candidate)]
    judged = {}
    for name, benchmark in paired.items():
        before, after = (side[name] for side in sides)
        population = max((populations or {}).get(name, 0), benchmark.pairs.n)
        n = independent(before, complete=benchmark.pairs.n == population)
        excess = truncation_excess(before, after)
        shown, lowest = (
            max(
                lower_bound(benchmark.pairs.worst, margins[name], population, alpha=of, baseline_weight=weight)
                - excess,
                -1.0,
            )
            for of, weight in ((alpha, 0.0), ((levels or {}).get(name, alpha), baseline_weight))
        )
        evidence = BenchmarkEvidence(
            interval=(shown, interval(benchmark.pairs.best, alpha=alpha).high),
            floor=lowest,
            margin=margins[name],
            p_regression=p_values[name],
            significant=significant[name],
            above_chance=above_chance(benchmark.baseline.score, n, (chances or {}).get(name, 0.0)),
            silent=silent_sides(before, after),
            length=length_ratio(before, after),
            truncation_excess=excess,
        )
        judged[name] = _judge(name, benchmark, evidence, worse_subsets(before, after), alpha=alpha)
    return Comparison(verdict=rule.decide_cell(judged.values()), benchmarks=judged)


def _by_benchmark(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    named: dict[str, list[Sample]] = {}
    for sample in samples:
        named.setdefault(sample.benchmark, []).append(sample)
    return named


def _check_margin(name: str, margins: Mapping[str, float]) -> None:
    if name not in margins:
        raise ComparisonRefused(f"no margin for {name}", hint=did_you_mean(name, margins))
    if not 0 < margins[name] <= 1:
        raise ComparisonRefused(
            f"the margin of {name} is {margins[name]!r}",
            hint="a margin is a fraction in (0, 1]: 0.05 is 5 percentage points",
        )


def _judge(
    name: str, benchmark: PairedBenchmark, evidence: BenchmarkEvidence, losses: Sequence[SubsetLoss], *, alpha: float
) -> BenchmarkVerdict:
    from flagrelease.verdict.stats.paired import difference

    ruling = rule.decide(evidence)
    more = None
    if ruling.ground is Ground.UNDECIDED:
        half_width = (evidence.interval[1] - evidence.interval[0]) / 2
        more = _more_answers(benchmark.candidate.answers, half_width, evidence.margin, alpha)
    before, after = benchmark.pairs.baseline.mean.tolist(), benchmark.pairs.candidate.mean.tolist()
    gained, lost = flips(benchmark.questions, before, after)
    return BenchmarkVerdict(
        benchmark=name,
        n=benchmark.pairs.n,
        baseline=benchmark.baseline,
        candidate=benchmark.candidate,
        difference=difference(benchmark.pairs),
        interval90=evidence.interval,
        margin=evidence.margin,
        p_regression=evidence.p_regression,
        verdict=ruling.verdict,
        reason=wording.reason(ruling, evidence, more=more, how=_how(benchmark, more)),
        remarks=(
            *wording.remarks(ruling, evidence, baseline=benchmark.baseline, candidate=benchmark.candidate),
            *wording.worse_subsets(losses),
        ),
        gained=gained,
        lost=lost,
        more_answers=more,
        sensitive=ruling.sensitive,
        length=evidence.length,
    )


def _more_answers(answers: int, half_width: float, margin: float, alpha: float) -> int:
    """Further answers of each side until the lower bound is above −margin with 80 % power at no difference.

    The half width shrinks as 1/√answers; the power requires a margin of z_{1−α} + z_{power} standard errors.
    """
    from statistics import NormalDist

    normal = NormalDist()
    z = normal.inv_cdf(1 - alpha)
    needed = answers * (half_width * (1 + normal.inv_cdf(POWER) / z) / margin) ** 2
    return max(math.ceil(needed) - answers, 1)


def _how(benchmark: PairedBenchmark, more: int | None) -> str:
    if more is None:
        return ""
    n = benchmark.pairs.n
    repeats = round(benchmark.candidate.repeats) + math.ceil(more / n)
    return (
        f" with {100 * POWER:g} % power if there is no loss ({repeats} repeats of the {n} questions, "
        "or as many new questions)"
    )
