"""The planned actions and their reasons: reuse, force, only, staleness, exclusion."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from flagrelease.config import matrix as matrices
from flagrelease.config.cell import expand, fingerprint, select, select_one
from flagrelease.config.lockfile import Lock, LockedChip
from flagrelease.contract.context import Look
from flagrelease.errors import ConfigError, NothingSelected
from flagrelease.packaging.base_image import OWN_BASE, absent_base, not_here, pinned_base
from flagrelease.packaging.requirements import locked_wheels
from flagrelease.run.executors.inline import InlineExecutor
from flagrelease.run.history import History
from flagrelease.run.plan import Choice, as_json, choice, plan_cell
from flagrelease.store.parts import Parts, changes, flat
from support import toys
from support.newcomer_project import NewcomerProject


def steps(root: Path, wanted: Choice | None = None, cell: str = "cpu/tiny") -> dict[str, tuple[str, str]]:
    shared = toys.session(root)
    past = History(shared.ledger, Look(workspace=shared.workspace, evidence=shared.evidence))
    plan = plan_cell(toys.jobs(root)[cell], toys.STAGES, past, wanted or Choice())
    return {step.stage: (step.action, step.reason) for step in plan.steps}


def release(root: Path, wanted: Choice | None = None) -> None:
    InlineExecutor().execute(toys.run_cells(root, "cpu/tiny", choice=wanted))


def actions(found: dict[str, tuple[str, str]]) -> str:
    return " ".join(action for action, _ in found.values())


def test_a_new_cell_runs_every_stage_that_is_not_skipped(tmp_path: Path) -> None:
    found = steps(tmp_path)
    assert found["first"] == ("run", "never run")
    assert found["second"] == ("run", "first will run")
    assert found["idle"] == ("skip", "nothing to do here")
    assert actions(found) == "run run skip run"


def test_everything_that_is_not_locked_is_named_at_once(tmp_path: Path) -> None:
    """A missing version is reported even while the hub is unavailable, not only once it is back."""
    project = NewcomerProject(tmp_path)
    unresolved = {"models.qwen3-8b": "the hub is away", "wheels.metax-vllm": "there is no flag-gems==3.0"}
    project.lock = replace(project.lock, unresolved=unresolved)
    plan = project.plan("metax/qwen3-8b")
    assert plan.blocked == (
        "models.qwen3-8b is not locked: the hub is away; wheels.metax-vllm is not locked: there is no flag-gems==3.0"
    )
    assert plan.hint == "check the versions under `components` in matrix.yaml, then run `flagrelease lock`"
    assert plan.cell.id == "metax/qwen3-8b"
    assert [step.stage for step in plan.steps][:2] == ["weights", "kernels"]
    assert {step.reason for step in plan.steps} == {f"blocked: {plan.blocked}"}


def test_a_lock_for_other_requirements_blocks(tmp_path: Path) -> None:
    """Its packages would be built into an image whose labels and card name the new version."""
    project = NewcomerProject(tmp_path)
    assert project.plan("cpu/smollm2-135m").blocked == ""
    project.replace("components: {flagscale: 0.8.0, flaggems: none}", "components: {flagscale: 0.9.0, flaggems: none}")
    plan = project.plan("cpu/smollm2-135m")
    assert plan.blocked == (
        "wheels.cpu-llama_cpp is locked for other requirements: "
        "matrix.yaml needs flag-scale==0.9.0, matrix.lock has flag-scale==0.8.0"
    )
    assert plan.hint == "run `flagrelease lock`"
    with pytest.raises(ConfigError, match="locked for other requirements"):
        locked_wheels(project.job("cpu/smollm2-135m"))
    project.relock("cpu/smollm2-135m")
    assert project.plan("cpu/smollm2-135m").blocked == ""


def test_a_lock_for_another_base_image_blocks(tmp_path: Path) -> None:
    project = NewcomerProject(tmp_path)
    project.replace("base: flagrelease-base:bookworm", "base: flagrelease-base:trixie")
    plan = project.plan("cpu/smollm2-135m")
    assert plan.blocked == (
        "chips.cpu is locked for another base image: "
        "matrix.yaml says flagrelease-base:trixie, matrix.lock flagrelease-base:bookworm"
    )
    assert plan.hint == "run `flagrelease lock`"


def test_an_absent_base_image_is_built_or_pinned(tmp_path: Path) -> None:
    """A base image that a registry has cannot be built, and one that is only local cannot be pinned."""
    project = NewcomerProject(tmp_path)
    (shipped,) = matrices.load(Path(__file__).parents[3] / "templates/matrix.yaml").chips.values()
    local, remote = (absent_base(project.job(cell)) for cell in ("cpu/smollm2-135m", "nvidia-h100/smollm2-135m"))
    assert "docker build --tag flagrelease-base:bookworm base" in local.hint
    assert local.why == "its name has no registry to pull it from"
    assert OWN_BASE == "flagrelease-base:bookworm" == shipped.base
    other = not_here("ascend-base:1").hint
    assert "docker build" not in other, "base/Dockerfile makes the CPU's"
    assert "build or load an image ascend-base:1" in other
    assert remote.why.startswith("matrix.lock has no digest to pull it by: no registry answers at ")
    assert remote.hint == "run `flagrelease lock nvidia-h100/smollm2-135m`"


def test_a_released_cell_is_reused(tmp_path: Path) -> None:
    release(tmp_path)
    found = steps(tmp_path)
    assert actions(found) == "reuse reuse skip reuse"
    assert re.fullmatch(r"unchanged since \d{4}-\d\d-\d\d \d\d:\d\d UTC", found["first"][1])


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


def test_all_results_that_a_stage_lacks_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, idle, third = toys.STAGES
    both = replace(third, reads=(toys.FIRST, toys.SECOND))
    monkeypatch.setattr(toys, "STAGES", (first, second, idle, both))
    with pytest.raises(ConfigError, match="third reads first and second, which have no result yet") as caught:
        steps(tmp_path, Choice(only=frozenset({"third"})))
    assert caught.value.hint == "run without --only, or add --only first --only second"


def test_a_forced_stage_outside_only_is_a_contradiction() -> None:
    with pytest.raises(ConfigError, match="--force second contradicts --only first --only third") as caught:
        choice(toys.STAGES, ["first", "third"], ["second"])
    assert caught.value.hint == "add --only second, or remove --force second"
    assert choice(toys.STAGES, ["first"], ["first"]) == Choice(only=frozenset({"first"}), force=frozenset({"first"}))
    assert choice(toys.STAGES, [], ["second"]).force == {"second"}


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
        result=toys.FIRST, doing="", inputs=toys.STAGES[0].inputs, run=lambda *_: toys.Made(text="uno")
    )
    monkeypatch.setattr(toys, "STAGES", (changed, *toys.STAGES[1:]))
    release(tmp_path, Choice(only=frozenset({"first"}), force=frozenset({"first"})))
    found = steps(tmp_path)
    assert found["first"][0] == "reuse"
    assert found["second"] == ("run", "first has a newer result")


def test_a_failed_stage_runs_again_with_its_error_as_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_TINY", "fail")
    release(tmp_path)
    assert steps(tmp_path)["second"] == ("run", "failed before: the toy broke")


def test_an_excluded_cell_is_skipped_with_its_reason(tmp_path: Path) -> None:
    found = steps(tmp_path, cell="cpu/big")
    assert set(found.values()) == {("skip", "excluded: does not fit")}
    assert [*found] == ["first", "second", "idle", "third"]


def test_json_form(tmp_path: Path) -> None:
    shared = toys.session(tmp_path)
    past = History(shared.ledger, Look(workspace=shared.workspace, evidence=shared.evidence))
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
    assert select_one(cells, "gpu/*b*").id == "gpu/big"
    with pytest.raises(ConfigError, match="matches 2 cells"):
        select_one(cells, "*/tiny")
    assert caught.value.why == "does not fit"


def test_fingerprints_do_not_depend_on_order() -> None:
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint({"b": {"d": 3, "c": 2}, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def named(root: Path, monkeypatch: pytest.MonkeyPatch, **parts: object) -> str:
    """The reason given for `first` after a release, once `parts` of its stage have changed."""
    release(root)
    monkeypatch.setattr(toys, "STAGES", (replace(toys.STAGES[0], **parts), *toys.STAGES[1:]))  # type: ignore[arg-type]
    return steps(root)["first"][1]


def test_a_changed_input_is_named_with_its_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve = {"serve": {"max_model_len": 8192, "eager": True}, "HF_TOKEN": "s3cret", "long": "x" * 200, "list": [1]}
    monkeypatch.setattr(toys, "STAGES", (replace(toys.STAGES[0], inputs=lambda _job: serve), *toys.STAGES[1:]))
    other = {"serve": {"max_model_len": 16384, "eager": True}, "HF_TOKEN": "other", "long": "y" * 200, "list": [1, 2]}
    assert named(tmp_path, monkeypatch, inputs=lambda _job: other) == (
        "changed: HF_TOKEN; list [1] → [1,2]; long; serve.max_model_len 8192 → 16384"
    )
    assert b"s3cret" not in (tmp_path / "ledger.jsonl").read_bytes()


def test_many_changes_are_shortened_in_text_and_complete_in_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def numbered(start: int) -> dict[str, int]:
        return {f"n{number}": start + number for number in range(7)}

    monkeypatch.setattr(toys, "STAGES", (replace(toys.STAGES[0], inputs=lambda _job: numbered(0)), *toys.STAGES[1:]))
    text = named(tmp_path, monkeypatch, inputs=lambda _job: numbered(1))
    assert text == "changed: n0 0 → 1; n1 1 → 2; n2 2 → 3; … and 4 more"
    shared = toys.session(tmp_path)
    past = History(shared.ledger, Look(workspace=shared.workspace, evidence=shared.evidence))
    made = as_json([plan_cell(toys.jobs(tmp_path)["cpu/tiny"], toys.STAGES, past, Choice())])
    assert made["cells"][0]["stages"][0]["changed"] == [f"n{number} {number} → {number + 1}" for number in range(7)]


def test_a_base_image_is_named_by_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def based(digit: str) -> dict[str, str]:
        lock = Lock(chips={"cpu": LockedChip(base="base:1", digest=f"sha256:{digit * 64}")})
        return pinned_base(replace(toys.jobs(tmp_path)["cpu/tiny"], lock=lock))

    monkeypatch.setattr(toys, "STAGES", (replace(toys.STAGES[0], inputs=lambda _job: based("1")), *toys.STAGES[1:]))
    text = named(tmp_path, monkeypatch, inputs=lambda _job: based("2"))
    assert text == "changed: base image sha256:111111111111… → sha256:222222222222…"


def test_changed_code_and_templates_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in {"card.md.j2": "a", "tool.py": "A = 1\n", "other.py": "def g():\n    return 1\n"}.items():
        (tmp_path / name).write_text(content)
    programs = (str(tmp_path / "tool.py"), str(tmp_path / "other.py"))
    first = replace(toys.STAGES[0], programs=programs, templates=("card.md.j2",))
    monkeypatch.setattr(toys, "STAGES", (first, *toys.STAGES[1:]))
    release(tmp_path)
    (tmp_path / "other.py").write_text('def g():\n    """Reworded."""\n    return 1  # one\n')
    assert steps(tmp_path)["first"][0] == "reuse"
    (tmp_path / "tool.py").rename(tmp_path / "renamed.py")
    (tmp_path / "other.py").write_text("def g():\n    return 2\n")
    moved = replace(first, programs=(str(tmp_path / "renamed.py"), programs[1]))
    monkeypatch.setattr(toys, "STAGES", (moved, *toys.STAGES[1:]))
    assert steps(tmp_path)["first"][1] == "changed: code of other"
    (tmp_path / "card.md.j2").write_text("b")
    assert steps(tmp_path)["first"][1] == "changed: template card.md.j2; code of other"


def test_a_changed_result_that_it_reads_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release(tmp_path)
    other = replace(toys.STAGES[0], inputs=lambda _job: {"model": "another"})
    monkeypatch.setattr(toys, "STAGES", (other, *toys.STAGES[1:]))
    release(tmp_path, Choice(only=frozenset({"first"})))
    assert steps(tmp_path)["second"][1] == "changed: key of first"


def test_an_entry_without_recorded_inputs_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release(tmp_path)
    path = tmp_path / "ledger.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(line.pop("parts")["inputs"] == {"model": "tiny", "chip": "cpu"} for line in lines)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert actions(steps(tmp_path)) == "reuse reuse skip reuse"
    monkeypatch.setattr(toys, "STAGES", (replace(toys.STAGES[0], inputs=lambda _job: {"a": 1}), *toys.STAGES[1:]))
    assert steps(tmp_path)["first"][1] == "its inputs have changed; which of them was not recorded at the time"


def test_a_value_that_becomes_secret_does_not_count_as_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Parts(inputs=dict(flat({"url": "abcdefgh", "n": 1})))
    monkeypatch.setenv("SOME_TOKEN", "abcdefgh")
    after = Parts(inputs=dict(flat({"url": "abcdefgh", "n": 2})))
    assert [str(change) for change in changes(before, after)] == ["n 1 → 2"]
