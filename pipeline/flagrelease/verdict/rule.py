"""The decision rule for PASS and FAIL: a non-inferiority test.

All designs, fixed-sample and group-sequential, the release and `flagrelease compare` use it. Call it through the module
(`rule.decide`), so that a replacement takes effect everywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from flagrelease.verdict.stats.token_distance import TokenDistance
from flagrelease.verdict.types import (
    FAIL_ALPHA,
    BenchmarkEvidence,
    Ground,
    Judged,
    Note,
    Ruling,
    Verdict,
    worst_verdict,
)

__all__ = [
    "PASS_TOKENS",
    "SENSITIVE",
    "TOKEN_LOOKS",
    "decide",
    "decide_cell",
    "decide_release",
    "decide_speed",
    "decide_tokens",
    "gates_that_count",
]

SENSITIVE = 2.0
"""How far above the chance level a baseline has to be for PASS, in margins: a candidate without the skill is then
another margin beyond the largest loss that may pass."""


LENGTHS = (0.9, 1.1)
"""The ratios of tokens per answer, candidate / baseline, that are not worth a note."""


TOKEN_TOLERANCE = 0.01
"""The mean KL divergence of a token, in nats, that another implementation of the same arithmetic may have. How it was
measured: docs/evaluation.md, "The token gate"."""

FLOORS = 3.0
"""How many times the reference's distance from itself a distance has to be to count as a fault."""

TOKEN_LOOKS = (300, 1_000, 3_000, 10_000)
"""The numbers of tokens after which the token gate may FAIL."""

PASS_TOKENS = 10_000
"""The fewest tokens with which it may PASS."""

TOKEN_ALPHA = FAIL_ALPHA / len(TOKEN_LOOKS)
"""The error of each bound of a distance, so that a false FAIL over all looks has at most FAIL_ALPHA."""


def decide(evidence: BenchmarkEvidence) -> Ruling:
    """PASS if the lower bound of the difference at the level of PASS is above −margin. FAIL if the upper bound at the
    level of FAIL is below −margin, or if the regression is significant and that bound is below zero. Otherwise
    INCONCLUSIVE.

    PASS also requires assay sensitivity (ICH E10, §1.5): the lower bound of the baseline's score is more than twice the
    margin above the chance level, so that a candidate without the skill could not have passed; and that both sides
    gave answers. FAIL does not: a loss that is shown is a loss.
    """
    low, high = evidence.interval
    margin = evidence.margin
    passing = evidence.lowest > -margin
    ceiling = high if evidence.ceiling is None else evidence.ceiling
    if passing:
        verdict, ground = _passing(evidence)
    elif ceiling < -margin:
        verdict, ground = Verdict.FAIL, Ground.LOSS_BEYOND_MARGIN
    elif evidence.significant and ceiling < 0:
        verdict, ground = Verdict.FAIL, Ground.SIGNIFICANT_LOSS
    else:
        verdict, ground = Verdict.INCONCLUSIVE, Ground.UNDECIDED
    notes = []
    if low > 0 and high > margin:
        notes.append(Note.LARGE_GAIN)
    if evidence.significant and passing:
        notes.append(Note.LOSS_INSIDE_MARGIN)
    if evidence.length is not None and not _as_long(evidence.length.interval):
        notes.append(Note.OTHER_LENGTH)
    return Ruling(verdict=verdict, ground=ground, notes=tuple(notes), sensitive=_sensitive(evidence))


def _as_long(ratio: tuple[float, float]) -> bool:
    """Whether the interval of the ratio of lengths reaches into 0.9 to 1.1."""
    low, high = ratio
    return low <= LENGTHS[1] and high >= LENGTHS[0]


def _sensitive(evidence: BenchmarkEvidence) -> bool:
    return evidence.above_chance is None or evidence.above_chance[0] > SENSITIVE * evidence.margin


def _passing(evidence: BenchmarkEvidence) -> tuple[Verdict, Ground]:
    """The verdict if the scores pass."""
    if evidence.silent:
        return Verdict.INCONCLUSIVE, Ground.SILENT
    if evidence.above_chance is not None and not _sensitive(evidence):
        hopeless = evidence.above_chance[1] <= SENSITIVE * evidence.margin
        return Verdict.INCONCLUSIVE, Ground.NOT_SENSITIVE if hopeless else Ground.SENSITIVITY_UNDECIDED
    equivalent = evidence.interval[1] < evidence.margin
    return Verdict.PASS, Ground.EQUIVALENT if equivalent else Ground.NON_INFERIOR


def decide_tokens(candidate: TokenDistance, floor: TokenDistance, *, other_prompts: int = 0) -> Verdict:
    """FAIL if the distance is certainly larger than the tolerance and than several times that of the reference from
    itself. PASS if it is certainly smaller than the tolerance, over at least PASS_TOKENS, and the candidate renders all
    prompts to the same tokens (`other_prompts` are not). Otherwise INCONCLUSIVE."""
    low, high = candidate.interval
    if low > max(TOKEN_TOLERANCE, FLOORS * floor.interval[1]):
        return Verdict.FAIL
    passes = high < TOKEN_TOLERANCE and candidate.tokens >= PASS_TOKENS and not other_prompts
    return Verdict.PASS if passes else Verdict.INCONCLUSIVE


def decide_cell(benchmarks: Iterable[Judged], tokens: Verdict | None = None) -> Verdict:
    """FAIL if a benchmark or the token gate fails, otherwise the worst verdict of the sensitive benchmarks. Without
    any, PASS if the token gate passes, otherwise INCONCLUSIVE.

    A benchmark that is not sensitive can show a loss, but neither proves nor disproves that there is none. `tokens` is
    the verdict of the token gate, None if it was not asked.
    """
    verdicts = [(Verdict(each.verdict), each.sensitive) for each in benchmarks]
    decisive = [verdict for verdict, sensitive in verdicts if sensitive or verdict is Verdict.FAIL]
    if tokens is Verdict.FAIL or (tokens is Verdict.PASS and not decisive):
        return tokens
    return worst_verdict(decisive)


def gates_that_count(
    *,
    accuracy: Verdict,
    benchmarks: Sequence[Judged],
    tokens: Verdict | None,
    speed: Verdict | None,
    waived: Collection[str],
) -> dict[str, Verdict]:
    """The verdicts that decide a release, by gate, without those that are waived (`speed`, or names of benchmarks).

    `accuracy` is that of all benchmarks. What remains of it still has to pass by itself.
    """
    left = [each for each in benchmarks if each.benchmark not in waived]
    found = {"accuracy": accuracy if len(left) == len(benchmarks) else decide_cell(left, tokens)}
    if speed is not None and "speed" not in waived:
        found["speed"] = speed
    return found


def decide_release(gates: Mapping[str, Verdict], unfinished: Iterable[str], waived: Collection[str]) -> Verdict:
    """The worst verdict of the gates that count; an unfinished one that is not waived counts as INCONCLUSIVE."""
    return worst_verdict([*gates.values(), *(Verdict.INCONCLUSIVE for name in unfinished if name not in waived)])


def decide_speed(interval: tuple[float, float], gate: float) -> Verdict:
    """The same test for a ratio, candidate / baseline. PASS if the lower bound is at least `gate`, FAIL if the upper
    bound is below it, otherwise INCONCLUSIVE."""
    low, high = interval
    if low >= gate:
        return Verdict.PASS
    return Verdict.FAIL if high < gate else Verdict.INCONCLUSIVE
