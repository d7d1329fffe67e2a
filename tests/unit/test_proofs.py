"""The programs behind the proofs still speak to today's flagkernels. What they measure takes the chip."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the chip side needs torch")

from flagkernels.model import trace
from support.benchmark_programs import opened

ROOT = Path(__file__).parents[2]
PROGRAMS = (*sorted((ROOT / "benchmarks/h100").glob("*.py")), ROOT / "docs/proofs/h100/tuning.py")
NOT_MAIN = {"planted.py", "culprit.py"}


@pytest.mark.slow  # nine starts of torch
@pytest.mark.parametrize("path", [p for p in PROGRAMS if p.name not in NOT_MAIN], ids=lambda path: path.name)
def test_each_program_says_how_it_is_called(path: Path) -> None:
    done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "--out" in done.stdout


def test_the_products_that_are_tuned_are_a_trace(tmp_path: Path) -> None:
    opened("tuning", "docs/proofs/h100").write_trace(tmp_path / "mm.json")
    found = trace.read(tmp_path / "mm.json")
    assert (len(found.calls), found.operators) == (56, ("mm",))
