"""The result of the accuracy stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flagrelease.contract.handles import VerdictName
from flagrelease.store.evidence import Evidence
from flagrelease.verdict.attempts import Attempt
from flagrelease.verdict.stats.fidelity import Fidelity
from flagrelease.verdict.types import Course, LengthRatio, NoiseFloor


@dataclass(frozen=True, kw_only=True)
class BenchmarkScore:
    """One benchmark of the comparison. Scores, differences and margins are fractions of 1."""

    benchmark: str
    """Its name in matrix.yaml."""
    metric: str
    """Its name on the card."""
    n: int
    """Questions that were asked."""
    repeats: float
    """Answers to each question, on average."""
    baseline: float | None
    """The baseline's score; none if there is no baseline."""
    candidate: float
    """The candidate's score."""
    difference: float | None
    """candidate − baseline."""
    interval90: tuple[float, float] | None
    """The 90 % confidence interval of the difference."""
    margin: float
    """The non-inferiority margin."""
    p_regression: float | None
    """One-sided p-value of "the candidate is not worse"."""
    flips: tuple[int, int] | None
    """Questions gained and questions lost, by majority answer."""
    errors: int
    """The candidate's answers that failed; they count as wrong."""
    truncated: int
    """The candidate's answers that were truncated."""
    partial: str
    """The share of the benchmark that was asked, in words; empty if all of it was."""
    data_sha256: str
    """sha256 (hex) of the questions."""
    verdict: VerdictName
    """The verdict on this benchmark."""
    reason: str
    """The reason for it."""
    course: Course | None = None
    """How far a group-sequential evaluation went; none if all questions were asked at once."""
    noise: NoiseFloor | None = None
    """The baseline against itself, if it was asked twice."""
    length: LengthRatio | None = None
    """Tokens per answer, candidate / baseline; none if they are not known."""
    sensitive: bool = True
    """False if the baseline is so close to the chance level that a candidate without the skill could pass: then the
    verdict is never PASS, and the cell's verdict is formed without this benchmark unless it is FAIL."""
    attempts: tuple[Attempt, ...] = ()
    """All judgements of the lineage, oldest first (`evaluation/attempts.py`); empty if there was nothing to judge."""


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """How closely the candidate's tokens and log-probabilities follow the baseline's: a diagnostic, never a gate."""

    reason: str = ""
    """Why it was not measured; empty if it was."""
    method: str = ""
    """How tokens were scored."""
    tokens: int = 0
    """The baseline's tokens that were scored."""
    candidate: Fidelity | None = None
    """The candidate against the baseline."""
    noise: tuple[Fidelity, ...] = ()
    """The baseline against itself, asked one at a time and all at once."""
    outside: tuple[str, ...] = ()
    """The measures of `candidate` that lie beyond `noise`."""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """The comparison of the candidate's answers with the baseline's."""

    verdict: VerdictName
    """The worst verdict of the sensitive benchmarks (`rule.decide_cell`)."""
    reason: str
    """The reasons of the benchmarks that have this verdict."""
    benchmarks: tuple[BenchmarkScore, ...]
    """One score for each benchmark of the profile."""
    baseline_name: str
    """The baseline's name on the card."""
    baseline_key: str
    """The key (hex) of the baseline evaluation in the ledger; empty if there is none."""
    sampling: Mapping[str, Any]
    """The parameters of the requests or, if they differ, those of each benchmark."""
    questions_asked: int
    """Requests of this run, to both sides."""
    inference_seconds: float
    """Time that they took."""
    likeness: Likeness | None = None
    """How closely the candidate computes like the baseline."""
    called: Mapping[str, int] | None = None
    """Calls by operator during this run (operator_status.py); none if the engine did not report them."""
    evidence: tuple[Evidence, ...] = ()
    """Files that prove the result."""
    awaited: tuple[str, ...] = ()
    """The keys of missing baseline evaluations."""

    @property
    def summary(self) -> str:
        return f"{self.verdict}: {self.reason}"
