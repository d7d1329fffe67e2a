"""The fixed-sample design: all questions are asked, and judged once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from flagrelease.errors import ComparisonRefused, did_you_mean
from flagrelease.verdict import rule, wording
from flagrelease.verdict.flips import flips
from flagrelease.verdict.guessing import agreement, differing, guessing
from flagrelease.verdict.types import (
    ALPHA,
    POWER,
    Agreement,
    BenchmarkEvidence,
    BenchmarkVerdict,
    Comparison,
    Ground,
    worst_verdict,
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
    alpha: float = ALPHA,
) -> Comparison:
    """Judge the candidate's answers against the baseline's, benchmark by benchmark, paired by question.

    `margins` holds the tolerated loss of each benchmark, `chances` the score of guessing where there is one.
    `clusters` maps, for a benchmark, question ids to the story they share; without it `Sample.cluster` is used. The
    interval has 1 − 2α, a regression is significant at α after Holm over the benchmarks, and `rule.decide` decides.

    Raises ComparisonRefused for what must not be compared: no answers, other benchmarks, questions or prompts,
    missing or doubled answers, a side on which everything failed, a margin that is missing or not in (0, 1].
    """
    # numpy and scipy: not when this module is imported, since `--help` has to answer at once.
    from flagrelease.verdict.stats.paired import holm, regression_p
    from flagrelease.verdict.stats.pairing import pair

    paired = pair(baseline, candidate, clusters=clusters or {})
    for name in paired:
        _check_margin(name, margins)
    p_values = {name: regression_p(one.pairs) for name, one in paired.items()}
    significant = holm(p_values, alpha=alpha)
    judged = {}
    for name, one in paired.items():
        agreed = None
        if guessing(one.baseline.score, one.pairs.n, (chances or {}).get(name, 0.0)):
            before, after = ([each for each in side if each.benchmark == name] for side in (baseline, candidate))
            agreed = agreement(differing=differing(before, after), answers=len(after), alpha=alpha)
        judged[name] = _judge(
            name, one, margins[name], p_values[name], significant=significant[name], agreed=agreed, alpha=alpha
        )
    return Comparison(verdict=worst_verdict(one.verdict for one in judged.values()), benchmarks=judged)


def _check_margin(name: str, margins: Mapping[str, float]) -> None:
    if name not in margins:
        raise ComparisonRefused(f"no margin for {name}", hint=did_you_mean(name, margins))
    if not 0 < margins[name] <= 1:
        raise ComparisonRefused(
            f"the margin of {name} is {margins[name]!r}", hint="a margin is a fraction in (0, 1]: 0.05 is five points"
        )


def _judge(
    name: str,
    one: PairedBenchmark,
    margin: float,
    p_value: float,
    *,
    significant: bool,
    agreed: Agreement | None,
    alpha: float,
) -> BenchmarkVerdict:
    from flagrelease.verdict.stats.paired import difference, interval

    bounds = interval(one.pairs, alpha=alpha)
    evidence = BenchmarkEvidence(
        interval=(bounds.low, bounds.high),
        margin=margin,
        p_regression=p_value,
        significant=significant,
        agreement=agreed,
    )
    ruling = rule.decide(evidence)
    more = None
    if ruling.ground is Ground.UNDECIDED:
        more = _more_answers(one.candidate.answers, bounds.half_width, margin, alpha)
    gained, lost = flips(one.questions, one.pairs.baseline.mean.tolist(), one.pairs.candidate.mean.tolist())
    return BenchmarkVerdict(
        benchmark=name,
        n=one.pairs.n,
        baseline=one.baseline,
        candidate=one.candidate,
        difference=difference(one.pairs),
        interval90=evidence.interval,
        margin=margin,
        p_regression=p_value,
        verdict=ruling.verdict,
        reason=wording.reason(ruling, evidence, more=more, how=_how(one, more)),
        remarks=wording.remarks(ruling, evidence, baseline=one.baseline, candidate=one.candidate),
        gained=gained,
        lost=lost,
        more_answers=more,
    )


def _more_answers(answers: int, half_width: float, margin: float, alpha: float) -> int:
    """Answers that one side still lacks for the lower bound to clear −margin with 80 % power at no difference.

    The half width shrinks as 1/√answers; the power asks for z_{1−α} + z_{power} standard errors in a margin.
    """
    from statistics import NormalDist

    normal = NormalDist()
    z = normal.inv_cdf(1 - alpha)
    needed = answers * (half_width * (1 + normal.inv_cdf(POWER) / z) / margin) ** 2
    return max(math.ceil(needed) - answers, 1)


def _how(one: PairedBenchmark, more: int | None) -> str:
    if more is None:
        return ""
    n, repeats = one.pairs.n, round(one.candidate.repeats) + math.ceil(more / one.pairs.n)
    return (
        f" with {100 * POWER:g} % power if there is no loss ({repeats} repeats of the {n} questions, "
        "or as many new questions)"
    )
