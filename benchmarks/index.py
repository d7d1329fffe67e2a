"""Time `flagrelease index` on synthetic releases, made from a real record, and print the bytes of the site.

python benchmarks/index.py [--releases 10000] [--keep DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "pipeline")]

from flagrelease.store.ledger import Entry, Failure  # noqa: E402

RECORD = ROOT / "docs/example-h100/release.json"
PER_CELL = 10
STAGES = ("weights", "kernels", "image", "smoke", "accuracy", "speed")
FAILURES = (
    ("smoke", "smoke failed", "repeatable: two greedy answers to one question differ"),
    ("accuracy", "its answers are worse than those of native", "gsm8k: 0.412 versus 0.486 over 1319 questions"),
    ("speed", "it is slower than native", "512 → 128 tokens × 32: 0.71 [0.66, 0.77] of native, gate 0.80"),
    ("image", "the base image cannot be pulled", "the registry has no manifest of this digest"),
)
VENDORS = ("ascend", "cambricon", "enflame", "hygon", "iluvatar", "kunlunxin", "metax", "mthreads", "nvidia", "thead")
FAMILIES = ("deepseek-v3", "glm-4.5", "internlm3", "minicpm4", "qwen3")
SIZES = ("0.6b", "8b", "14b", "32b", "235b")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--releases", type=int, default=10_000)
    parser.add_argument("--keep", type=Path, help="make the releases here, and keep them")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        started = time.perf_counter()
        project(folder, arguments.releases)
        print(f"{arguments.releases} releases made in {time.perf_counter() - started:.1f} s")
        measure(folder)


def measure(folder: Path) -> None:
    """Run the verb, and print its time, memory and bytes."""
    workspace = folder / ".flagrelease"
    started = time.perf_counter()
    program = "import sys; from flagrelease.cli.app import main; sys.exit(main())"
    argv = [sys.executable, "-c", program, "index", "--matrix", str(folder / "matrix.yaml")]
    subprocess.run(argv, check=True, env={**os.environ, "PYTHONPATH": str(ROOT / "pipeline")})
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    memory = used.ru_maxrss / 1e3
    files = [path for path in (workspace / "index").rglob("*") if path.is_file()]
    front = (workspace / "index/index.html").stat().st_size
    print(f"read: ledger {size(workspace / 'ledger.jsonl')}, releases {size(workspace / 'releases')}")
    processor = used.ru_utime + used.ru_stime
    print(f"flagrelease index: {seconds:.1f} s, {processor:.1f} s of processor time, {memory:.0f} MB of memory")
    total = sum(path.stat().st_size for path in files) / 1e6
    print(f"written: index.html {front / 1e3:.1f} kB, {len(files)} files, {total:.1f} MB")


def size(path: Path) -> str:
    files = path.rglob("*") if path.is_dir() else [path]
    return f"{sum(each.stat().st_size for each in files if each.is_file()) / 1e6:.0f} MB"


def project(folder: Path, releases: int) -> None:
    """A project with this many releases, ten of each cell, in each state that a cell can have."""
    cells = -(-releases // PER_CELL)
    models = [f"{family}-{each}" for family in FAMILIES for each in SIZES]
    chips = [f"{vendor}-{number}" for number in range(1, 100) for vendor in VENDORS][: -(-cells // len(models))]
    matrix(folder, chips, models)
    workspace = folder / ".flagrelease"
    lot, record = random.Random(1), json.loads(RECORD.read_bytes())
    names = [f"{chip}/{model}" for chip in chips for model in models][:cells]
    workspace.mkdir(parents=True, exist_ok=True)
    left = releases
    with (workspace / "ledger.jsonl").open("wb") as ledger:
        for name in names:
            for entry in history(workspace, name, min(left, PER_CELL), record, lot):
                ledger.write(msgspec.json.encode(entry) + b"\n")
            left -= PER_CELL


def matrix(folder: Path, chips: list[str], models: list[str]) -> None:
    plain = yaml.safe_load((ROOT / "templates/matrix.yaml").read_text())
    chip, model = plain["chips"]["cpu"], plain["models"]["smollm2-135m"]
    plain["chips"] = dict.fromkeys(["cpu", *chips], chip)
    plain["models"] = dict.fromkeys(models, model)
    plain["exclude"] = [{"chip": "cpu", "model": "*", "reason": "has no accelerator"}]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "matrix.yaml").write_text(json.dumps(plain, indent=1))  # JSON is YAML


def history(workspace: Path, cell: str, releases: int, record: dict[str, Any], lot: random.Random) -> Iterator[Entry]:
    """The ledger entries of a cell, whose records and answers are written."""
    at = datetime(2026, 9, 1, tzinfo=UTC) + timedelta(minutes=lot.randrange(60_000))
    gems = 0
    for number in range(releases):
        at += timedelta(days=lot.randrange(2, 9))
        made, tag = deepcopy(record), f"tree_none-gems_5.{gems}.0-scale_0.8.0-cx_none-{lot.randrange(16**12):012x}"
        gems += lot.random() < 0.4
        change(made, cell, gems, lot)
        folder = workspace / "releases" / cell / tag
        folder.mkdir(parents=True)
        raw = msgspec.json.encode(made)
        (folder / "release.json").write_bytes(raw)
        if number == releases - 1:
            answers(folder / "evidence/accuracy", lot)
        for stage in STAGES:
            yield entry(at, cell, stage, "running")
            yield entry(at, cell, stage, "done", made[stage])
        yield entry(at, cell, "publish", "done", published(cell, tag, len(raw)))
    what = lot.random()
    if what < 0.03:
        stage, text, why = lot.choice(FAILURES)
        failure = Failure(kind="GateFailed", code=4, what=f"{cell} is not published: {text}", why=why, hint="run again")
        yield entry(at + timedelta(days=1), cell, stage, "failed", error=failure)
    elif what < 0.05:
        failure = Failure(kind="Inconclusive", code=5, what=f"{cell} is not published: the evidence is inconclusive")
        yield entry(at + timedelta(days=1), cell, "publish", "failed", error=failure)
    elif what < 0.06:
        yank = {"tag": tag, "image": "", "reason": "wrong answers after four hours of load", "by": "ci", "at": str(at)}
        yield entry(at + timedelta(days=1), cell, "yank", "done", yank)


def entry(at: datetime, cell: str, stage: str, state: str, result: Any = None, error: Failure | None = None) -> Entry:
    return Entry(
        at=at.isoformat(timespec="seconds"),
        run="5" * 12,
        cell=cell,
        stage=stage,
        state=state,  # type: ignore[arg-type]
        key="7" * 64,
        process="1@b",
        result=result,
        error=error,
    )


def published(cell: str, tag: str, written: int) -> dict[str, Any]:
    return {
        "digest": f"sha256:{'8' * 64}",
        "tags": [f"localhost:5000/flagrelease/{cell.replace('/', '-')}:{name}" for name in (tag, "latest")],
        "folder": f"releases/{cell}/{tag}",
        "record": {"name": "release.json", "sha256": "9" * 64, "size": written},
    }


def change(made: dict[str, Any], cell: str, gems: int, lot: random.Random) -> None:
    """Give a copy of the record other figures."""
    chip, model = cell.split("/")
    made |= {"cell": cell, "chip_name": chip, "model_name": model}
    made["chip"]["device"]["name"] = chip.replace("-", " ").title()
    made["model"]["title"] = model.title()
    made["chip"]["components"]["flaggems"] = f"5.{gems}.0"
    made["image"]["size"] = lot.randrange(9_000_000_000, 22_000_000_000)
    made["image"]["runner"] = "docker"
    made["smoke"]["ready_seconds"] = round(lot.uniform(40, 180), 1)
    for row in made["accuracy"]["benchmarks"]:
        row["difference"] = round(lot.gauss(0, 0.006), 4)
        row["baseline"] = round(random.Random(cell + row["benchmark"]).uniform(0.4, 0.9), 3)
        row["candidate"] = round(row["baseline"] + row["difference"], 4)
        row["interval90"] = [row["difference"] - 0.012, row["difference"] + 0.012]
    for point in made["speed"]["points"]:
        point["ratio"] = round(lot.gauss(0.95, 0.05), 3)
        point["interval95"] = [point["ratio"] - 0.04, point["ratio"] + 0.04]


def answers(folder: Path, lot: random.Random) -> None:
    """Answers of both sides to 200 questions."""
    folder.mkdir(parents=True)
    for name in ("accuracy_baseline.samples.jsonl", "accuracy_samples.jsonl"):
        lines = []
        for number in range(200):
            row = {"benchmark": "gsm8k", "subset": "test", "question_id": f"{number:04}", "prompt_sha256": "0" * 64}
            answer = str(number if lot.random() < 0.95 else number + 1)
            graded = {"repeat": 0, "correct": answer == str(number), "answer": answer, "finish_reason": "stop"}
            lines.append(json.dumps({**row, **graded, "completion_tokens": 90, "latency_s": 1.5, "error": None}))
        (folder / name).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
