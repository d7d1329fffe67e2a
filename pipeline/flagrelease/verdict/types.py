"""Types of evidence and verdicts. Does not import numpy or scipy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Protocol

__all__ = [
    "ALPHA",
    "BASELINE_WEIGHT",
    "FAIL_ALPHA",
    "POWER",
    "RESERVE",
    "Answer",
    "Ask",
    "BenchmarkEvidence",
    "BenchmarkVerdict",
    "Comparison",
    "Course",
    "Decision",
    "Ground",
    "Judged",
    "LengthRatio",
    "NoiseFloor",
    "Note",
    "Ruling",
    "SideCount",
    "SubsetLoss",
    "Verdict",
    "reasons",
    "worst_verdict",
]

ALPHA = 0.05
"""The one-sided level of each test."""
Z = 1.6448536269514722
"""The normal quantile of a one-sided level of ALPHA, and of a two-sided 90 % interval."""
POWER = 0.80
"""The power for which a fixed-sample evaluation estimates further answers."""

RESERVE = 0.2
"""The share of α that a group-sequential evaluation keeps for going on beyond its planned information."""
FAIL_ALPHA = 0.01
"""The largest one-sided level of FAIL of a group-sequential evaluation; a larger one leaves no room for the power."""

BASELINE_WEIGHT = 0.779
"""The weight of a kept baseline's standard error in the bound of PASS, z(10 %) / z(5 %): for nine of ten baselines that
could have been drawn, at most 5 % of the candidates at the margin then pass."""

Answer = tuple[str, str, int]  # subset, question id, repeat


class Verdict(StrEnum):
    """The verdict of a gate."""

    PASS = "PASS"  # noqa: S105
    INCONCLUSIVE = "INCONCLUSIVE"
    FAIL = "FAIL"


_BADNESS = (Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL)


def worst_verdict(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of the verdicts (FAIL, INCONCLUSIVE, PASS); INCONCLUSIVE if there are none."""
    return max(verdicts, key=_BADNESS.index, default=Verdict.INCONCLUSIVE)


@dataclass(frozen=True, kw_only=True)
class LengthRatio:
    """Tokens per answer, candidate / baseline."""

    ratio: float
    """Over the questions that both sides answered."""

    interval: tuple[float, float]
    """Its 90 % confidence interval."""


@dataclass(frozen=True, kw_only=True)
class SubsetLoss:
    """A subset of a benchmark with a significant regression."""

    subset: str
    """Its name."""

    n: int
    """Questions that both sides answered."""

    baseline: float
    """The baseline's score, a fraction."""

    candidate: float
    """The candidate's score, a fraction."""

    p: float
    """One-sided p-value of "the candidate is not worse", not corrected."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkEvidence:
    """The evidence on one benchmark that the rule reads. A difference is candidate − baseline, as a fraction."""

    interval: tuple[float, float]
    """The 90 % confidence interval of the difference. Failed answers widen it: each bound counts them as the value that
    is less favourable to the verdict."""

    margin: float
    """The non-inferiority margin, a fraction."""

    p_regression: float
    """One-sided p-value of "the candidate is not worse"."""

    significant: bool
    """Whether that hypothesis is rejected, corrected for multiple benchmarks or looks."""

    above_chance: tuple[float, float] | None
    """Lower and upper confidence bound of the baseline's score − the chance level; None at an interim analysis, which
    decides on the scores alone."""

    floor: float | None = None
    """Lower confidence bound of the difference at the level of PASS, against a kept baseline with an allowance for a
    low one; that of the interval if None."""

    ceiling: float | None = None
    """Upper confidence bound of the difference at the level of FAIL; that of the interval if None."""

    silent: tuple[str, ...] = ()
    """The sides of which more than half of the answers are empty."""

    length: LengthRatio | None = None
    """How much longer the candidate's answers are; None if unknown."""

    truncation_excess: float = 0.0
    """The share of answers by which the baseline was truncated more often, if significant; the lower bound of the
    interval counts them in the candidate's disfavour."""

    @property
    def lowest(self) -> float:
        """The lower bound that has to be above −margin for PASS."""
        return self.interval[0] if self.floor is None else self.floor


class Ground(Enum):
    """The ground of a verdict."""

    EQUIVALENT = auto()
    """The bounds lie within ±margin."""
    NON_INFERIOR = auto()
    """The lower bound is above −margin."""
    LOSS_BEYOND_MARGIN = auto()
    """The upper bound is below −margin."""
    SIGNIFICANT_LOSS = auto()
    """The loss is significant and may exceed the margin."""
    UNDECIDED = auto()
    """The interval contains −margin and the loss is not significant."""
    NOT_SENSITIVE = auto()
    """The scores pass, but the baseline is so near the chance level that a candidate without skill could pass."""
    SENSITIVITY_UNDECIDED = auto()
    """The scores pass, and more answers of the baseline would show whether it is far enough above the chance level."""
    SILENT = auto()
    """The scores pass, but most answers of a side are empty."""


class Note(Enum):
    """An observation that does not change the verdict."""

    LARGE_GAIN = auto()
    """A significant gain that may exceed the margin."""
    LOSS_INSIDE_MARGIN = auto()
    """A significant loss within the margin."""
    OTHER_LENGTH = auto()
    """Answers of another length than the baseline's."""


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """The rule's decision on one benchmark."""

    verdict: Verdict
    """The verdict on this benchmark."""

    ground: Ground
    """Why; `wording.reason` puts it into words."""

    notes: tuple[Note, ...] = ()
    """Observations; `wording.remarks` puts them into words."""

    sensitive: bool = True
    """Whether the benchmark could have shown a loss (`rule.decide`)."""


@dataclass(frozen=True, kw_only=True)
class SideCount:
    """Score and counts of one side."""

    score: float
    """Mean score of its answers, a fraction."""
    answers: int
    """Number of answers."""
    repeats: float
    """Answers to each question, on average."""
    errors: int
    """Answers that failed."""
    truncated: int
    """Answers that were truncated."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """How far a group-sequential evaluation went."""

    answers: int
    """Answers of each side."""
    planned: int
    """The most answers of each side."""
    look: int
    """The interim analysis that ended it, counted from 1."""
    looks: int
    """The most interim analyses."""
    why: str
    """Why it ended."""

    @property
    def early(self) -> bool:
        """Whether it ended before all planned answers."""
        return self.answers < self.planned


@dataclass(frozen=True, kw_only=True)
class Ask:
    """The next request of a group-sequential design."""

    look: int
    """The interim analysis that needs the answers, counted from 1."""
    baseline: tuple[Answer, ...]
    """Answers to ask of the baseline."""
    candidate: tuple[Answer, ...]
    """Answers to ask of the candidate."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The end of a group-sequential evaluation. Scores and differences are fractions."""

    evidence: BenchmarkEvidence
    """The evidence at the last look; its interval is valid at every look."""
    ruling: Ruling
    """The rule's decision on it."""
    n: int
    """Questions that were asked."""
    pairs: int
    """Answers of each side."""
    looks: int
    """Interim analyses that were made."""
    baseline_score: float
    """From the answers with equal counts for all questions: the first round, or the reference."""
    candidate_score: float
    """`baseline_score` + `difference`."""
    difference: float
    """candidate − baseline, weighted by the design."""
    counts: tuple[int, ...]
    """Answers of each side to each question, from repeat 0 on."""
    more_answers: int | None = None
    """Further answers of each side that would probably decide an undecided evaluation."""

    @property
    def verdict(self) -> Verdict:
        return self.ruling.verdict

    @property
    def interval90(self) -> tuple[float, float]:
        return self.evidence.interval

    @property
    def p_regression(self) -> float:
        return self.evidence.p_regression


@dataclass(frozen=True, kw_only=True)
class BenchmarkVerdict:
    """The verdict on one benchmark. Scores, difference, interval and margin are fractions."""

    benchmark: str
    """Its name in matrix.yaml."""
    n: int
    """Questions."""
    baseline: SideCount
    """The baseline's score and counts."""
    candidate: SideCount
    """The candidate's score and counts."""
    difference: float
    """candidate − baseline."""
    interval90: tuple[float, float]
    """The 90 % confidence interval of the difference."""
    margin: float
    """The non-inferiority margin."""
    p_regression: float
    """One-sided p-value of "the candidate is not worse"."""
    verdict: Verdict
    """The verdict."""
    reason: str
    """The reason, in words."""
    remarks: tuple[str, ...] = ()
    """Observations that do not change the verdict, in words."""
    gained: tuple[str, ...] = ()
    """Questions (SUBSET/ID) whose majority answer became right."""
    lost: tuple[str, ...] = ()
    """Questions (SUBSET/ID) whose majority answer became wrong."""
    more_answers: int | None = None
    """Further answers of each side that decide an INCONCLUSIVE result, with the design's power if there is no loss."""
    course: Course | None = None
    """How far a group-sequential evaluation went; None if all questions were asked and judged once."""
    sensitive: bool = True
    """False if the baseline is so close to the chance level that a candidate without the skill could pass."""
    length: LengthRatio | None = None
    """Tokens per answer, candidate / baseline; None if unknown."""

    @property
    def repeats(self) -> float:
        return self.candidate.repeats

    @property
    def baseline_score(self) -> float:
        return self.baseline.score

    @property
    def candidate_score(self) -> float:
        return self.candidate.score


class Judged(Protocol):
    """A benchmark with its verdict."""

    @property
    def benchmark(self) -> str: ...
    @property
    def verdict(self) -> str: ...
    @property
    def sensitive(self) -> bool: ...
    @property
    def reason(self) -> str: ...


def reasons(verdict: str, judged: Iterable[Judged]) -> str:
    """The reasons of the benchmarks that decide the verdict of a cell. Benchmarks that are not sensitive decide it only
    if there are no others."""
    named = [each for each in judged if each.verdict == verdict]
    decisive = [each for each in named if each.sensitive] or named
    return "; ".join(f"{each.benchmark}: {each.reason}" for each in decisive)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The verdict on all benchmarks of a cell."""

    verdict: Verdict
    """The worst verdict of the sensitive benchmarks (`rule.decide_cell`)."""
    benchmarks: Mapping[str, BenchmarkVerdict]
    """By name."""

    @property
    def reason(self) -> str:
        """The reasons of the benchmarks that decide the verdict."""
        return reasons(self.verdict, self.benchmarks.values())


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """A baseline compared with itself: the differences and flips that have no meaning. Shown next to the release's."""

    repeats: float
    """Answers of each half to each question."""
    difference: float
    """Between the halves, a fraction."""
    interval90: tuple[float, float]
    """The 90 % confidence interval of the difference."""
    flip_rate: float
    """Share of questions whose majority answer changed, a fraction."""
