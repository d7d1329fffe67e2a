"""Print the score and the length of the answers of each part of a benchmark.

python benchmarks/by_kind.py .flagrelease/releases/cpu/smollm2-135m/latest/evidence/accuracy/baseline.samples.jsonl
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from flagrelease.verdict.samples import Sample, read_samples


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    samples = read_samples(Path(sys.argv[1]))
    parts: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        parts[sample.subset].append(sample)
    print("| part | right | tokens per answer |\n| --- | ---: | ---: |")
    for name, part in [*sorted(parts.items()), ("all", samples)]:
        right = sum(float(sample.correct) for sample in part)
        tokens = sum(sample.completion_tokens or 0 for sample in part) / len(part)
        print(f"| `{name}` | {right:g} of {len(part)} | {tokens:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
