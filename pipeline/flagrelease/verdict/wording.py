"""Put the reasons and remarks of a verdict into words. Does not import numpy or scipy."""

from __future__ import annotations

from flagrelease.verdict.types import Agreement, BenchmarkEvidence, Ground, Note, Ruling, SideCount, Verdict

__all__ = ["other_margin", "points", "reason", "remarks", "speed_reason"]

_BY_ANSWERS = (Ground.SAME_ANSWERS, Ground.ANSWERS_UNDECIDED, Ground.OTHER_ANSWERS)
_NOTES = {
    Note.LARGE_GAIN: "a gain this large usually means a broken baseline",
    Note.LOSS_INSIDE_MARGIN: "a significant loss, within the margin",
}


def points(fraction: float) -> str:
    """A difference of scores (a fraction) as `5 percentage points`."""
    number = f"{100 * fraction:.3g}"
    return f"{number} percentage point{'s' * (number != '1')}"


def reason(
    ruling: Ruling, evidence: BenchmarkEvidence, *, after: int | None = None, more: int | None = None, how: str = ""
) -> str:
    """The reason of a verdict. `after` is the number of answers of each side in a group-sequential evaluation, `more`
    the number of further ones that would decide it, and `how` a way to get them."""
    if evidence.agreement is not None and ruling.ground in _BY_ANSWERS:
        return _by_answers(ruling, evidence.agreement, evidence.margin)
    margin = points(evidence.margin)
    match ruling.ground:
        case Ground.EQUIVALENT:
            text = f"equivalent: the difference is within ±{margin}"
        case Ground.NON_INFERIOR:
            text = f"non-inferior at a margin of {margin}"
        case Ground.LOSS_BEYOND_MARGIN:
            text = f"the loss is larger than the margin of {margin}"
        case Ground.SIGNIFICANT_LOSS:
            text = (
                f"a significant loss (p = {evidence.p_regression:.2g}) that may be larger than the margin of {margin}"
            )
        case _:
            text = f"the loss may be as large as {points(-evidence.interval[0])}, beyond the margin of {margin}"
    if after is not None:
        decided = "" if ruling.verdict is Verdict.INCONCLUSIVE else "decided "
        text += f", {decided}after {after} answers on each side"
    if more is not None:
        text += f"; about {more} more answers on each side would decide it{how}"
    return text


def _compared(agreement: Agreement) -> str:
    return (
        "the baseline only guesses here, so its answers are compared: "
        f"{agreement.differing} of {agreement.answers} differ"
    )


def _by_answers(ruling: Ruling, agreement: Agreement, margin: float) -> str:
    most = points(agreement.bounds[1])
    if ruling.ground is Ground.SAME_ANSWERS:
        level = f"{100 * (1 - agreement.alpha):g} %"
        return f"{_compared(agreement)}, at most {most} ({level}), within ±{points(margin)}"
    return f"{_compared(agreement)}, perhaps {most}: use a benchmark on which the model scores above the chance level"


def remarks(
    ruling: Ruling, evidence: BenchmarkEvidence, *, baseline: SideCount, candidate: SideCount
) -> tuple[str, ...]:
    """Observations on a verdict in addition to its reason."""
    texts = []
    for side, count in (("baseline", baseline), ("candidate", candidate)):
        if count.errors:
            texts.append(f"{count.errors} of {count.answers} answers of the {side} failed and count as wrong")
        if count.truncated:
            texts.append(f"{count.truncated} of {count.answers} answers of the {side} were truncated")
    texts += [_NOTES[note] for note in ruling.notes]
    if baseline.repeats != candidate.repeats:
        texts.append(f"{baseline.repeats:g} repeats of the baseline, {candidate.repeats:g} of the candidate")
    if evidence.agreement is not None and ruling.ground not in _BY_ANSWERS:
        texts.append(_compared(evidence.agreement))
    return tuple(texts)


def other_margin(planned: float) -> str:
    """The remark on answers that are judged at a margin other than that of their design."""
    return f"designed for a margin of {points(planned)}; judged by its interval, which is valid at every look"


def speed_reason(verdict: Verdict, interval: tuple[float, float], gate: float) -> str:
    low, high = interval
    if verdict is Verdict.PASS:
        return f"at least {low:.2f} of the baseline's speed"
    if verdict is Verdict.FAIL:
        return f"at most {high:.2f} of the baseline's speed, {gate:.2f} is required"
    return (
        f"between {low:.2f} and {high:.2f} of the baseline's speed, {gate:.2f} is required; more runs would decide it"
    )
