"""The result of the accuracy stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flagrelease.contract.handles import VerdictName
from flagrelease.store.evidence import Evidence
from flagrelease.verdict.attempts import Attempt
from flagrelease.verdict.stats.token_distance import TokenDistance
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
class TokenGate:
    """How closely the candidate's log-probabilities follow those of the baseline's stack (`rule.decide_tokens`)."""

    reason: str
    """The reason for the verdict, or why there is none."""
    verdict: VerdictName | None = None
    """None if it was not measured."""
    planned: int = 0
    """Tokens that would be compared if it does not fail."""
    candidate: TokenDistance | None = None
    """The candidate against the baseline's stack."""
    floor: TokenDistance | None = None
    """The baseline's stack against itself, in another order and with another number of requests at once."""
    tolerance: float = 0.0
    """The tolerance, nats."""
    look: int = 0
    """The number of the look that decided."""
    other_prompts: int = 0
    """Prompts that the candidate's chat template or tokenizer renders to other tokens."""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """The comparison of the candidate's answers with the baseline's."""

    verdict: VerdictName
    """The verdict of the token gate and of the sensitive benchmarks (`rule.decide_cell`)."""
    reason: str
    """The reasons of the benchmarks that have this verdict, or that of the token gate."""
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
    token_gate: TokenGate | None = None
    """How closely the candidate computes like the baseline. If it failed, there are no benchmarks."""
    called: Mapping[str, int] | None = None
    """Calls by operator during this run (operator_status.py); none if the engine did not report them."""
    evidence: tuple[Evidence, ...] = ()
    """Files that prove the result."""
    awaited: tuple[str, ...] = ()
    """The keys of missing baseline evaluations."""

    @property
    def summary(self) -> str:
        return f"{self.verdict}: {self.reason}"
