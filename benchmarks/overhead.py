"""Measure flagrelease's share of a cell's time: all but download, build, push, server start and inference.

Runs a complete cell in a new workspace, in a separate process, and compares its wall time with the time that its
stages waited.

    python benchmarks/overhead.py [--cell cpu/smollm2-135m] [--engine prefect] [--limit-percent 5]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from flagrelease.cli.text_table import aligned


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", default="cpu/smollm2-135m")
    parser.add_argument("--engine", default="prefect", choices=("prefect", "inline"))
    parser.add_argument("--limit-percent", type=float, default=5.0)
    parser.add_argument("--workspace", type=Path, help="default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flagrelease-") as scratch:
        workspace = arguments.workspace or Path(scratch)
        command = ["flagrelease", "run", arguments.cell, "--engine", arguments.engine, "--workspace", str(workspace)]
        start = time.monotonic()
        done = subprocess.run(
            [str(Path(sys.executable).parent / command[0]), *command[1:], "--json"], stdout=subprocess.PIPE, check=True
        )
        wall = time.monotonic() - start
    (cell,) = json.loads(done.stdout)["cells"]
    rows = []
    outside = 0.0
    for stage in cell["stages"]:
        own = stage["seconds"] - stage["outside_seconds"]
        outside += stage["outside_seconds"]
        rows.append([stage["stage"], f"{stage['seconds']:.2f}", f"{stage['outside_seconds']:.2f}", f"{own:.2f}"])
    between = wall - sum(stage["seconds"] for stage in cell["stages"])
    rows.append(["start, executor, table", f"{between:.2f}", "0.00", f"{between:.2f}"])
    rows.append(["total", f"{wall:.2f}", f"{outside:.2f}", f"{wall - outside:.2f}"])
    share = 100 * (wall - outside) / wall
    print(aligned([arguments.cell, "seconds", "waiting", "overhead"], rows, right=[1, 2, 3]))
    print(f"\noverhead: {share:.1f} % of the cell's time (limit {arguments.limit_percent:g} %)")
    return 0 if share <= arguments.limit_percent else 1


if __name__ == "__main__":
    sys.exit(main())
