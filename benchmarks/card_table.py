"""Judge the scores of a published card: make sample files with exactly those scores, and run `compare` on them.

    python benchmarks/card_table.py [--flips 0.2]

A card shows one score per side, but not how many answers differ between the sides. Two equal servers that sample with
a temperature differ on 2·E[p(1−p)] ≈ 0.2 to 0.27 of the questions; `--flips` sets that share.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "pipeline"))

from flagrelease.verdict.compare import compare_main
from flagrelease.verdict.samples import Sample, write_samples

# Benchmark, questions, correct answers of the reference chip and of the released one: scores 0.700/0.733, 0.507/0.503,
# 0.502/0.488, 0.699/0.699, 0.602/0.607.
CARD = (
    ("aime", 30, 21, 22),
    ("gpqa", 1192, 604, 600),
    ("gpqa_diamond", 198, 100, 100),
    ("livebench", 910, 457, 444),
    ("mmlu", 14042, 9815, 9815),
    ("musr", 756, 455, 459),
)


def sides(n: int, before: int, after: int, flips: float) -> tuple[list[bool], list[bool]]:
    """Answers of both sides: `before` and `after` correct ones, and about `flips`·n questions on which they differ."""
    gained = round((flips * n + after - before) / 2)
    lost = gained + before - after
    both = before - lost
    neither = n - both - lost - gained
    a = [True] * both + [True] * lost + [False] * gained + [False] * neither
    b = [True] * both + [False] * lost + [True] * gained + [False] * neither
    return a, b


def samples(benchmark: str, right: Sequence[bool]) -> list[Sample]:
    return [
        Sample(
            benchmark=benchmark,
            subset="",
            question_id=str(number),
            prompt_sha256=hashlib.sha256(f"{benchmark} {number}".encode()).hexdigest(),
            repeat=0,
            correct=correct,
            answer=None,
            finish_reason="stop",
            completion_tokens=None,
            latency_s=None,
            error=None,
        )
        for number, correct in enumerate(right)
    ]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--flips", type=float, default=0.2, help="share of the questions on which the sides differ")
    arguments.add_argument("--json", action="store_true")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("reference.jsonl", "release.jsonl")]
        answered: list[list[Sample]] = [[], []]
        for benchmark, n, before, after in CARD:
            for side, right in zip(answered, sides(n, before, after, chosen.flips), strict=True):
                side += samples(benchmark, right)
        for file, side in zip(files, answered, strict=True):
            write_samples(file, side)
        text, _ = compare_main(*files, {}, chosen.json)
    print("\n".join(line for line in text.splitlines() if "on trust" not in line))


if __name__ == "__main__":
    main()
