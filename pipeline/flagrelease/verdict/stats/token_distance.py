"""Measure how far two servers' log-probabilities of the same tokens are apart.

Tokens of one prompt are correlated, so that the prompt is the unit of all statistics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flagrelease.errors import ComparisonRefused

__all__ = ["LARGEST", "TokenDistance", "TopLogprobs", "distance_of", "kl_top", "token_distance"]

TopLogprobs = Mapping[str, float]
"""Natural logarithm of the probability, by token, of the most likely tokens."""

LARGEST = 5.0
"""The largest distance at one token that counts, nats, so that no single token decides."""


@dataclass(frozen=True, kw_only=True)
class TokenDistance:
    """The mean distance of two servers."""

    prompts: int
    """Number of prompts."""
    tokens: int
    """Number of tokens."""
    mean: float
    """Mean over prompts of the mean KL divergence at a token from the reference, nats; a lower bound."""
    interval: tuple[float, float]
    """Its confidence interval, nats."""
    same_top: float
    """Share of tokens with the same most likely token, a fraction."""


def kl_top(reference: TopLogprobs, other: TopLogprobs) -> float:
    """A lower bound of KL(reference ‖ other) in nats from the most likely tokens of both.

    The outcomes are the reference's tokens, and all others merged, which never increases a divergence. A token that
    `other` does not list is at most as likely there as the last one that it lists.
    """
    least = min(other.values(), default=0.0)
    p = [math.exp(value) for value in reference.values()]
    q = [math.exp(other.get(token, least)) for token in reference]
    p.append(max(1 - math.fsum(p), 0.0))
    q.append(max(1 - math.fsum(math.exp(other[token]) for token in reference if token in other), 0.0))
    # A remainder that is zero on one side only by rounding must not cause an infinite divergence.
    total = math.fsum(x * math.log(x / max(y, 1e-9)) for x, y in zip(p, q, strict=True) if x > 1e-9)
    return max(total, 0.0)


def token_distance(prompts: Sequence[Sequence[tuple[TopLogprobs, TopLogprobs]]], *, alpha: float) -> TokenDistance:
    """The distance over the prompts' tokens, each given by both sides, the reference first; see `distance_of`."""
    pairs = [pair for prompt in prompts for pair in prompt]
    same = sum(_top(one) == _top(other) for one, other in pairs)
    return distance_of(
        [[kl_top(*pair) for pair in prompt] for prompt in prompts],
        same_top=same / len(pairs) if pairs else 0.0,
        alpha=alpha,
    )


def distance_of(prompts: Sequence[Sequence[float]], *, same_top: float, alpha: float) -> TokenDistance:
    """The distance over prompts, from the KL divergence at each of their tokens.

    The interval is Student's t over prompts; each of its bounds errs with probability `alpha`. The distances are skewed
    to the right, with which the lower bound errs less often. Raises ComparisonRefused for fewer than two prompts.
    """
    import numpy as np  # reading results needs only the type TokenDistance
    from scipy.special import stdtrit

    means = np.array([np.mean([min(each, LARGEST) for each in prompt]) for prompt in prompts if prompt])
    if len(means) < 2:
        raise ComparisonRefused(
            f"the token gate has answers to {len(means)} prompts",
            hint="check that the server returns log-probabilities",
        )
    mean = float(means.mean())
    half = float(stdtrit(len(means) - 1, 1 - alpha) * means.std(ddof=1) / math.sqrt(len(means)))
    return TokenDistance(
        prompts=len(means),
        tokens=sum(map(len, prompts)),
        mean=mean,
        interval=(max(mean - half, 0.0), mean + half),
        same_top=same_top,
    )


def _top(logprobs: TopLogprobs) -> str:
    return max(logprobs, key=lambda token: (logprobs[token], token), default="")
