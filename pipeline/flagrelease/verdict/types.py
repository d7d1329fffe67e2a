"""The types of a verdict. Free of numpy and scipy, so that every module may import them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

__all__ = [
    "ALPHA",
    "POWER",
    "Agreement",
    "Answer",
    "Ask",
    "BenchmarkEvidence",
    "BenchmarkVerdict",
    "Comparison",
    "Course",
    "Decision",
    "Ground",
    "NoiseFloor",
    "Note",
    "Ruling",
    "SideCount",
    "SpeedVerdict",
    "Verdict",
    "worst_verdict",
]

ALPHA = 0.05
POWER = 0.80

Answer = tuple[str, str, int]  # subset, question id, repeat


class Verdict(StrEnum):
    PASS = "PASS"  # noqa: S105
    INCONCLUSIVE = "INCONCLUSIVE"
    FAIL = "FAIL"


_BADNESS = (Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL)


def worst_verdict(verdicts: Iterable[Verdict]) -> Verdict:
    """FAIL before INCONCLUSIVE before PASS. Nothing judged is INCONCLUSIVE."""
    return max(verdicts, key=_BADNESS.index, default=Verdict.INCONCLUSIVE)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How many answers of two sides differ, right or wrong."""

    differing: int
    """Answers of the candidate that are not the baseline's."""

    answers: int
    """Answers of the candidate."""

    alpha: float
    """The one-sided level of each of the two `bounds`."""

    bounds: tuple[float, float]
    """Lower and upper confidence bound of the share of answers that differ."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkEvidence:
    """All that the rule reads about one benchmark. A difference is candidate − baseline, as a fraction."""

    interval: tuple[float, float]
    """Confidence interval of the difference."""

    margin: float
    """The tolerated loss."""

    p_regression: float
    """One-sided p-value of "the candidate is no worse"."""

    significant: bool
    """Whether that hypothesis is rejected, after the correction for several benchmarks or several looks."""

    agreement: Agreement | None = None
    """Given only where the baseline's score is not significantly above the chance level."""


class Ground(Enum):
    """Why a verdict is what it is."""

    EQUIVALENT = auto()
    NON_INFERIOR = auto()
    LOSS_BEYOND_MARGIN = auto()
    SIGNIFICANT_LOSS = auto()
    UNDECIDED = auto()
    SAME_ANSWERS = auto()
    """The scores pass, the baseline guesses, and few enough answers differ."""
    ANSWERS_UNDECIDED = auto()
    """The scores pass, the baseline guesses, and more answers would show whether too many differ."""
    OTHER_ANSWERS = auto()
    """The scores pass, the baseline guesses, and too many answers differ."""


class Note(Enum):
    """What is remarkable about a verdict without changing it."""

    LARGE_GAIN = auto()
    LOSS_INSIDE_MARGIN = auto()


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """What the rule says of one benchmark's evidence."""

    verdict: Verdict
    """The verdict on this benchmark."""

    ground: Ground
    """Why; `wording.reason` says it in words."""

    notes: tuple[Note, ...] = ()
    """What else is remarkable; `wording.remarks` says it in words."""


@dataclass(frozen=True, kw_only=True)
class SideCount:
    """What one side answered. `repeats` is the number of answers to each question, on average where they differ."""

    score: float
    answers: int
    repeats: float
    errors: int
    truncated: int


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
class Ask:
    """What a group-sequential design asks next: answers that are missing on each side. `look` counts from 1."""

    look: int
    baseline: tuple[Answer, ...]
    candidate: tuple[Answer, ...]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The end of a group-sequential evaluation. `pairs` were answered on each side, `counts` to each item, from repeat
    0 on; the interval holds in spite of the looks.

    The baseline's score is that of the answers that were asked alike of all questions (the first round, or the
    reference); the candidate's is that plus the difference.
    """

    evidence: BenchmarkEvidence
    """What was known at the last look."""

    ruling: Ruling
    """What the rule said of it."""

    n: int
    pairs: int
    looks: int
    baseline_score: float
    candidate_score: float
    difference: float
    counts: tuple[int, ...]
    more_answers: int | None = None

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


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """A baseline against itself: what differences and flips mean nothing. Printed beside the release's own.
    `repeats` is how often each half answered each question."""

    repeats: float
    difference: float
    interval90: tuple[float, float]
    flip_rate: float


@dataclass(frozen=True, kw_only=True)
class SpeedVerdict:
    """One load point: candidate / baseline, at least `gate` to pass. `interval` has 1 − 2α."""

    ratio: float
    interval: tuple[float, float]
    gate: float
    runs: int
    verdict: Verdict
    reason: str
