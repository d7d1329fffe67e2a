"""Verdicts: pure functions from evidence to PASS, FAIL or INCONCLUSIVE. Unknown is never a pass."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from flagrelease.errors import ComparisonRefused, did_you_mean

if TYPE_CHECKING:
    from flagrelease.verdict.samples import Sample
    from flagrelease.verdict.stats.pairing import PairedBenchmark, SideCount

__all__ = [
    "BenchmarkVerdict",
    "Comparison",
    "Course",
    "NoiseFloor",
    "SpeedVerdict",
    "Verdict",
    "agree",
    "compare",
    "guessed",
    "guessing",
    "halves",
    "noise_floor",
    "own_noise",
    "speed",
    "worst_verdict",
]

ALPHA = 0.05
POWER = 0.80


class Verdict(StrEnum):
    PASS = "PASS"  # noqa: S105
    INCONCLUSIVE = "INCONCLUSIVE"
    FAIL = "FAIL"


_BADNESS = (Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL)


def worst_verdict(verdicts: Iterable[Verdict]) -> Verdict:
    """FAIL before INCONCLUSIVE before PASS. Nothing judged is INCONCLUSIVE."""
    return max(verdicts, key=_BADNESS.index, default=Verdict.INCONCLUSIVE)


@dataclass(frozen=True, kw_only=True)
class Course:
    """How far a sequential evaluation went: `answers` of at most `planned` on each side, to look `look` of `looks`."""

    answers: int
    planned: int
    look: int
    looks: int
    why: str

    @property
    def early(self) -> bool:
        return self.answers < self.planned


@dataclass(frozen=True, kw_only=True)
class BenchmarkVerdict:
    """One benchmark, judged. Scores, difference (candidate − baseline), interval and margin are fractions.

    `gained` and `lost` name the questions (SUBSET/ID) whose majority answer changed. `more_answers` is what it
    would take on each side to decide an INCONCLUSIVE result with 80 % power if there is no difference. `course`
    is that of a sequential evaluation; without one, all questions were asked and judged once.
    """

    benchmark: str
    n: int
    baseline: SideCount
    candidate: SideCount
    difference: float
    interval90: tuple[float, float]
    margin: float
    p_regression: float
    verdict: Verdict
    reason: str
    remarks: tuple[str, ...] = ()
    gained: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    more_answers: int | None = None
    course: Course | None = None

    @property
    def repeats(self) -> float:
        return self.candidate.repeats

    @property
    def baseline_score(self) -> float:
        return self.baseline.score

    @property
    def candidate_score(self) -> float:
        return self.candidate.score


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All benchmarks of a cell, judged; the verdict is the worst of them."""

    verdict: Verdict
    benchmarks: Mapping[str, BenchmarkVerdict]

    @property
    def reason(self) -> str:
        decisive = [one for one in self.benchmarks.values() if one.verdict is self.verdict]
        return "; ".join(f"{one.benchmark}: {one.reason}" for one in decisive)


def compare(
    baseline: Sequence[Sample],
    candidate: Sequence[Sample],
    *,
    margins: Mapping[str, float],
    clusters: Mapping[str, Mapping[str, str]] | None = None,
    alpha: float = ALPHA,
) -> Comparison:
    """Judge the candidate's answers against the baseline's, benchmark by benchmark, paired by question.

    `margins` holds the tolerated loss of each benchmark. `clusters` maps, for a benchmark, question ids to the
    story they share; without it `Sample.cluster` is used. PASS: the lower bound of the 1 − 2α interval is above
    −margin. FAIL: a regression that is significant at α after Holm over the benchmarks and an interval below
    zero that is not inside the margin, or an interval wholly below −margin. Otherwise INCONCLUSIVE.

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
    judged = {
        name: _judge(name, one, margins[name], p_values[name], significant=significant[name], alpha=alpha)
        for name, one in paired.items()
    }
    return Comparison(verdict=worst_verdict(one.verdict for one in judged.values()), benchmarks=judged)


def _check_margin(name: str, margins: Mapping[str, float]) -> None:
    if name not in margins:
        raise ComparisonRefused(f"no margin for {name}", hint=did_you_mean(name, margins))
    if not 0 < margins[name] <= 1:
        raise ComparisonRefused(
            f"the margin of {name} is {margins[name]!r}", hint="a margin is a fraction in (0, 1]: 0.05 is five points"
        )


def _judge(
    name: str, one: PairedBenchmark, margin: float, p_value: float, *, significant: bool, alpha: float
) -> BenchmarkVerdict:
    from flagrelease.verdict.stats.paired import difference, interval

    d = difference(one.pairs)
    bounds = interval(one.pairs, alpha=alpha)
    answers = one.candidate.answers
    more = None
    if bounds.low > -margin:
        verdict, reason = Verdict.PASS, _pass_reason(bounds.high, margin)
    elif bounds.high < -margin:
        verdict, reason = Verdict.FAIL, f"the loss is larger than the margin of {_points(margin)}"
    elif significant and bounds.high < 0:
        verdict = Verdict.FAIL
        reason = f"a significant loss (p = {p_value:.2g}) that may be larger than the margin of {_points(margin)}"
    else:
        more = _more_answers(answers, bounds.half_width, margin, alpha)
        verdict, reason = Verdict.INCONCLUSIVE, _open_reason(one, bounds.low, margin, more)
    gained, lost = _flips(one)
    return BenchmarkVerdict(
        benchmark=name,
        n=one.pairs.n,
        baseline=one.baseline,
        candidate=one.candidate,
        difference=d,
        interval90=(bounds.low, bounds.high),
        margin=margin,
        p_regression=p_value,
        verdict=verdict,
        reason=reason,
        remarks=_remarks(one, bounds.low, bounds.high, margin, significant=significant),
        gained=gained,
        lost=lost,
        more_answers=more,
    )


def guessing(score: float, n: int, chance: float) -> bool:
    """Whether a score over `n` questions cannot be told from `chance`, the score of guessing (one-sided, 5 %)."""
    return chance > 0 and score <= chance + 1.645 * math.sqrt(chance * (1 - chance) / n)


def agree(*, differing: int, answers: int, margin: float, alpha: float = ALPHA) -> bool | None:
    """Whether two sides, of whose answers so many differ, differ in fewer than `margin`; None where that is open.

    By the one-sided 1 − α bounds of a share (Clopper and Pearson 1934).
    """
    from scipy.stats import beta

    if _most_differing(differing, answers, alpha) < margin:
        return True
    least = float(beta.ppf(alpha, differing, answers - differing + 1)) if differing else 0.0
    return False if least >= margin else None


def _most_differing(differing: int, answers: int, alpha: float) -> float:
    from scipy.stats import beta

    return float(beta.ppf(1 - alpha, differing + 1, answers - differing)) if differing < answers else 1.0


def guessed(judged: BenchmarkVerdict, *, differing: int, answers: int, alpha: float = ALPHA) -> BenchmarkVerdict:
    """The verdict where the baseline's score cannot be told from guessing: such a score has nothing to lose.

    Then the answers themselves decide, right or wrong. Two sides that differ in a share q of their answers cannot
    differ by more than q in their score, so PASS stays where the upper bound of q is below the margin (`agree`);
    else it is INCONCLUSIVE. A FAIL stays.
    """
    told = f"the baseline only guesses here, so its answers are compared: {differing} of {answers} differ"
    if judged.verdict is not Verdict.PASS:
        return replace(judged, remarks=(*judged.remarks, told))
    bound = _most_differing(differing, answers, alpha)
    if agree(differing=differing, answers=answers, margin=judged.margin, alpha=alpha):
        reason = f"{told}, at most {_points(bound)} ({100 * (1 - alpha):g} %), within ±{_points(judged.margin)}"
        return replace(judged, reason=reason)
    reason = f"{told}, perhaps {_points(bound)}: ask a benchmark that the model can do better than by guessing"
    return replace(judged, verdict=Verdict.INCONCLUSIVE, reason=reason)


def _points(fraction: float) -> str:
    return f"{100 * fraction:.3g} points"


def _pass_reason(high: float, margin: float) -> str:
    if high < margin:
        return f"equivalent: the difference is within ±{_points(margin)}"
    return f"not worse by {_points(margin)} or more"


def _more_answers(answers: int, half_width: float, margin: float, alpha: float) -> int:
    """Answers that one side still lacks for the lower bound to clear −margin with 80 % power at no difference.

    The half width shrinks as 1/√answers; the power asks for z_{1−α} + z_{power} standard errors in a margin.
    """
    from statistics import NormalDist

    normal = NormalDist()
    z = normal.inv_cdf(1 - alpha)
    needed = answers * (half_width * (1 + normal.inv_cdf(POWER) / z) / margin) ** 2
    return max(math.ceil(needed) - answers, 1)


def _open_reason(one: PairedBenchmark, low: float, margin: float, more: int) -> str:
    n, repeats = one.pairs.n, one.candidate.repeats
    total = round(repeats) + math.ceil(more / n)
    return (
        f"the loss may be as large as {_points(-low)}, beyond the margin of {_points(margin)}; "
        f"if there is none, {more} more answers on each side would decide it in four of five cases "
        f"({total} repeats of the {n} questions, or as many new questions)"
    )


def _flips(one: PairedBenchmark) -> tuple[tuple[str, ...], tuple[str, ...]]:
    before, after = one.pairs.baseline.mean >= 0.5, one.pairs.candidate.mean >= 0.5
    gained = tuple(one.questions[row] for row in (after & ~before).nonzero()[0])
    lost = tuple(one.questions[row] for row in (before & ~after).nonzero()[0])
    return gained, lost


def _remarks(one: PairedBenchmark, low: float, high: float, margin: float, *, significant: bool) -> tuple[str, ...]:
    remarks = []
    for side, count in (("baseline", one.baseline), ("candidate", one.candidate)):
        if count.errors:
            remarks.append(f"{count.errors} of {count.answers} answers of the {side} failed and count as wrong")
        if count.truncated:
            remarks.append(f"{count.truncated} of {count.answers} answers of the {side} were truncated")
    if low > 0 and high > margin:
        remarks.append("a gain this large usually means a broken baseline")
    if significant and low > -margin:
        remarks.append("a significant loss, inside the margin")
    if one.baseline.repeats != one.candidate.repeats:
        remarks.append(f"{one.baseline.repeats:g} repeats of the baseline, {one.candidate.repeats:g} of the candidate")
    return tuple(remarks)


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """A baseline against itself: what differences and flips mean nothing. Printed beside the release's own.
    `repeats` is how often each half answered each question."""

    repeats: float
    difference: float
    interval90: tuple[float, float]
    flip_rate: float


def noise_floor(one: Sequence[Sample], other: Sequence[Sample]) -> dict[str, NoiseFloor]:
    """Two evaluations of the same server, benchmark by benchmark. Raises ComparisonRefused as `compare` does."""
    from flagrelease.verdict.stats.paired import difference, interval
    from flagrelease.verdict.stats.pairing import pair

    floors = {}
    for name, paired in pair(one, other, clusters={}).items():
        bounds = interval(paired.pairs)
        flips = sum(map(len, _flips(paired)))
        floors[name] = NoiseFloor(
            repeats=paired.candidate.repeats,
            difference=difference(paired.pairs),
            interval90=(bounds.low, bounds.high),
            flip_rate=flips / paired.pairs.n,
        )
    return floors


def halves(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """One evaluation of several repeats as two: the even and the odd repeats, renumbered from 0.

    With an odd number of repeats the last one of each question is left out.
    """
    repeats: dict[tuple[str, str, str], int] = {}
    for sample in samples:
        question = sample.key[:3]
        repeats[question] = max(repeats.get(question, 0), sample.repeat + 1)
    whole = [sample for sample in samples if sample.repeat < repeats[sample.key[:3]] // 2 * 2]
    even, odd = (
        [replace(sample, repeat=sample.repeat // 2) for sample in whole if sample.repeat % 2 == rest] for rest in (0, 1)
    )
    return even, odd


def own_noise(baseline: Sequence[Sample]) -> NoiseFloor | None:
    """One benchmark's baseline against itself, from the repeats that every question has; None where they are
    fewer than two, or all of one half failed."""
    count: Counter[tuple[str, str, str]] = Counter(sample.key[:3] for sample in baseline)
    each = min(count.values(), default=0)
    if each < 2:
        return None
    try:
        (floor,) = noise_floor(*halves([sample for sample in baseline if sample.repeat < each])).values()
    except ComparisonRefused:
        return None
    return floor


@dataclass(frozen=True, kw_only=True)
class SpeedVerdict:
    """One load point: candidate / baseline, at least `gate` to pass. `interval` has 1 − 2α."""

    ratio: float
    interval: tuple[float, float]
    gate: float
    runs: int
    verdict: Verdict
    reason: str


def speed(
    baseline: Sequence[float],
    candidate: Sequence[float],
    *,
    gate: float = 0.80,
    higher_is_better: bool = True,
    alpha: float = ALPHA,
) -> SpeedVerdict:
    """Judge interleaved runs at one load point. PASS: the lower 1 − α bound of the ratio is at least `gate`; FAIL:
    the upper one is below it; otherwise INCONCLUSIVE. Raises ComparisonRefused for fewer than 3 runs a side."""
    from flagrelease.verdict.stats.speed import ratio

    found = ratio(baseline, candidate, higher_is_better=higher_is_better, alpha=alpha)
    low, high = found.bounds.low, found.bounds.high
    if low >= gate:
        verdict, reason = Verdict.PASS, f"at least {low:.2f} of the baseline's speed"
    elif high < gate:
        verdict, reason = Verdict.FAIL, f"at most {high:.2f} of the baseline's speed, {gate:.2f} is asked for"
    else:
        verdict = Verdict.INCONCLUSIVE
        reason = (
            f"between {low:.2f} and {high:.2f} of the baseline's speed, {gate:.2f} is asked for; more runs decide it"
        )
    return SpeedVerdict(
        ratio=found.ratio, interval=(low, high), gate=gate, runs=found.runs, verdict=verdict, reason=reason
    )
