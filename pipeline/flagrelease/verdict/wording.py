"""Put the reasons and remarks of a verdict into words. Does not import numpy or scipy."""

from __future__ import annotations

from collections.abc import Sequence

from flagrelease.verdict.types import BenchmarkEvidence, Ground, Judged, Note, Ruling, SideCount, SubsetLoss, Verdict

__all__ = [
    "not_sensitive",
    "other_margin",
    "points",
    "reason",
    "remarks",
    "speed_reason",
    "verdict_label",
    "worse_subsets",
]

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
    if ruling.ground in (Ground.NOT_SENSITIVE, Ground.SENSITIVITY_UNDECIDED):
        return _insensitive(evidence)
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
        case Ground.SILENT:
            sides = " and the ".join(evidence.silent)
            return f"more than half of the answers of the {sides} are empty: see replies.jsonl"
        case _:
            text = f"the loss may be as large as {points(-evidence.lowest)}, beyond the margin of {margin}"
    if after is not None:
        decided = "" if ruling.verdict is Verdict.INCONCLUSIVE else "decided "
        text += f", {decided}after {after} answers on each side"
    if more is not None:
        text += f"; about {more} more answers on each side would decide it{how}"
    return text


def _insensitive(evidence: BenchmarkEvidence) -> str:
    lowest = max(evidence.above_chance[0], 0.0) if evidence.above_chance else 0.0
    return (
        f"{not_sensitive(evidence)}, so a candidate without the skill could pass: use a benchmark on which the model "
        f"scores higher{f', or a margin below {points(lowest / 2)}' if lowest >= 0.002 else ''}"
    )


def not_sensitive(evidence: BenchmarkEvidence) -> str:
    """Why a benchmark could not have shown a loss."""
    lowest = max(evidence.above_chance[0], 0.0) if evidence.above_chance else 0.0
    return (
        f"not sensitive: the baseline's score may be only {points(lowest)} above the chance level, less than twice the "
        f"margin of {points(evidence.margin)}"
    )


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
    if evidence.truncation_excess:
        share = points(evidence.truncation_excess)
        texts.append(f"the baseline was truncated more often, by {share} of the answers, which the interval includes")
    texts += [_NOTES[note] for note in ruling.notes if note in _NOTES]
    if evidence.length is not None and Note.OTHER_LENGTH in ruling.notes:
        low, high = evidence.length.interval
        texts.append(
            f"the candidate's answers are {evidence.length.ratio:.2f} times as long as the baseline's "
            f"({low:.2f} to {high:.2f}, tokens by question)"
        )
    if baseline.repeats != candidate.repeats:
        texts.append(f"{baseline.repeats:g} repeats of the baseline, {candidate.repeats:g} of the candidate")
    if not ruling.sensitive and ruling.ground not in (Ground.NOT_SENSITIVE, Ground.SENSITIVITY_UNDECIDED):
        texts.append(not_sensitive(evidence))
    return tuple(texts)


def worse_subsets(losses: Sequence[SubsetLoss], most: int = 3) -> tuple[str, ...]:
    """A remark for each of the subsets that lost most, and the number of the others."""
    texts = [
        f"worse in {loss.subset}: {loss.candidate:.3f} instead of {loss.baseline:.3f} over {loss.n} questions, "
        f"p = {loss.p:.1g}"
        for loss in losses[:most]
    ]
    return (*texts, f"worse in {len(losses) - most} more subsets") if len(losses) > most else tuple(texts)


def verdict_label(judged: Judged) -> str:
    """A benchmark's verdict in a table: `not sensitive` where that is why there is none."""
    return "not sensitive" if not judged.sensitive and judged.verdict == Verdict.INCONCLUSIVE else str(judged.verdict)


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
