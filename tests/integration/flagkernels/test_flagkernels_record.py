"""An engine's calls are recorded in all its processes, and compared with those a trace predicts."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the chip side needs torch")
pytest.importorskip("transformers", reason="tracing builds the model with transformers")

from flagkernels.engine import record  # noqa: E402
from flagkernels.model import trace  # noqa: E402
from support.flagkernels_chip import flagkernels  # noqa: E402

pytestmark = pytest.mark.integration
GEMS = '__version__ = "5.0.2"\n_FULL_CONFIG = ('
GEMS += '("exponential_", exponential_), ("mm", mm), ("mm.out", mm_out), ("neg", neg), ("silu", silu))\n'
ENGINE = """
import multiprocessing, sys, time

def serve(rows):
    import torch
    with torch.inference_mode():
        x = torch.ones(rows, 64)
        for _ in range(3):
            torch.mm(x, torch.ones(64, 64), out=torch.empty(rows, 64))
        (-x).sum()
        x.exponential_(generator=torch.Generator())
        torch.linalg.inv(torch.eye(4))
    time.sleep(1.5)

if __name__ == "__main__":
    serve(2)
    worker = multiprocessing.get_context("spawn").Process(target=serve, args=(8,))
    worker.start(); worker.join()
    print("bundle", __import__("os").environ.get("FLAGKERNELS_BUNDLE"))
    sys.exit(7)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("record")
    (folder / "flag_gems").mkdir()
    (folder / "flag_gems/__init__.py").write_text(GEMS)
    (folder / "engine.py").write_text(ENGINE)
    (folder / "calls").mkdir()
    (folder / "calls/1.json").write_text('{"pid": 1, "calls": []}')  # of an engine before
    words = ("record", "--calls", folder / "calls", "--catalogue", folder / "flag_gems")
    # The stand-in chip is left out: what is recorded are torch's own kernels.
    plain = {"PYTHONPATH": str(Path(record.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = flagkernels(*words, "--", sys.executable, folder / "engine.py", **plain)
    assert done.returncode == 7, done.stderr  # the engine's own
    return folder


def test_calls_of_all_processes_are_counted_by_shape(place: Path) -> None:
    found = {(call.overload, call.tensors[0].shape): counts for call, counts in record.merged(place / "calls").items()}
    assert found == {
        ("exponential_", (2, 64)): (1, 0),
        ("exponential_", (8, 64)): (1, 0),
        ("mm.out", (2, 64)): (3, 0),
        ("mm.out", (8, 64)): (3, 0),
        ("neg", (2, 64)): (1, 0),
        ("neg", (8, 64)): (1, 0),
    }
    assert not (place / "calls/1.json").exists()


@pytest.mark.slow  # an engine of its own
def test_the_table_shows_predicted_calls_and_operators_never_called(place: Path) -> None:
    path = place / "config.json"
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    path.write_text(json.dumps({"model_type": "llama", "vocab_size": 64, "dtype": "float32", **sizes}))
    words = ("--config", path, "--out", place / "trace.json", "--points", "decode:2x8", "--execution", "captured")
    assert flagkernels("trace", *words, "--catalogue", place / "flag_gems").returncode == 0
    assert "silu" in trace.read(place / "trace.json").operators
    words = ("--calls", place / "calls", "--catalogue", place / "flag_gems", "--trace", place / "trace.json")
    done = flagkernels("record", *words)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["operator", "aten", "launched", "captured", "traced", "shape", "class"]
    assert lines[1].split()[:5] == ["mm_out", "mm.out", "3", "0", "no"]
    assert lines[-1] == "traced, and never called: mm, silu"


@pytest.mark.slow  # two starts of torch
def test_nothing_recorded_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "flag_gems").mkdir()
    (tmp_path / "flag_gems/__init__.py").write_text(GEMS)
    done = flagkernels("record", "--calls", tmp_path / "none", "--catalogue", tmp_path / "flag_gems")
    assert (done.returncode, "no process recorded calls" in done.stderr) == (2, True), done.stderr
    done = flagkernels("record", "--calls", tmp_path / "none", "--catalogue", tmp_path / "flag_gems", "--", "no-engine")
    assert (done.returncode, "is not on PATH" in done.stderr) == (2, True), done.stderr
    assert not os.path.exists(tmp_path / "none")  # noqa: PTH110
