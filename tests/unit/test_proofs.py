"""The programs behind the proofs still speak to today's flagkernels. What they measure takes the chip."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the chip side needs torch")

from flagkernels.model import architecture, trace
from flagkernels.model.shard import Share
from flagkernels.operators import catalogue
from support.benchmark_programs import opened
from support.small_model import config

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


def test_products_of_each_device_are_compared_with_the_trace(tmp_path: Path) -> None:
    """With the calls of the trace itself on one device; another one calls one more, and computes no logits."""
    devices = opened("devices", "benchmarks/h100")
    known = catalogue.parse('__version__ = "5.0.2"\n_FULL_CONFIG = (("mm", mm), ("mm.out", mm_out))\n')
    arch = architecture.read_config(config(tmp_path, "llama"))
    points = (trace.Point(phase="decode", batch=4, length=8),)
    found = trace.trace(arch, points, known, share=Share(tensor=2))
    own = {traced.call for traced in found.calls}
    assert devices.faults(devices.compared(found, {0: own, 1: own}, 256), 2) == []
    layers = {call for call in own if call.overload == "mm.out"}
    whole = trace.trace(arch, points, known).calls
    (foreign,) = [traced.call for traced in whole if traced.call.overload == "mm"]
    wrong = devices.faults(devices.compared(found, {0: own, 1: {*layers, foreign}}, 256), 2)
    assert wrong == [
        f"device 1 calls {foreign.overload} 64 × 500, which the trace does not have",
        "device 1 computes no logits",
        "the devices call different products",
    ]
    assert devices.faults(devices.compared(found, {0: own}, 256), 2) == ["1 devices called products instead of 2"]
