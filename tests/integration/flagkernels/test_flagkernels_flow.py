"""flagkernels end to end on the CPU, by its command line: trace, qualify, bench, select, attribute."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the chip side needs torch")
pytest.importorskip("transformers", reason="tracing builds the model with transformers")
pytest.importorskip("sqlalchemy", reason="flagkernels reads FlagGems' database with it")

from flagkernels.attribute import attribute  # noqa: E402
from flagkernels.measure.figures import figures_of  # noqa: E402
from flagkernels.model import trace  # noqa: E402
from flagkernels.operators import listing  # noqa: E402
from flagkernels.qualify.rows import read_rows  # noqa: E402

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[3]
CONFIG = {
    "model_type": "qwen3",
    "hidden_size": 512,
    "intermediate_size": 768,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 8000,
    "dtype": "bfloat16",
}
# flag_gems/__init__.py of 5.0.2, cut to the operators that are tested here.
GEMS = """__version__ = "5.0.2"
_FULL_CONFIG = (("mm", mm), ("silu", silu), ("rsqrt", rsqrt), ("mean.dim", mean_dim), ("cat", cat),
    ("pow.Tensor_Scalar", pow_tensor_scalar), ("embedding", embedding))
"""


def flagkernels(folder: Path, words: str, *, code: int = 0) -> str:
    paths = [str(ROOT / "pipeline"), str(ROOT / "tests")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "flagkernels", *words.split()]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A traced model whose operators are qualified."""
    place = tmp_path_factory.mktemp("flow")
    (place / "config.json").write_text(json.dumps(CONFIG))
    (place / "flag_gems").mkdir()
    (place / "flag_gems/__init__.py").write_text(GEMS)
    flagkernels(
        place,
        "trace --config config.json --catalogue flag_gems --out trace.json --execution eager"
        " --points prefill:1x64,decode:2x16",
    )
    flagkernels(
        place,
        "qualify --trace trace.json --out verdicts.jsonl --device cpu --real 2"
        " --source support.flagkernels_mixed:SILU_OFF"
        " --report qualified.json",
    )
    return place


def test_the_faulty_operator_is_not_shipped(folder: Path) -> None:
    verdicts = {row.operator: row for row in read_rows(folder / "verdicts.jsonl").values()}
    assert set(verdicts) == set(trace.read(folder / "trace.json").operators)
    assert {name for name, row in verdicts.items() if row.verdict != "correct"} == {"silu"}
    report = json.loads((folder / "qualified.json").read_text())
    assert report["verdicts"] == {"correct": len(verdicts) - 1, "wrong": 1}
    assert [(row["operator"], row["verdict"]) for row in report["excluded"]] == [("silu", "wrong")]
    flagkernels(folder, "select --trace trace.json --verdicts verdicts.jsonl --out coverage.yaml")
    assert listing.read_operators(folder / "coverage.yaml").include == tuple(sorted(set(verdicts) - {"silu"}))


@pytest.mark.slow  # it times: on a machine that does other work as well, no operator may win clearly
def test_bench_and_express_decide_by_shape_class(folder: Path) -> None:
    source = "--device cpu --source support.flagkernels_mixed:FAST"
    said = flagkernels(
        folder,
        f"bench --trace trace.json --verdicts verdicts.jsonl --operators mm,rsqrt --out figures.jsonl {source}"
        " --pairs 21 --per-operator 8 --ceilings ceilings.json",
    )
    assert "TFLOP/s" in said
    figures = list(figures_of(folder / "figures.jsonl"))
    assert {figure.operator for figure in figures} == {"mm", "rsqrt"}
    said = flagkernels(
        folder,
        "select --policy express --trace trace.json --verdicts verdicts.jsonl --figures figures.jsonl"
        f" --config config.json --out operators.yaml --report express.json --loads decode:2x16 --floor 0.5 {source}",
    )
    report = json.loads((folder / "express.json").read_text())
    chosen = listing.read_operators(folder / "operators.yaml")
    assert chosen.policy == "express"
    assert report["steps"][-1]["decision"] == "accepted"
    assert "mm" in chosen.include
    won = {f"!{f.shape_class}" for f in figures if f.operator == "mm" and f.low > 1}
    assert set(chosen.native["mm"]) == {"*", *won}
    assert "mm: +" in said


@pytest.mark.slow  # the next one does the same in a model whose layers are compiled
def test_the_culprit_in_a_real_model_is_named_and_removed(folder: Path) -> None:
    (folder / "all.yaml").write_text(listing.Operators(include=("mm", "rsqrt", "silu")).to_yaml())
    said = flagkernels(
        folder,
        "attribute --operators all.yaml --config config.json --out attribute.json --clean clean.yaml --device cpu"
        " --source support.flagkernels_mixed:SILU_OFF --tokens 128",
    )
    assert "round 1" in said
    report = json.loads((folder / "attribute.json").read_text())
    assert report["culprits"] == ["silu"]
    assert report["clean"] is True
    assert listing.read_operators(folder / "clean.yaml").include == ("mm", "rsqrt")
    recorded = attribute.read_record(folder / "attribute.jsonl")
    assert len(recorded) == 5  # all three, each alone, and what remains
    assert list(recorded)[-1] == ("mm", "rsqrt")
    assert report["together"]["operators"] == ["mm", "rsqrt", "silu"]


@pytest.mark.slow  # compiles a model; unit tests attribute in parts
def test_the_culprit_that_only_a_compiled_model_calls_is_named(folder: Path) -> None:
    """Products of compiled layers go to `mm.out`; attribution runs the model eagerly, which calls `mm`."""
    (folder / "compiled.yaml").write_text(
        listing.Operators(include=("mm", "mm_out", "silu"), execution="compiled").to_yaml()
    )
    said = flagkernels(
        folder,
        "attribute --operators compiled.yaml --config config.json --out compiled.json --clean clean.yaml --device cpu"
        " --source support.flagkernels_mixed:MM_OUT_OFF --tokens 64",
    )
    # Its silu is five percent off as well, but Inductor has an activation of its own.
    assert "culprits: mm_out; clean with 2 operators" in said
    assert listing.read_operators(folder / "clean.yaml").execution == "compiled"


@pytest.mark.slow  # four starts of torch; unit tests report them as well
def test_the_steps_report_missing_inputs_before_they_begin(folder: Path) -> None:
    """A missing device, missing figures or a wrong name is reported at once, and without a traceback."""
    verdicts = "--trace trace.json --verdicts verdicts.jsonl"
    said = flagkernels(folder, f"bench {verdicts} --out none.jsonl --device xpu", code=6)
    assert "device 'xpu' is not available" in said
    express = "--policy express --config config.json --device cpu --out none.yaml --figures none.jsonl"
    assert "cannot read none.jsonl" in flagkernels(folder, f"select {verdicts} {express}", code=2)
    (folder / "typo.yaml").write_text("include: [mm, sillu]\n")
    said = flagkernels(folder, "attribute --operators typo.yaml --config config.json --out none.json", code=2)
    assert "did you mean 'silu'" in said
    (folder / "mm.yaml").write_text("include: [mm]\n")
    said = flagkernels(
        folder, "attribute --operators mm.yaml --config config.json --out none.json --device xpu", code=6
    )
    assert "device 'xpu' is not available" in said
    assert "Traceback" not in said


@pytest.mark.slow  # unit tests kill a process at each step; this one in the command as a whole
def test_an_operator_that_kills_the_process_is_named_and_the_other_measured(folder: Path) -> None:
    (folder / "two.yaml").write_text(listing.Operators(include=("mm", "rsqrt")).to_yaml())
    said = flagkernels(
        folder,
        "attribute --operators two.yaml --config config.json --out deadly.json --clean clean.yaml --device cpu"
        " --source support.flagkernels_mixed:MM_ABORTS --tokens 64",
    )
    assert "culprits: mm; clean with 1 operators" in said
    recorded = attribute.read_record(folder / "deadly.jsonl")
    assert recorded["mm",].note == "died of SIGABRT"
    assert not recorded["rsqrt",].guilty
    assert listing.read_operators(folder / "clean.yaml").include == ("rsqrt",)
