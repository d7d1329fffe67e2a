"""After a failed gate, the culprit is removed and the release goes on, with every executor and after a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from flagrelease.cli import summary
from flagrelease.run.cell_run import CellRun
from flagrelease.run.executors.inline import InlineExecutor
from support import toys
from support.toy_operators import OPERATORS, job, run_cell


def say(root: Path, **files: str) -> None:
    for name, text in files.items():
        (root / name).write_text(text)


def go(root: Path, **more: object) -> CellRun:
    run = run_cell(root, **more)  # type: ignore[arg-type]
    InlineExecutor().execute([run])
    return run


def course(run: CellRun) -> list[str]:
    return [f"{one.stage} {one.status}" for one in run.outcomes]


def test_the_culprit_is_removed_and_the_others_are_released(tmp_path: Path) -> None:
    say(tmp_path, guilty="mul", findable="mul")
    run = go(tmp_path)
    again = ["kernels done", "smoke done", "accuracy done"]
    assert course(run) == ["weights done", *again, "attribute done", *again, "card done"]
    assert run.outcomes[3].reason == "FAIL add mm mul silu"
    assert run.outcomes[4].reason == "mul: excess 3.0"
    assert run.outcomes[7].reason == "PASS add mm silu"
    assert run.job.cell.kernels.exclude == {"mul": "taken out after round 1: excess 3.0"}
    assert summary.finished(run, 1.0).code == 0


def test_the_next_run_has_nothing_to_do(tmp_path: Path) -> None:
    say(tmp_path, guilty="mul", findable="mul")
    go(tmp_path)
    before = toys.ran(tmp_path)
    run = go(tmp_path)
    assert {one.status for one in run.outcomes} == {"reused"}
    assert toys.ran(tmp_path) == before
    assert [one.culprits[0].operator for one in run.job.attributed] == ["mul"]


def test_several_rounds_and_the_last_one_kept(tmp_path: Path) -> None:
    say(tmp_path, guilty="add mul silu", findable="add mul silu")
    run = go(tmp_path)
    assert list(run.job.cell.kernels.exclude) == ["add", "mul", "silu"]
    assert run.outcomes[-2].reason == "PASS mm"
    (tmp_path / "two").mkdir()
    say(tmp_path / "two", guilty="add mul silu", findable="add mul silu")
    run = go(tmp_path / "two", rounds=2)
    assert run.outcomes[-2].reason == "FAIL mm silu"
    assert course(run)[-1] == "card done", "the gate's own failure is left to publish"
    assert toys.ran(tmp_path / "two").count("attribute") == 2


def test_nobody_guilty_leaves_the_failure_and_says_so(tmp_path: Path) -> None:
    say(tmp_path, guilty="mul")
    run = go(tmp_path)
    assert course(run)[-2:] == ["attribute done", "card done"]
    assert run.outcomes[-2].reason == "the operators are not the cause: excess 1.0"
    again = go(tmp_path)
    assert {one.status for one in again.outcomes} == {"reused"}, "attribution does not run again"
    assert toys.ran(tmp_path).count("attribute") == 1


def test_a_server_that_dies_is_a_reason_too(tmp_path: Path) -> None:
    say(tmp_path, deadly="mm", findable="mm")
    run = go(tmp_path)
    assert course(run) == [
        *("weights done", "kernels done", "smoke remedied", "attribute done"),
        *("kernels done", "smoke done", "accuracy done", "card done"),
    ]
    assert summary.finished(run, 1.0).code == 0
    assert run.job.attributed[0].gate == "smoke"


def test_a_server_that_dies_for_another_reason_stays_red(tmp_path: Path) -> None:
    say(tmp_path, deadly="mm")
    run = go(tmp_path)
    assert course(run)[2:] == ["smoke failed", "attribute done", "accuracy not run", "card not run"]
    result = summary.finished(run, 1.0)
    assert (result.stage, result.code) == ("smoke", 4)


def test_a_failed_remedy_does_not_fail_the_cell(tmp_path: Path) -> None:
    say(tmp_path, guilty="mul", broken="yes")
    run = go(tmp_path)
    assert course(run)[-2:] == ["attribute skipped", "card done"]
    assert run.outcomes[-2].reason == "no cause was found: the chip does not answer"


def test_without_rounds_or_with_only_some_stages_nothing_is_attributed(tmp_path: Path) -> None:
    say(tmp_path, guilty="mul", findable="mul")
    assert "attribute" not in " ".join(course(go(tmp_path, rounds=0)))
    assert "attribute" not in " ".join(course(go(tmp_path, only="weights kernels smoke accuracy")))


def test_a_run_killed_during_attribution_is_resumed(tmp_path: Path) -> None:
    say(tmp_path, guilty="add mul", findable="add mul")
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from pathlib import Path\nfrom support.toy_operators import run_cell\n"
        "from flagrelease.run.executors.open import InlineExecutor\n"
        f"InlineExecutor().execute([run_cell(Path({str(tmp_path)!r}), rounds=1)])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert list(job(tmp_path).cell.kernels.exclude) == ["add"], "round 1 is in the ledger"
    say(tmp_path, kill="now")
    killed = subprocess.run([sys.executable, "-c", code.replace("rounds=1", "rounds=3")], check=False)
    assert killed.returncode == -signal.SIGKILL
    (tmp_path / "kill").unlink()
    run = go(tmp_path)
    assert run.outcomes[-2].reason == "PASS mm silu"
    assert course(run)[:4] == ["weights reused", "kernels reused", "smoke reused", "accuracy reused"]
    assert toys.ran(tmp_path).count("attribute") == 3
    assert toys.ran(tmp_path).count("accuracy") == 3


def test_other_inputs_start_from_all_operators(tmp_path: Path) -> None:
    say(tmp_path, guilty="mul", findable="mul")
    go(tmp_path)
    other = go(tmp_path, cell="gpu/tiny")
    assert other.outcomes[3].reason == f"FAIL {' '.join(OPERATORS)}"
