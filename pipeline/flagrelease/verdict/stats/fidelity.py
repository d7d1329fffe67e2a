"""How alike two servers compute: a diagnostic beside the verdict, never a gate.

Measured with greedy sampling on the same prompts. Near the baseline these say how much two servers disagree, not
which of them is better (Nikolić et al. 2026, arXiv 2606.19558), so they are read against the baseline's own range:
the same server asked twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from flagrelease.errors import ComparisonRefused

__all__ = ["Fidelity", "divergence", "fidelity", "kl_top", "outside"]

TopLogprobs = Mapping[str, float]  # token → natural logarithm of its probability, the most likely ones


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Over prompts and positions. `first_divergence` is the median position (tokens; None: no answer diverged)."""

    prompts: int
    exact_match: float
    first_divergence: float | None
    top1_agreement: float
    kl: float


def divergence(one: Sequence[str], other: Sequence[str]) -> int | None:
    """The first position at which two greedy answers differ; None where they are equal."""
    for position, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if mine != theirs:
            return position
    return min(len(one), len(other)) if len(one) != len(other) else None


def kl_top(reference: TopLogprobs, other: TopLogprobs) -> float:
    """KL(reference ‖ other) in nats over the tokens that both name, all others taken as one.

    Merging outcomes never enlarges a divergence, so this is a lower bound of that of the whole vocabularies.
    """
    shared = reference.keys() & other.keys()
    p, q = ([math.exp(side[token]) for token in shared] for side in (reference, other))
    p.append(max(1 - math.fsum(p), 0.0))
    q.append(max(1 - math.fsum(q), 0.0))
    # What rounding leaves of the rest on one side only must not make an infinite divergence.
    total = math.fsum(x * math.log(x / max(y, 1e-9)) for x, y in zip(p, q, strict=True) if x > 1e-9)
    return max(total, 0.0)


def fidelity(
    answers: Sequence[tuple[Sequence[str], Sequence[str]]],
    forced: Sequence[tuple[Sequence[TopLogprobs], Sequence[TopLogprobs]]],
) -> Fidelity:
    """`answers`: greedy tokens of reference and other for each prompt. `forced`: for each prompt the top logprobs of
    both at every position, teacher-forced on the reference's tokens. Raises ComparisonRefused."""
    positions = [pair for one, other in forced for pair in zip(one, other, strict=True)]
    if not answers or not positions:
        raise ComparisonRefused("the fidelity probe has no answers", hint="does the server give prompt logprobs?")
    found = [divergence(one, other) for one, other in answers]
    diverged = [position for position in found if position is not None]
    return Fidelity(
        prompts=len(answers),
        exact_match=1 - len(diverged) / len(answers),
        first_divergence=float(median(diverged)) if diverged else None,
        top1_agreement=fmean(_top(one) == _top(other) for one, other in positions),
        kl=fmean(kl_top(one, other) for one, other in positions),
    )


def _top(logprobs: TopLogprobs) -> str:
    return max(logprobs, key=lambda token: (logprobs[token], token))


def outside(probe: Fidelity, noise: Sequence[Fidelity]) -> tuple[str, ...]:
    """Which measures lie outside the range of the baseline against itself. Nothing is outside an empty range."""
    if not noise:
        return ()
    found = []
    if probe.exact_match < min(one.exact_match for one in noise):
        found.append("exact match")
    if probe.top1_agreement < min(one.top1_agreement for one in noise):
        found.append("top-1 agreement")
    if probe.kl > max(one.kl for one in noise):
        found.append("KL")
    earliest = [one.first_divergence for one in noise if one.first_divergence is not None]
    if probe.first_divergence is not None and (not earliest or probe.first_divergence < min(earliest)):
        found.append("first divergence")
    return tuple(found)
