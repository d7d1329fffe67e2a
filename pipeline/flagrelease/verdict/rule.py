"""The decision rule for PASS and FAIL: a non-inferiority test.

All designs, fixed-sample and group-sequential, the release and `flagrelease compare` use it. Call it through the module
(`rule.decide`), so that a replacement takes effect everywhere.
"""

from __future__ import annotations

from flagrelease.verdict.types import BenchmarkEvidence, Ground, Note, Ruling, Verdict

__all__ = ["decide", "decide_speed"]


def decide(evidence: BenchmarkEvidence) -> Ruling:
    """PASS if the lower bound of the difference is above −margin. FAIL if the upper bound is below −margin, or if the
    regression is significant and the upper bound is below zero. Otherwise INCONCLUSIVE.

    The score of a baseline at the chance level cannot get worse, so that PASS also requires similar answers: two sides
    that differ in a share q of their answers cannot differ by more than q in score, so the upper bound of q has to be
    below the margin. FAIL is not affected.
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
    """The verdict if the scores pass: that of the answers, if they are compared."""
    if evidence.agreement is None:
        equivalent = evidence.interval[1] < evidence.margin
        return Verdict.PASS, Ground.EQUIVALENT if equivalent else Ground.NON_INFERIOR
    least, most = evidence.agreement.bounds
    if most < evidence.margin:
        return Verdict.PASS, Ground.SAME_ANSWERS
    return Verdict.INCONCLUSIVE, Ground.OTHER_ANSWERS if least >= evidence.margin else Ground.ANSWERS_UNDECIDED


def decide_speed(interval: tuple[float, float], gate: float) -> Verdict:
    """The same test for a ratio, candidate / baseline. PASS if the lower bound is at least `gate`, FAIL if the upper
    bound is below it, otherwise INCONCLUSIVE."""
    low, high = interval
    if low >= gate:
        return Verdict.PASS
    return Verdict.FAIL if high < gate else Verdict.INCONCLUSIVE
