"""A record's counts are judged by the present rule."""

from __future__ import annotations

from support.benchmark_programs import opened


def test_a_baseline_near_zero_passes_no_longer() -> None:
    score = {"benchmark": "gsm8k", "n": 880, "baseline": 0.0125, "flips": [5, 7], "margin": 0.02, "partial": None}
    (found,) = opened("judged_again", "benchmarks/h100").judged_again(score).benchmarks.values()
    assert (found.verdict, found.sensitive) == ("INCONCLUSIVE", False)
    assert (found.baseline.score, round(found.candidate.score * 880)) == (0.0125, 9)
