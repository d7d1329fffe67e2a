"""Time `flagrelease verify` for a generated release with many answers, import included.

    python benchmarks/verify.py [--answers 50000] [--keep DIR]

Half of the answers are the baseline's; all but 2,000 are multiple choice after reasoning. The time is that of a new
process, the median of three.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "pipeline"), str(ROOT / "tests")]

from flagrelease.config.matrix import Benchmark  # noqa: E402
from flagrelease.evaluation.datasets import write_manifest  # noqa: E402
from support import released  # noqa: E402

SHORT = 1000
COMMAND = "import sys; from flagrelease.cli import main; sys.exit(main())"


def made(root: Path, answers: int) -> tuple[Path, Path]:
    """A release with `answers` answers, and the folder of its questions."""
    data = root / "data"
    data.mkdir(parents=True)
    rows = [
        {"question": f"Which is number {n}?", "options": [f"{7 * n + k} apples" for k in range(4)], "answer": n % 4}
        for n in range(answers // 2 - SHORT)
    ]
    (data / "choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_manifest(data)
    choices = Benchmark(
        title="Choices", task="multiple-choice-cot", data="data://choices.jsonl", license="MIT", margin=0.05
    )
    short = replace(released.SHORT, data=f"generated://short-tasks?seed=7&questions={SHORT}", margin=0.05)
    benchmarks = {"short-tasks": short, "choices": choices}
    return released.release(root / "workspace", benchmarks, data=data, sequential=False), data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=50_000)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the release here, and use the one that is there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.keep or Path(temporary)
        kept = root / "workspace/releases/cpu/smollm2-135m/latest"
        folder, data = (kept, root / "data") if kept.exists() else made(root, arguments.answers)
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            argv = [sys.executable, "-c", COMMAND, "verify", str(folder), "--data-dir", str(data)]
            done = subprocess.run(argv, capture_output=True, text=True, check=False, env={"PYTHONPATH": sys.path[0]})
            seconds.append(time.perf_counter() - start)
            assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout.splitlines()[-1])
    print(f"{arguments.answers:,} answers: {statistics.median(seconds):.1f} s, median of {len(seconds)}")


if __name__ == "__main__":
    main()
