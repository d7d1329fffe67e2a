"""Measure the noise floor: a baseline compared with itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from flagrelease.errors import ComparisonRefused
from flagrelease.verdict.flips import flips
from flagrelease.verdict.samples import Sample
from flagrelease.verdict.types import NoiseFloor

__all__ = ["halves", "noise_floor", "own_noise"]


def noise_floor(one: Sequence[Sample], other: Sequence[Sample]) -> dict[str, NoiseFloor]:
    """Compare two evaluations of the same server, by benchmark. Raises ComparisonRefused as `compare` does."""
    from flagrelease.verdict.stats.paired import difference, interval
    from flagrelease.verdict.stats.pairing import pair

    floors = {}
    for name, paired in pair(one, other, clusters={}).items():
        bounds = interval(paired.pairs)
        changed = flips(paired.questions, paired.pairs.baseline.mean.tolist(), paired.pairs.candidate.mean.tolist())
        floors[name] = NoiseFloor(
            repeats=paired.candidate.repeats,
            difference=difference(paired.pairs),
            interval90=(bounds.low, bounds.high),
            flip_rate=sum(map(len, changed)) / paired.pairs.n,
        )
    return floors


def halves(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Split an evaluation with several repeats into the even and the odd repeats, renumbered from 0.

    With an odd number of repeats the last one of each question is left out.
    """
    repeats: dict[tuple[str, str, str], int] = {}
    for sample in samples:
        question = sample.key[:3]
        repeats[question] = max(repeats.get(question, 0), sample.repeat + 1)
    paired = [sample for sample in samples if sample.repeat < repeats[sample.key[:3]] // 2 * 2]
    even, odd = (
        [replace(sample, repeat=sample.repeat // 2) for sample in paired if sample.repeat % 2 == parity]
        for parity in (0, 1)
    )
    return even, odd


def own_noise(baseline: Sequence[Sample]) -> NoiseFloor | None:
    """The noise floor of one benchmark's baseline, from the repeats that all questions have; None if they are fewer
    than two, or if one half consists of errors."""
    count: Counter[tuple[str, str, str]] = Counter(sample.key[:3] for sample in baseline)
    each = min(count.values(), default=0)
    if each < 2:
        return None
    try:
        (floor,) = noise_floor(*halves([sample for sample in baseline if sample.repeat < each])).values()
    except ComparisonRefused:
        return None
    return floor
