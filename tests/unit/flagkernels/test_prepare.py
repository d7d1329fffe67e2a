"""prepare: resuming, invalidation and the report; and machine-readable progress."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the steps import torch")

from flagkernels import cli, prepare
from flagkernels.bundle import report
from flagkernels.bundle.compat import Compat
from flagkernels.errors import ChipFault, UsageError
from flagkernels.measure.figures import Figure
from flagkernels.model import trace
from flagkernels.prepare import Step, Work
from flagkernels.progress import Progress, report_failure
from flagkernels.qualify.rows import Row
from support.small_model import config


class Runs:
    """Steps that only write a file; `calls` lists those that ran."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.calls = root, list[str]()
        self.fails = ""
        monkeypatch.setattr(prepare, "_call", self._call)

    def _call(self, step: Step, _log: Path) -> None:
        self.calls.append(step.name)
        if step.name == self.fails:
            raise prepare._failed(step.name, 6)
        step.made.parent.mkdir(parents=True, exist_ok=True)
        step.made.write_text(" ".join(step.argv))

    def run(self, steps: dict[str, str], key: str = "machine") -> list[str]:
        self.calls.clear()
        work = Work(self.root)
        with Progress("prepare", total=len(steps), stream=io.StringIO()) as progress:
            run = prepare._Run(work=work, progress=progress, key=key)
            for name, word in steps.items():
                made, partial = (self.root / f"{name}.{kind}" for kind in ("out", "partial"))
                run.step(Step(name=name, argv=(word,), made=made, partial=(partial,)))
        return list(self.calls)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


THREE = {"trace": "a", "qualify": "b", "tune": "c"}


def test_finished_steps_are_not_repeated(runs: Runs) -> None:
    assert runs.run(THREE) == ["trace", "qualify", "tune"]
    assert runs.run(THREE) == []
    (runs.root / "qualify.out").unlink()
    assert runs.run(THREE) == ["qualify"]


def test_changed_inputs_repeat_the_steps_that_depend_on_them(runs: Runs) -> None:
    runs.run(THREE)
    (runs.root / "qualify.partial").write_text("half")
    assert runs.run({**THREE, "qualify": "other"}) == ["qualify", "tune"]
    assert not (runs.root / "qualify.partial").exists()
    assert runs.run({**THREE, "qualify": "other"}, key="another machine") == ["trace", "qualify", "tune"]


def test_a_stopped_step_resumes_from_its_partial_file(runs: Runs) -> None:
    runs.fails = "qualify"
    with pytest.raises(prepare.StepFailed, match="qualify ended with exit code 6") as caught:
        runs.run(THREE)
    assert caught.value.exit_code == 6
    (runs.root / "qualify.partial").write_text("half")
    runs.fails = ""
    assert runs.run(THREE) == ["qualify", "tune"]
    assert (runs.root / "qualify.partial").read_text() == "half"


def test_another_machine_clears_the_measurements(tmp_path: Path) -> None:
    import argparse

    config = tmp_path / "config.json"
    config.write_text("{}")
    work = Work(tmp_path / "work")
    work.root.mkdir()
    args = argparse.Namespace(config=config, device="cuda")
    first = prepare._machine_key(work, args, COMPAT)
    work.verdicts.write_text("measured")
    assert prepare._machine_key(work, args, COMPAT) == first
    assert work.verdicts.exists()
    assert prepare._machine_key(work, args, Compat(**{**vars(COMPAT), "driver": "2"})) != first
    assert not work.verdicts.exists()


COMPAT = Compat(vendor="nvidia", device="H100", driver="1", triton="3.6.0", flaggems="5.0.2", source="ab")


def row(operator: str, verdict: str, reason: str = "") -> Row:
    return Row(
        key=operator, operator=operator, verdict=verdict, reason=reason, at="real" if reason else "", cases=1, passed=1,
        dropped=0, error=None, native=None, relative=None, seconds=1.0, peak_mib=1, results=(), log_tail="",
    )  # fmt: skip


def figure(operator: str, low: float, share: float) -> Figure:
    return Figure(
        operator=operator, shape_class="x", call={}, counts={}, native=1.0, candidate=1.0, ratio=1.0, low=low, high=2.0,
        bytes=1, operations=0, share=share, native_share=0.5,
    )  # fmt: skip


def report_of(choice: dict[str, Any]) -> dict[str, Any]:
    found = trace.Trace(
        model="m", config_sha256="c", view="engine", execution="compiled", dtype="bfloat16", versions={}, points=(),
        static=frozenset(), calls=(), native_only={}, layers=1, device="meta",
    )  # fmt: skip
    keys = [{"kernel": "k", "state": "tuned", "screened": 12}, {"kernel": "k", "state": "borrowed", "screened": 0}]
    tuned = {
        "tuned": keys,
        "missing": [], "untunable": [], "failed": [], "tuning_events": 0,
    }  # fmt: skip
    rows = [row("mm", "correct"), row("neg", "correct"), row("cat", "correct"), row("mul", "crash", "SIGSEGV")]
    return report.build(
        found,
        rows,
        tuned=tuned,
        figures=[figure("mm", 1.1, 0.9), figure("mm", 0.9, 0.7)],
        ceilings={"bandwidth": 3e12},
        choice=choice,
        by_hand={"silu": "issue 1"},
        compat=COMPAT,
        seconds={"tune": 37.5},
    )


def test_every_excluded_operator_has_a_reason() -> None:
    ratios = {"decode:1x512": {"median": 1.02, "low": 1.01, "high": 1.03, "pairs": 21}}
    steps = [
        {"operators": ["cat"], "ratios": ratios, "decision": "slower at decode:1x512", "out": "cat"},
        {"operators": ["mm", "neg"], "ratios": ratios, "decision": "below 0.98 at decode:1x512", "out": "neg"},
        {"operators": ["mm"], "ratios": ratios, "decision": "accepted", "out": ""},
    ]
    made = report_of({"policy": "express", "operators": ["mm"], "steps": steps})
    assert made["excluded"] == [
        {"operator": "cat", "verdict": "correct", "reason": "slower at decode:1x512"},
        {"operator": "mul", "verdict": "crash", "reason": "SIGSEGV at real"},
        {"operator": "neg", "verdict": "correct", "reason": "below 0.98 at decode:1x512 with the others"},
        {"operator": "silu", "verdict": "excluded", "reason": "issue 1"},
    ]
    assert made["verdicts"] == {"correct": 3, "crash": 1}
    assert made["served"] == {"decode:1x512": [1.02, 1.01, 1.03]}
    assert (made["tuning"]["kernels"], made["tuning"]["keys"], made["tuning"]["candidates"]) == (1, 2, 12)
    assert made["tuning"]["seconds"] == 37.5
    assert made["limits"]["operators"]["mm"] == {
        "classes": 2, "faster": 1, "share": [0.7, 0.8, 0.9], "native_share": [0.5, 0.5, 0.5],
    }  # fmt: skip


def test_an_operator_that_was_not_tried_has_a_reason() -> None:
    made = report_of({"policy": "express", "operators": ["cat", "mm"], "steps": []})
    reasons = {row["operator"]: row["reason"] for row in made["excluded"]}
    assert reasons["neg"] == "certainly faster than the vendor's kernel at no shape class"


def test_coverage_that_was_not_served_reports_no_speed() -> None:
    assert report_of({"policy": "coverage", "operators": ["mm", "neg", "cat"], "steps": []})["served"] == {}


def test_progress_is_one_json_object_a_line_for_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGKERNELS_PROGRESS", "json")
    stream = io.StringIO()
    with Progress("qualify", total=2, stream=stream) as progress:
        progress.doing("mm")
        progress.doing("mm")  # at most twice a second
        progress.step("mm correct")
    report_failure("qualify", ChipFault("no chip", why="it is gone", hint="look"), stream)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert lines[0] == {"step": "qualify", "done": 0, "total": 2, "doing": "mm"}
    assert lines[1] == {"step": "qualify", "done": 1, "total": 2, "text": "mm correct"}
    assert lines[-1] == {"failed": "qualify", "code": 6, "what": "no chip", "why": "it is gone", "hint": "look"}
    assert len(lines) == 4


def test_fewer_devices_than_the_model_needs_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is traced or tuned."""
    argv = ["prepare", "--config", str(config(tmp_path, "llama")), "--work", str(tmp_path / "work"), "--device", "cpu"]
    assert cli.main([*argv, "--out", str(tmp_path / "out"), "--devices", "2", "--tensor", "2"]) == 6
    assert "the model needs 2 devices, and 1 is available here" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_an_unknown_chip_is_an_error_that_names_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/none")
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has an NVIDIA driver")
    with pytest.raises(UsageError, match="which vendor's chip") as caught:
        prepare._vendor_here()
    assert "--vendor" in caught.value.hint
