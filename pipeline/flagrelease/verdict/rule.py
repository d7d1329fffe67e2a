"""The rule of the verdict: a non-inferiority test with a margin. The only place that decides PASS or FAIL.

Callers go through the module (`rule.decide`), whatever design produced the evidence, so that a change here changes
fixed-sample and group-sequential evaluations, `flagrelease compare` and the release alike.
"""

from __future__ import annotations

from flagrelease.verdict.types import BenchmarkEvidence, Ground, Note, Ruling, Verdict

__all__ = ["decide", "decide_speed"]


def decide(evidence: BenchmarkEvidence) -> Ruling:
    """PASS: the lower bound of the difference is above −margin. FAIL: the whole interval is below −margin, or the
    regression is significant and the interval is below zero. Otherwise INCONCLUSIVE.

    A baseline at the chance level has nothing to lose, so there a PASS also needs the answers themselves: two sides
    that differ in a share q of their answers cannot differ by more than q in their score, so the upper bound of q has
    to be below the margin. A FAIL stays.
    """
    low, high = evidence.interval
    margin = evidence.margin
    if low > -margin:
        verdict, ground = _passing(evidence)
    elif high < -margin:
        verdict, ground = Verdict.FAIL, Ground.LOSS_BEYOND_MARGIN
    elif evidence.significant and high < 0:
        verdict, ground = Verdict.FAIL, Ground.SIGNIFICANT_LOSS
    else:
        verdict, ground = Verdict.INCONCLUSIVE, Ground.UNDECIDED
    notes = []
    if low > 0 and high > margin:
        notes.append(Note.LARGE_GAIN)
    if evidence.significant and low > -margin:
        notes.append(Note.LOSS_INSIDE_MARGIN)
    return Ruling(verdict=verdict, ground=ground, notes=tuple(notes))


def _passing(evidence: BenchmarkEvidence) -> tuple[Verdict, Ground]:
    """Where the scores pass: whether the answers do, if they are asked."""
    if evidence.agreement is None:
        equivalent = evidence.interval[1] < evidence.margin
        return Verdict.PASS, Ground.EQUIVALENT if equivalent else Ground.NON_INFERIOR
    least, most = evidence.agreement.bounds
    if most < evidence.margin:
        return Verdict.PASS, Ground.SAME_ANSWERS
    return Verdict.INCONCLUSIVE, Ground.OTHER_ANSWERS if least >= evidence.margin else Ground.ANSWERS_UNDECIDED


def decide_speed(interval: tuple[float, float], gate: float) -> Verdict:
    """The same test of a ratio, candidate / baseline. PASS: the lower bound is at least `gate`; FAIL: the upper one is
    below it; otherwise INCONCLUSIVE."""
    low, high = interval
    if low >= gate:
        return Verdict.PASS
    return Verdict.FAIL if high < gate else Verdict.INCONCLUSIVE
