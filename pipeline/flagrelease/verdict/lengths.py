"""How long answers are: tokens compared with the baseline's, and truncation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev

from flagrelease.verdict.samples import Sample, by_question
from flagrelease.verdict.types import LengthRatio, Z

__all__ = ["length_ratio", "truncation_excess"]


def length_ratio(baseline: Sequence[Sample], candidate: Sequence[Sample]) -> LengthRatio | None:
    """Tokens per answer, candidate / baseline, over the questions that both sides answered; None if fewer than two of
    them have counts.

    The ratio of the sums of each question's mean, with the standard error of a ratio estimate (Cochran 1977, §2.11).
    """
    before, after = _tokens(baseline), _tokens(candidate)
    pairs = [(before[question], after[question]) for question in before if question in after]
    total = sum(first for first, _ in pairs)
    if len(pairs) < 2 or total == 0:
        return None
    ratio = sum(then for _, then in pairs) / total
    residuals = sum((then - ratio * first) ** 2 for first, then in pairs)
    error = math.sqrt(residuals * len(pairs) / (len(pairs) - 1)) / total
    return LengthRatio(ratio=ratio, interval=(max(ratio - Z * error, 0.0), ratio + Z * error))


def truncation_excess(baseline: Sequence[Sample], candidate: Sequence[Sample]) -> float:
    """The share of answers by which the baseline is truncated more often than the candidate, paired by question, if it
    is significant (one-sided 5 %), otherwise 0: the baseline's score may be too low by that much.

    Truncation as such is an outcome: both sides have the same limit, and a candidate that needs more tokens is worse.
    """
    before, after = (
        _means((sample, float(sample.finish_reason == "length")) for sample in samples if sample.error is None)
        for samples in (baseline, candidate)
    )
    excess = [share - after[question] for question, share in before.items() if question in after]
    if len(excess) < 2:
        return 0.0
    mean = fmean(excess)
    return mean if mean > Z * stdev(excess) / math.sqrt(len(excess)) else 0.0


def _tokens(samples: Sequence[Sample]) -> dict[tuple[str, str], float]:
    return _means(
        (sample, sample.completion_tokens)
        for sample in samples
        if sample.error is None and sample.completion_tokens is not None
    )


def _means(values: Iterable[tuple[Sample, float]]) -> dict[tuple[str, str], float]:
    """The mean over the answers to each question: questions that were asked more often do not weigh more."""
    return {question: sum(each) / len(each) for question, each in by_question(values).items()}
