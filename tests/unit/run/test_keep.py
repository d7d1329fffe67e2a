"""A release engineer's decision that changed code cannot change a result: its scope and its limits."""

from __future__ import annotations

import getpass
import json
from dataclasses import replace
from pathlib import Path

import pytest

from flagrelease.cli import app
from flagrelease.contract.context import Look
from flagrelease.contract.handles import Finished
from flagrelease.errors import ConfigError
from flagrelease.run import keep
from flagrelease.run.cell_run import CellRun
from flagrelease.run.executors.inline import InlineExecutor
from flagrelease.run.history import History
from flagrelease.run.plan import Choice, plan_cell
from flagrelease.stages.card import record, render
from flagrelease.store.ledger import KEEP, Entry
from flagrelease.store.parts import Keep
from support import finished_cell, toys

CELL = "cpu/tiny"


@pytest.fixture(autouse=True)
def _programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the toys' first two stages code that can be changed, and run them."""
    for name in ("first", "second"):
        write(tmp_path, name, 1)
    stages = [replace(stage, programs=(str(tmp_path / f"{stage.name}.py"),)) for stage in toys.STAGES[:2]]
    monkeypatch.setattr(toys, "STAGES", (*stages, *toys.STAGES[2:]))
    run(tmp_path)
    assert toys.ran(tmp_path) == ["first", "second", "third"]


def write(root: Path, name: str, value: int) -> None:
    (root / f"{name}.py").write_text(f"def f():\n    return {value}\n")


def run(root: Path, **choice: frozenset[str]) -> CellRun:
    cell_run = toys.run_cells(root, CELL, choice=Choice(**choice))[0]
    InlineExecutor().execute([cell_run])
    return cell_run


def steps(root: Path) -> dict[str, str]:
    shared = toys.session(root)
    past = History(shared.ledger, Look(workspace=shared.workspace, evidence=shared.evidence))
    plan = plan_cell(toys.jobs(root)[CELL], toys.STAGES, past, Choice())
    return {step.stage: f"{step.action}: {step.reason}" for step in plan.steps}


def decide(root: Path, name: str, reason: str = "a log line only") -> Keep:
    """Decide to keep the result of stage `name`, as the verb does."""
    shared = toys.session(root)
    past = History(shared.ledger, Look(workspace=shared.workspace, evidence=shared.evidence))
    plan = plan_cell(toys.jobs(root)[CELL], toys.STAGES, past, Choice())
    stage = next(known for known in toys.STAGES if known.name == name)
    earlier = [entry for entry in reversed(shared.ledger.entries()) if (entry.stage, entry.state) == (name, "done")]
    decision, changed = keep.keep(plan, stage, earlier, past, reason=reason, by="ada", at="2026-01-02T03:04:05+00:00")
    assert [str(change) for change in changed] == [f"code of {name}"]
    shared.ledger.append(
        Entry(
            at=decision.at,
            run="r",
            cell=CELL,
            stage=KEEP,
            state="done",
            key=decision.to_key,
            process="1@b",
            result=decision,
        )
    )
    return decision


def test_a_kept_result_is_reused_and_nothing_after_it_runs(tmp_path: Path) -> None:
    write(tmp_path, "first", 2)
    assert steps(tmp_path)["first"] == "run: changed: code of first"
    decision = decide(tmp_path, "first")
    found = steps(tmp_path)
    assert found["first"] == "reuse: kept: a log line only (by ada)"
    assert [text.partition(":")[0] for text in found.values()] == ["reuse", "reuse", "skip", "reuse"]
    done = run(tmp_path)
    assert toys.ran(tmp_path) == ["first", "second", "third"]
    assert [outcome.status for outcome in done.outcomes] == ["reused", "reused", "skipped", "reused"]
    assert done._done["first"].kept == decision
    assert done._done["second"].kept is None


def test_it_holds_until_the_code_changes_again(tmp_path: Path) -> None:
    write(tmp_path, "first", 2)
    decide(tmp_path, "first")
    write(tmp_path, "first", 3)
    assert steps(tmp_path)["first"] == "run: changed: code of first"
    decide(tmp_path, "first", "again")
    assert steps(tmp_path)["first"] == "reuse: kept: again (by ada)"
    write(tmp_path, "first", 1)
    assert steps(tmp_path)["first"].startswith("reuse: unchanged since ")


def test_it_holds_until_an_input_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "first", 2)
    decide(tmp_path, "first")
    other = replace(toys.STAGES[0], inputs=lambda _job: {"model": "tiny", "chip": "gpu"})
    monkeypatch.setattr(toys, "STAGES", (other, *toys.STAGES[1:]))
    assert steps(tmp_path)["first"] == "run: changed: chip cpu → gpu; code of first"
    with pytest.raises(ConfigError, match="more than code has changed") as caught:
        decide(tmp_path, "first")
    assert caught.value.why == "chip cpu → gpu"
    assert "revert the change" in caught.value.hint


def test_a_changed_template_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.j2").write_text("a")
    first = replace(toys.STAGES[0], templates=("a.j2",))
    monkeypatch.setattr(toys, "STAGES", (first, *toys.STAGES[1:]))
    run(tmp_path)
    (tmp_path / "a.j2").write_text("b")
    write(tmp_path, "first", 2)
    with pytest.raises(ConfigError, match="more than code has changed") as caught:
        decide(tmp_path, "first")
    assert caught.value.why == "template a.j2"


def test_a_result_that_it_reads_is_kept_first(tmp_path: Path) -> None:
    write(tmp_path, "first", 2)
    write(tmp_path, "second", 2)
    with pytest.raises(ConfigError, match="more than code has changed") as caught:
        decide(tmp_path, "second")
    assert caught.value.why == "key of first"
    assert caught.value.hint == "keep first first, if only its code has changed"
    decide(tmp_path, "first")
    decide(tmp_path, "second")
    run(tmp_path)
    assert toys.ran(tmp_path) == ["first", "second", "third"]


def test_an_unchanged_skipped_or_missing_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has nothing to keep"):
        decide(tmp_path, "first")
    with pytest.raises(ConfigError, match="idle is skipped"):
        decide(tmp_path, "idle")
    write(tmp_path, "first", 2)
    with pytest.raises(ConfigError, match="--reason is empty"):
        decide(tmp_path, "first", " ")
    decide(tmp_path, "first")
    with pytest.raises(ConfigError, match="is already kept") as caught:
        decide(tmp_path, "first")
    assert caught.value.why == "a log line only (by ada)"
    (tmp_path / "ledger.jsonl").unlink()
    with pytest.raises(ConfigError, match="has no result to keep"):
        decide(tmp_path, "first")


def test_lost_evidence_cannot_be_kept(tmp_path: Path) -> None:
    write(tmp_path, "first", 2)
    for path in (tmp_path / "evidence").rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(ConfigError, match=r"its evidence one\.txt is missing"):
        decide(tmp_path, "first")


def test_an_entry_without_recorded_inputs_cannot_be_kept(tmp_path: Path) -> None:
    shared = toys.session(tmp_path)
    old = [replace(entry, parts=None) for entry in shared.ledger.entries()]
    shared.ledger.path.unlink()
    for entry in old:
        shared.ledger.append(entry)
    write(tmp_path, "first", 2)
    with pytest.raises(ConfigError) as caught:
        decide(tmp_path, "first")
    assert caught.value.why == "which of its inputs have changed is unknown: they were not recorded at the time"


def test_a_kept_stage_that_runs_after_all_counts_by_its_own_result(tmp_path: Path) -> None:
    write(tmp_path, "first", 2)
    decision = decide(tmp_path, "first")
    done = run(tmp_path, force=frozenset({"first"}))
    assert toys.ran(tmp_path) == ["first", "second", "third", "first", "second", "third"]
    assert done._done["first"].key == decision.to_key
    assert done._done["first"].kept is None
    found = steps(tmp_path)
    assert found["first"].startswith("reuse: unchanged since ")
    assert [text.partition(":")[0] for text in found.values()] == ["reuse", "reuse", "skip", "reuse"]


def test_the_decision_is_a_ledger_entry_but_not_an_attempt(tmp_path: Path) -> None:
    before = (tmp_path / "ledger.jsonl").read_bytes()
    write(tmp_path, "first", 2)
    decision = decide(tmp_path, "first", "see hf_abcdefghijklmnopqrstuv")
    assert (tmp_path / "ledger.jsonl").read_bytes().startswith(before)
    ledger = toys.session(tmp_path).ledger
    assert ledger.kept(CELL, "first", decision.to_key) == decision
    assert decision.reason == "see hf_…"
    assert (decision.by, decision.at) == ("ada", "2026-01-02T03:04:05+00:00")
    last = ledger.last(CELL, "first")
    assert last is not None
    assert last.key == decision.from_key


def test_record_and_card_name_who_decided() -> None:
    decision = Keep(
        stage="accuracy", from_key="1" * 64, to_key="2" * 64, reason="a *log* line", by="ada", at="2026-01-02T03:04:05"
    )
    finished = Finished(
        replace(done, kept=decision) if done.stage == "accuracy" else done for done in finished_cell.finished()
    )
    made = record.build(finished_cell.job(), finished, "0" * 64)
    assert made.kept == (decision,)
    assert record.loads(record.dumps(made)) == made
    line = next(text for text in render.render(made, finished_cell.TEMPLATES).splitlines() if "Earlier result" in text)
    assert "accuracy" in line
    assert r"accepted by ada, 2026-01-02: a \*log\* line" in line


@pytest.fixture
def argv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command line for the toys' first stage, without --reason."""
    (tmp_path / "matrix.yaml").write_text(toys.MATRIX)
    monkeypatch.setattr("flagrelease.cli.commands.keep.STAGES", toys.STAGES)
    return ["keep", CELL, "first", "--matrix", str(tmp_path / "matrix.yaml"), "--workspace", str(tmp_path)]


def test_the_verb_records_the_user(tmp_path: Path, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "first", 2)
    capsys.readouterr()
    assert app.main([*argv, "--reason", "a log line", "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["cell"] == CELL
    assert output["changed"] == ["code of first"]
    assert (output["kept"]["by"], output["kept"]["reason"]) == (getpass.getuser(), "a log line")
    assert steps(tmp_path)["first"] == f"reuse: kept: a log line (by {getpass.getuser()})"
    write(tmp_path, "first", 3)
    assert app.main([*argv, "--reason", "another"]) == 0
    assert capsys.readouterr().out == f"{CELL} first is kept although its code has changed:\n  code of first\n"


def test_the_verb_refuses_with_exit_code_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main([*argv, "--reason", "x"]) == 2
    assert "cpu/tiny first has nothing to keep" in capsys.readouterr().err
    assert app.main([argument.replace("first", "frist") for argument in argv] + ["--reason", "x"]) == 2
    assert "did you mean 'first'?" in capsys.readouterr().err
    assert app.main(argv) == 2
    assert "--reason" in capsys.readouterr().err


def test_code_that_has_failed_is_not_declared_harmless(tmp_path: Path) -> None:
    write(tmp_path, "first", 2)
    decision = decide(tmp_path, "first")
    at, key = "2026-01-03T00:00:00+00:00", decision.to_key
    failed = Entry(at=at, run="r2", cell=CELL, stage="first", state="failed", key=key, process="1@b")
    toys.session(tmp_path).ledger.append(failed)
    assert steps(tmp_path)["first"].startswith("run: "), "an earlier decision ends with the failure"
    with pytest.raises(ConfigError) as caught:
        decide(tmp_path, "first")
    assert caught.value.what == f"{CELL} first cannot be kept: it failed with the changed code"
