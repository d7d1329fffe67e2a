"""Problems that would surface after hours are reported before anything is downloaded."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from flagrelease.cli.app import main
from flagrelease.config.cell import select
from flagrelease.config.lockfile import LockedChip
from flagrelease.errors import ConfigError
from flagrelease.evaluation.datasets import write_manifest
from flagrelease.run.plan import CellPlan, Choice
from flagrelease.run.preflight import check_cell, checked
from flagrelease.run.project import Options, Project, open_project
from flagrelease.stages import STAGES
from support.listing_engine import listing

MATRIX = Path(__file__).parents[3] / "matrix.yaml"
CELL = "nvidia-h100/qwen3-8b"


def planned(tmp_path: Path, cell: str, *only: str, data_dir: Path | None = None) -> tuple[CellPlan, Project]:
    options = Options(matrix=MATRIX, workspace=tmp_path / "workspace", data_dir=data_dir)
    project = open_project(options)
    wanted = Choice(only=frozenset(only))
    return project.plan(select(project.cells, [cell], [], []), STAGES, wanted)[0], project


def test_a_benchmark_whose_data_is_fetched_needs_no_folder(tmp_path: Path) -> None:
    check_cell(*planned(tmp_path, "cpu/smollm2-135m"))


@pytest.mark.parametrize(
    ("data_dir", "expected"),
    [(None, "ifeval has no data"), ("nowhere", "nowhere does not exist"), (".", "no manifest")],
)
def test_a_benchmark_without_data(tmp_path: Path, data_dir: str | None, expected: str) -> None:
    folder = None if data_dir is None else tmp_path / data_dir
    plan, project = planned(tmp_path, "nvidia-h100/smollm2-135m", data_dir=folder)
    with pytest.raises(ConfigError, match=expected) as caught:
        check_cell(plan, project)
    assert caught.value.hint.endswith("lacks: ifeval, gsm8k/test.jsonl, arc, mmlu"), "all are named at once"


def test_data_that_is_there_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k/test.jsonl").write_text("{}\n")
    (tmp_path / "arc").mkdir()
    write_manifest(tmp_path)
    with pytest.raises(ConfigError) as caught:
        check_cell(*planned(tmp_path, "nvidia-h100/smollm2-135m", data_dir=tmp_path))
    assert caught.value.hint.endswith(f"; all that {tmp_path} lacks: ifeval, mmlu")


def test_a_plan_is_blocked_where_run_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell = "nvidia-h100/smollm2-135m"
    nowhere = tmp_path / "nowhere"
    flags = ["--matrix", str(MATRIX), "--workspace", str(tmp_path / "workspace"), "--data-dir", str(nowhere)]
    assert main(["run", cell, "--engine", "inline", *flags]) == ConfigError.exit_code
    refused = capsys.readouterr().err
    assert main(["plan", cell, "cpu/smollm2-135m", *flags]) == 0
    rows = capsys.readouterr().out
    assert f"data folder {nowhere} does not exist" in refused
    assert " blocked " in rows
    assert f"data folder {nowhere} does not exist; benchmark ifeval is read from its ifeval" in rows
    assert main(["plan", cell, "--json", *flags]) == ConfigError.exit_code
    (planned,) = json.loads(capsys.readouterr().out)["cells"]
    assert {step["action"] for step in planned["stages"]} == {"skip"}
    assert main(["plan", cell, "--only", "weights", *flags]) == 0
    assert " blocked " not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("code: nvidia004, memory: 79,", "code: nvidia004, memory: 0.05,", "smollm2-135m is too large for nvidia-h100"),
        (
            "  nvidia-h100:\n    vendor: nvidia\n",
            "  nvidia-h100:\n    vendor: nvidia\n    host_devices: 2\n",
            "but a machine of nvidia-h100 has 2",
        ),
    ],
)
def test_devices_that_cannot_hold_the_model_block_the_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, expected: str
) -> None:
    text = MATRIX.read_text().replace(old, new)
    if "host_devices" in new:
        text = text.replace("          colocate: true", "          devices: 4\n          colocate: true")
    (tmp_path / "matrix.yaml").write_text(text)
    (tmp_path / "matrix.lock").write_text((MATRIX.parent / "matrix.lock").read_text())
    assert main(["plan", "--matrix", str(tmp_path / "matrix.yaml"), "--json"]) == 0
    assert expected in capsys.readouterr().out


def test_a_profile_whose_loads_are_too_long_is_refused(tmp_path: Path) -> None:
    plan, project = planned(tmp_path, "cpu/smollm2-135m")
    check_cell(plan, project)
    short = replace(plan.cell.model.serve, max_model_len=47)  # the profile has a load of 32 and 16 tokens
    plan = replace(plan, cell=replace(plan.cell, model=replace(plan.cell.model, serve=short)))
    with pytest.raises(ConfigError, match="no load of profile embedded fits smollm2-135m") as caught:
        check_cell(plan, project)
    assert caught.value.why == "the shortest has 48 tokens, and max_model_len is 47"
    assert caught.value.hint
    assert checked(plan, project).blocked == caught.value.line()


def test_existing_data_is_accepted(tmp_path: Path) -> None:
    for name in ("ifeval/a.jsonl", "gsm8k/test.jsonl", "arc/a.jsonl", "mmlu/test.jsonl"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True)
        path.write_text("{}\n")
    write_manifest(tmp_path / "data")
    check_cell(*planned(tmp_path, "nvidia-h100/smollm2-135m", data_dir=tmp_path / "data"))


def test_a_benchmark_that_is_not_evaluated_needs_no_data(tmp_path: Path) -> None:
    check_cell(*planned(tmp_path, "nvidia-h100/smollm2-135m", "weights"))


def test_run_fails_before_anything_is_downloaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--matrix", str(MATRIX), "--workspace", str(tmp_path), "--engine", "inline"]
    assert main(["run", "nvidia-h100/smollm2-135m", *flags]) == ConfigError.exit_code
    assert "--data-dir DIR" in capsys.readouterr().err
    assert not (tmp_path / "weights").exists()


def test_a_base_image_that_is_nowhere_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be missed after the download of the weights."""
    cell, other = "cpu/smollm2-135m", "nvidia-h100/smollm2-135m"
    with listing(tmp_path, "flagrelease-base:bookworm") as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        assert checked(*planned(tmp_path, cell)).blocked == ""
        plan = checked(*planned(tmp_path, other, "weights"))  # its conversion to safetensors runs in the base image
        assert "is not on this machine: matrix.lock has no digest to pull it by" in plan.blocked
        assert plan.hint == f"run `flagrelease lock {other}`"
        plan, project = planned(tmp_path, other, "weights")
        assert checked(plan, replace(project, runner="process")).blocked == ""
        digest = LockedChip(base=plan.cell.chip.base, digest=f"sha256:{'d' * 64}")
        lock = replace(project.lock, chips={**project.lock.chips, "nvidia-h100": digest})
        assert checked(plan, replace(project, lock=lock)).blocked == ""
    with listing(tmp_path) as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        assert checked(*planned(tmp_path, cell)).hint.startswith("`docker build --tag flagrelease-base:bookworm base`")
        assert checked(*planned(tmp_path, cell, "weights")).blocked == "", "GGUF files are not converted"
        assert main(["run", cell, "--engine", "inline", "--matrix", str(MATRIX), "--workspace", str(tmp_path)]) == 6
    assert not (tmp_path / "weights").exists()
