"""Find subsets (subjects, categories) of a benchmark that lost much more than its score shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flagrelease.verdict.samples import Sample, by_question
from flagrelease.verdict.stats.paired import Pairs, Side, holm, regression_p
from flagrelease.verdict.types import SubsetLoss

__all__ = ["worse_subsets"]


def worse_subsets(
    baseline: Sequence[Sample], candidate: Sequence[Sample], *, alpha: float = 0.05
) -> tuple[SubsetLoss, ...]:
    """The subsets with a significant regression (`paired.regression_p`, Holm over the subsets), the largest loss first.

    Empty for a benchmark with a single subset. Only questions that both sides answered count.
    """
    if len({sample.subset for sample in candidate}) < 2:
        return ()
    before, after = (
        by_question((sample, float(sample.correct)) for sample in samples) for samples in (baseline, candidate)
    )
    questions: dict[str, list[tuple[str, str]]] = {}
    for question in before:
        if question in after:
            questions.setdefault(question[0], []).append(question)
    if len(questions) < 2:
        return ()
    pairs = {
        subset: Pairs(
            _side([before[each] for each in asked]), _side([after[each] for each in asked]), np.arange(len(asked))
        )
        for subset, asked in questions.items()
    }
    p_values = {subset: regression_p(pair) for subset, pair in pairs.items()}
    found = [
        SubsetLoss(
            subset=subset,
            n=pairs[subset].n,
            baseline=float(pairs[subset].baseline.mean.mean()),
            candidate=float(pairs[subset].candidate.mean.mean()),
            p=p_values[subset],
        )
        for subset, rejected in holm(p_values, alpha=alpha).items()
        if rejected
    ]
    return tuple(sorted(found, key=lambda loss: loss.candidate - loss.baseline))


def _side(scores: Sequence[Sequence[float]]) -> Side:
    return Side(
        np.array([len(each) for each in scores], np.int64),
        np.array([sum(each) for each in scores], np.float64),
        np.array([sum(score**2 for score in each) for each in scores], np.float64),
    )
