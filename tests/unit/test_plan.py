"""What would run, and why: reuse, force, only, staleness, exclusion."""

from dataclasses import replace
from pathlib import Path

import pytest

import toys
from flagrelease.cell import expand, fingerprint, select
from flagrelease.context import Look
from flagrelease.errors import ConfigError, NothingSelected
from flagrelease.executor_inline import InlineEngine
from flagrelease.history import Past
from flagrelease.plan import Choice, as_json, choice, plan_cell
from newcomer_project import NewcomerProject


def steps(root: Path, wanted: Choice | None = None, cell: str = "cpu/tiny") -> dict[str, tuple[str, str]]:
    shared = toys.session(root)
    past = Past(shared.ledger, Look(workspace=shared.workspace, evidence=shared.evidence))
    plan = plan_cell(toys.jobs(root)[cell], toys.STAGES, past, wanted or Choice())
    return {step.stage: (step.action, step.reason) for step in plan.steps}


def release(root: Path, wanted: Choice | None = None) -> None:
    InlineEngine().execute(toys.run_cells(root, "cpu/tiny", choice=wanted))


def actions(found: dict[str, tuple[str, str]]) -> str:
    return " ".join(action for action, _ in found.values())


def test_a_new_cell_runs_everything_but_what_is_skipped(tmp_path: Path) -> None:
    found = steps(tmp_path)
    assert found["first"] == ("run", "never run")
    assert found["second"] == ("run", "first will run")
    assert found["idle"] == ("skip", "nothing to do here")
    assert actions(found) == "run run skip run"


def test_everything_that_is_not_locked_is_named_at_once(tmp_path: Path) -> None:
    """A newcomer whose hub is away is not to learn only after it is back that a version does not exist."""
    project = NewcomerProject(tmp_path)
    unresolved = {"models.qwen3-8b": "the hub is away", "wheels.metax-vllm": "there is no flag-gems==3.0"}
    project.lock = replace(project.lock, unresolved=unresolved)
    plan = project.plan("metax/qwen3-8b")
    assert plan.blocked == (
        "models.qwen3-8b is not locked: the hub is away; wheels.metax-vllm is not locked: there is no flag-gems==3.0"
    )
    assert plan.hint == "check the versions under `components` in matrix.yaml, then run `flagrelease lock`"


def test_a_released_cell_is_reused(tmp_path: Path) -> None:
    release(tmp_path)
    found = steps(tmp_path)
    assert actions(found) == "reuse reuse skip reuse"
    assert found["first"][1].startswith("unchanged since ")


def test_force_runs_what_reads_it_too(tmp_path: Path) -> None:
    release(tmp_path)
    found = steps(tmp_path, Choice(force=frozenset({"second"})))
    assert actions(found) == "reuse run skip run"
    assert found["second"][1] == "forced"
    assert found["third"][1] == "second will run"


def test_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="second reads first, which has no result yet"):
        steps(tmp_path, Choice(only=frozenset({"second"})))
    assert actions(steps(tmp_path, Choice(only=frozenset({"first"})))) == "run skip skip skip"
    release(tmp_path)
    found = steps(tmp_path, Choice(only=frozenset({"second"}), force=frozenset({"second"})))
    assert actions(found) == "reuse run skip reuse"


def test_lost_evidence_is_made_again(tmp_path: Path) -> None:
    release(tmp_path)
    for path in (tmp_path / "evidence").rglob("*"):
        if path.is_file():
            path.unlink()
    assert steps(tmp_path)["first"] == ("run", "its evidence one.txt is missing")


def test_a_newer_result_upstream_makes_a_stage_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release(tmp_path)
    monkeypatch.setattr(toys, "first", None)
    changed = toys.Stage(
        name="first", doing="", result=toys.Made, inputs=toys.STAGES[0].inputs, run=lambda *_: toys.Made(text="uno")
    )
    monkeypatch.setattr(toys, "STAGES", (changed, *toys.STAGES[1:]))
    release(tmp_path, Choice(only=frozenset({"first"}), force=frozenset({"first"})))
    found = steps(tmp_path)
    assert found["first"][0] == "reuse"
    assert found["second"] == ("run", "first has a newer result")


def test_a_failed_and_an_interrupted_stage_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_TINY", "fail")
    release(tmp_path)
    assert steps(tmp_path)["second"] == ("run", "failed before: the toy broke")


def test_an_excluded_cell_is_skipped_with_its_reason(tmp_path: Path) -> None:
    found = steps(tmp_path, cell="cpu/big")
    assert set(found.values()) == {("skip", "excluded: does not fit")}


def test_json_form(tmp_path: Path) -> None:
    shared = toys.session(tmp_path)
    past = Past(shared.ledger, Look(workspace=shared.workspace, evidence=shared.evidence))
    made = as_json([plan_cell(toys.jobs(tmp_path)["cpu/tiny"], toys.STAGES, past, Choice())])
    assert made["cells"][0]["cell"] == "cpu/tiny"
    assert made["cells"][0]["stages"][0] == {"stage": "first", "action": "run", "reason": "never run"}


def test_unknown_stage() -> None:
    with pytest.raises(ConfigError) as caught:
        choice(toys.STAGES, ["secnd"], [])
    assert caught.value.hint == "did you mean 'second'?"


def test_selection() -> None:
    cells = expand(toys.matrix())
    ids = [cell.id for cell in select(cells, [], [], [])]
    assert ids == ["cpu/tiny", "cpu/big", "gpu/tiny", "gpu/big"]
    assert [c.id for c in select(cells, ["*/tiny"], [], [])] == ["cpu/tiny", "gpu/tiny"]
    assert [c.id for c in select(cells, [], ["gpu"], ["big"])] == ["gpu/big"]
    with pytest.raises(ConfigError, match="unknown chip 'cqu'"):
        select(cells, [], ["cqu"], [])
    with pytest.raises(ConfigError, match="unknown cell"):
        select(cells, ["cpu/tyni"], [], [])
    with pytest.raises(NothingSelected, match="no model matches"):
        select(cells, [], [], ["x*"])
    with pytest.raises(NothingSelected, match="no cell matches all"):
        select(cells, ["cpu/tiny"], ["gpu"], [])
    with pytest.raises(NothingSelected, match="cpu/big is excluded") as caught:
        select(cells, ["cpu/big"], [], [])
    assert caught.value.why == "does not fit"


def test_fingerprints_do_not_depend_on_order() -> None:
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint({"b": {"d": 3, "c": 2}, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
