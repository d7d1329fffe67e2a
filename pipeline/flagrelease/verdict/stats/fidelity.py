"""Measure how closely two servers agree: a diagnostic in addition to the verdict, never a gate.

Measured with greedy sampling on the same prompts. The measures show how much two servers disagree, not which is better
(Nikolić et al. 2026, arXiv 2606.19558), so they are compared with the baseline's own range: the same server asked
twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flagrelease.errors import ComparisonRefused

__all__ = ["Fidelity", "divergence", "fidelity", "kl_top", "outside"]

TopLogprobs = Mapping[str, float]
"""Natural logarithm of the probability, by token, of the most likely tokens."""


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """The agreement of two servers, over prompts and positions."""

    prompts: int
    """Number of prompts."""
    exact_match: float
    """Share of prompts with equal answers, a fraction."""
    first_divergence: float | None
    """Median position (tokens) at which answers diverge; None if none diverges."""
    top1_agreement: float
    """Share of positions with the same most likely token, a fraction."""
    kl: float
    """Mean KL divergence of a position from the reference, nats; a lower bound."""


def divergence(one: Sequence[str], other: Sequence[str]) -> int | None:
    """The first position at which two greedy answers differ; None if they are equal."""
    for position, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if mine != theirs:
            return position
    return min(len(one), len(other)) if len(one) != len(other) else None


def kl_top(reference: TopLogprobs, other: TopLogprobs) -> float:
    """KL(reference ‖ other) in nats over the tokens that both contain, with all others merged into one outcome.

    Merging outcomes never increases a divergence, so that this is a lower bound for the complete vocabulary.
    """
    shared = reference.keys() & other.keys()
    p, q = ([math.exp(side[token]) for token in shared] for side in (reference, other))
    p.append(max(1 - math.fsum(p), 0.0))
    q.append(max(1 - math.fsum(q), 0.0))
    # A remainder that is zero on one side only by rounding must not cause an infinite divergence.
    total = math.fsum(x * math.log(x / max(y, 1e-9)) for x, y in zip(p, q, strict=True) if x > 1e-9)
    return max(total, 0.0)


def fidelity(
    answers: Sequence[tuple[Sequence[str], Sequence[str]]],
    forced: Sequence[tuple[Sequence[TopLogprobs], Sequence[TopLogprobs]]],
) -> Fidelity:
    """`answers` are the greedy tokens of both servers for each prompt, the reference first; `forced` their top logprobs
    at every position, teacher-forced on the reference's tokens. Raises ComparisonRefused if either is empty."""
    from statistics import fmean, median  # reading results needs only the type Fidelity

    positions = [pair for one, other in forced for pair in zip(one, other, strict=True)]
    if not answers or not positions:
        raise ComparisonRefused(
            "the fidelity probe has no answers", hint="check that the server returns prompt logprobs"
        )
    divergences = [divergence(one, other) for one, other in answers]
    diverged = [position for position in divergences if position is not None]
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
    """The measures that lie outside the range of the baseline against itself; none if `noise` is empty."""
    if not noise:
        return ()
    names = []
    if probe.exact_match < min(one.exact_match for one in noise):
        names.append("exact match")
    if probe.top1_agreement < min(one.top1_agreement for one in noise):
        names.append("top-1 agreement")
    if probe.kl > max(one.kl for one in noise):
        names.append("KL")
    earliest = [one.first_divergence for one in noise if one.first_divergence is not None]
    if probe.first_divergence is not None and (not earliest or probe.first_divergence < min(earliest)):
        names.append("first divergence")
    return tuple(names)
