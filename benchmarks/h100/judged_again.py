"""Judge the counts of a published record by the rule of this version:

    python benchmarks/h100/judged_again.py docs/example-h100/release.json

The answers of that release are not stored; its record has, by benchmark, the numbers of questions, of right answers
and of flips. Answers with these numbers are judged by `fixed_sample.compare`, as `flagrelease compare` does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "pipeline"))

from flagrelease.verdict.fixed_sample import compare
from flagrelease.verdict.samples import Sample
from flagrelease.verdict.types import Comparison

CHANCES = {"arc": 0.25, "mmlu": 0.25}


def judged_again(score: dict[str, Any]) -> Comparison:
    name, n = score["benchmark"], score["n"]
    gained, lost = score["flips"]
    right = round(score["baseline"] * n)
    if lost > right or gained > n - right:
        raise ValueError(f"{name}: more flips than answers")
    before = [row < right for row in range(n)]
    after = [lost <= row < right + gained for row in range(n)]
    population = score["partial"].partition(" of ")[2].partition(" ")[0].replace(",", "") if score["partial"] else n
    return compare(
        _side(name, before),
        _side(name, after),
        margins={name: score["margin"]},
        chances={name: CHANCES.get(name, 0.0)},
        populations={name: int(population)},
    )


def _side(name: str, right: list[bool]) -> list[Sample]:
    return [
        Sample(
            benchmark=name,
            subset="",
            question_id=str(row),
            prompt_sha256="0" * 64,
            repeat=0,
            correct=correct,
            answer="as recorded",
            finish_reason="stop",
            completion_tokens=None,
            latency_s=None,
            error=None,
        )
        for row, correct in enumerate(right)
    ]


def main() -> None:
    record = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print("| benchmark | n | baseline | candidate | recorded verdict | by this rule | reason |")
    print("|---" * 7 + "|")
    for score in record["accuracy"]["benchmarks"]:
        (found,) = judged_again(score).benchmarks.values()
        print(
            f"| {score['benchmark']} | {found.n} | {found.baseline.score:.3f} | {found.candidate.score:.3f} "
            f"| {score['verdict']} | {found.verdict} | {found.reason} |"
        )


if __name__ == "__main__":
    main()
