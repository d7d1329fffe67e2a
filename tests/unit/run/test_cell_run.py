"""A cell runs its stages in order; a red stage stops only its own cell; later stages get the results."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from flagrelease.cli import summary
from flagrelease.cli.display import LiveBoard, PlainBoard, amount, spell
from flagrelease.cli.summary import CellResult
from flagrelease.contract import results
from flagrelease.contract.context import Context
from flagrelease.contract.handles import Done
from flagrelease.contract.job import Job
from flagrelease.errors import Busy
from flagrelease.ports.progress import Count
from flagrelease.run.cell_run import CellRun
from flagrelease.run.executors.inline import InlineExecutor
from flagrelease.run.interrupt import Workers, run_stoppable
from flagrelease.run.outcome import Outcome
from flagrelease.run.plan import Choice
from flagrelease.store import locks
from flagrelease.store.evidence import Evidence
from support import toys


def test_results_flow_and_are_reused(tmp_path: Path) -> None:
    InlineExecutor().execute(toys.run_cells(tmp_path, "cpu/tiny"))
    assert toys.ran(tmp_path) == ["first", "second", "third"]
    runs = toys.run_cells(tmp_path, "cpu/tiny")
    InlineExecutor().execute(runs)
    assert toys.ran(tmp_path) == ["first", "second", "third"]
    assert [outcome.status for outcome in runs[0].outcomes] == ["reused", "reused", "skipped", "reused"]


def test_a_clock_that_jumps_changes_no_duration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Jumping(datetime):
        jumped = 0

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            cls.jumped += 1
            return datetime(2026, 1, 1, tzinfo=tz) + timedelta(hours=(-1) ** cls.jumped * cls.jumped)

    monkeypatch.setattr("flagrelease.ports.clock.datetime", Jumping)
    monkeypatch.setattr(time, "time", lambda: Jumping.now().timestamp())
    runs = toys.run_cells(tmp_path, "cpu/tiny")
    InlineExecutor().execute(runs)
    assert Jumping.jumped > 3
    done = [outcome for outcome in runs[0].outcomes if outcome.status == "done"]
    assert len(done) == 3
    assert all(0 <= outcome.spent.seconds < 60 and 0 <= outcome.spent.outside < 60 for outcome in done)


def test_a_red_stage_blocks_only_its_own_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_TINY", "fail")
    runs = toys.run_cells(tmp_path, "cpu/tiny", "gpu/big")
    InlineExecutor().execute(runs)
    assert [outcome.status for outcome in runs[0].outcomes] == ["done", "failed", "not run", "not run"]
    assert [outcome.status for outcome in runs[1].outcomes] == ["done", "done", "skipped", "done"]
    result = summary.finished(runs[0], 1.0)
    assert (result.state, result.stage, result.code) == ("red", "second", 4)
    assert result.reason == "the toy broke: it was told to"
    error = summary.as_error(result)
    assert (error.what, error.hint) == ("cpu/tiny second: the toy broke", "tell it otherwise")
    (cell,) = summary.as_json([result], [], 4)["cells"]
    assert cell["error"] == {
        "kind": "SmokeFailed",
        "code": 4,
        "what": "the toy broke",
        "why": "it was told to",
        "hint": "tell it otherwise",
        "detail": "line 1\nline 2",
    }
    assert (cell["image"], cell["tags"], cell["verdict"], cell["folder"]) == ("", [], "", "")
    monkeypatch.delenv("TOY_TINY")
    again = toys.run_cells(tmp_path, "cpu/tiny")
    InlineExecutor().execute(again)
    assert [outcome.status for outcome in again[0].outcomes] == ["reused", "done", "skipped", "done"]


def test_the_json_of_a_release_names_what_was_made(tmp_path: Path) -> None:
    run = CellRun(toys.session(tmp_path), toys.jobs(tmp_path)["cpu/tiny"])
    image = results.Image(
        repository="localhost:5000/x/tiny", digest="sha256:ab", image_id="", base="", base_id="", size=1,
        pushed_bytes=0, labels={}, versions={}, remarks=(),
    )  # fmt: skip
    record = Evidence("release.json", "0" * 64, 1)
    tags = ("localhost:5000/x/tiny:1",)
    there = (results.Delivered(target="share", place="/srv/cpu/tiny/1"),)
    publish = results.Publish(digest="sha256:ab", tags=tags, folder="releases/cpu/tiny/1", record=record, targets=there)
    run._done = {
        name: Done(stage=name, key="k", result=made) for name, made in (("image", image), ("publish", publish))
    }
    run.outcomes = [
        Outcome(cell="cpu/tiny", stage="accuracy", status="done", reason="", verdict="PASS"),
        Outcome(cell="cpu/tiny", stage="speed", status="reused", reason="", verdict="INCONCLUSIVE"),
        Outcome(cell="cpu/tiny", stage="publish", status="done", reason=""),
    ]
    (cell,) = summary.as_json([summary.finished(run, 1.0)], [], 0)["cells"]
    assert cell["image"] == "localhost:5000/x/tiny@sha256:ab"
    assert cell["tags"] == list(tags)
    assert cell["targets"] == {"share": "/srv/cpu/tiny/1"}
    assert cell["verdict"] == "INCONCLUSIVE", "the worst one"
    assert cell["folder"] == str(tmp_path / "releases/cpu/tiny/1")
    assert cell["error"] is None
    assert [stage["verdict"] for stage in cell["stages"]] == ["PASS", "INCONCLUSIVE", ""]


def test_a_cell_is_named_once_in_an_error(tmp_path: Path) -> None:
    cell = toys.jobs(tmp_path)["cpu/tiny"].cell
    result = summary.refused(cell, Busy("cpu/tiny is busy"))
    assert summary.as_error(result).what == "cpu/tiny is busy"
    assert result.reason == "busy"


def test_an_unexpected_exception_is_reported_as_a_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_TINY", "defect")
    runs = toys.run_cells(tmp_path, "cpu/tiny")
    InlineExecutor().execute(runs)
    result = summary.finished(runs[0], 1.0)
    assert result.code == 1
    assert result.failure is not None
    assert "ZeroDivisionError" in result.failure.why
    assert "Traceback" in result.failure.detail


def test_a_secret_in_a_result_or_a_crash_is_shown_and_stored_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "one two")
    monkeypatch.setenv("OTHER_TOKEN", "a defect")
    stream = io.StringIO()
    shared = toys.session(tmp_path, board=PlainBoard(stream))
    run = CellRun(shared, toys.jobs(tmp_path)["cpu/tiny"])
    InlineExecutor().execute([run])
    assert [outcome.reason for outcome in run.outcomes if outcome.status == "done"] == [
        "one",
        "$SOME_TOKEN",
        "$SOME_TOKEN three",
    ]
    again = toys.run_cells(tmp_path, "cpu/tiny")
    InlineExecutor().execute(again)
    assert [outcome.status for outcome in again[0].outcomes] == ["reused", "reused", "skipped", "reused"]
    monkeypatch.setenv("TOY_BIG", "defect")
    crashed = CellRun(shared, toys.jobs(tmp_path)["gpu/big"])
    InlineExecutor().execute([crashed])
    for text in (stream.getvalue(), shared.ledger.path.read_text(), str(crashed.outcomes), str(run.outcomes)):
        assert "one two" not in text
        assert "a defect" not in text
    assert "$OTHER_TOKEN" in stream.getvalue()


def test_a_board_redacts_its_notes_and_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "open sesame")
    monkeypatch.setenv("COLUMNS", "60")
    stream = io.StringIO()
    said = "said open sesame " * 9
    plain, live = PlainBoard(stream), LiveBoard(["cpu/tiny"], ["first"])
    monkeypatch.setattr(live, "_console", Console(file=stream, width=60))
    for board in (plain, live):
        board.say(said)
        board.begin("cpu/tiny", "first", said)
        board.progress("cpu/tiny", "first").note(said)
        board.progress("cpu/tiny", "first").doing(said, Count(1, 2, "questions"))
        live._console.print(live._table())
        board.settle(Outcome(cell="cpu/tiny", stage="first", status="done", reason=said))
        live._console.print(live._table())
    assert "sesame" not in stream.getvalue()
    assert "open" not in stream.getvalue(), "a secret is replaced before a line is cut"
    assert stream.getvalue().count("$SOME_TOKEN") > 9


def test_stopping_interrupts_and_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_TINY", "hang")
    workers = Workers()
    shared = toys.session(tmp_path, workers=workers)
    run = CellRun(shared, toys.jobs(tmp_path)["cpu/tiny"])

    def stop_when_hanging() -> None:
        while not (tmp_path / "hanging").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop_when_hanging).start()
    run_stoppable(lambda: InlineExecutor().execute([run]), workers, lambda: None)
    assert [outcome.status for outcome in run.outcomes] == ["done", "interrupted", "not run", "not run"]
    ended = summary.finished(run, 1.0)
    assert (ended.state, ended.stage, ended.code) == ("interrupted", "second", 130)
    last = shared.ledger.last("cpu/tiny", "second")
    assert last is not None
    assert last.state == "interrupted"
    monkeypatch.delenv("TOY_TINY")
    again = toys.run_cells(tmp_path, "cpu/tiny")
    InlineExecutor().execute(again)
    assert [outcome.status for outcome in again[0].outcomes] == ["reused", "done", "skipped", "done"]


def test_stages_that_a_stopped_run_never_began_are_not_interrupted(tmp_path: Path) -> None:
    workers = Workers()
    run = CellRun(toys.session(tmp_path, workers=workers), toys.jobs(tmp_path)["cpu/tiny"])
    workers.stop()
    run.advance(run.stage("first"))
    run.advance(run.stage("second"))
    run.abandon()
    assert {outcome.status for outcome in run.outcomes} == {"not run"}
    assert {outcome.reason for outcome in run.outcomes} == {"the run was interrupted before this stage"}
    ended = summary.finished(run, 1.0)
    assert (ended.state, ended.stage, ended.code) == ("interrupted", "first", 130)
    assert run.session.ledger.entries() == []


def test_the_stage_shown_is_the_last_one_that_ran(tmp_path: Path) -> None:
    run = CellRun(toys.session(tmp_path, Choice(only=frozenset({"first"}))), toys.jobs(tmp_path)["cpu/tiny"])
    InlineExecutor().execute([run])
    assert [outcome.status for outcome in run.outcomes] == ["done", "skipped", "skipped", "skipped"]
    ended = summary.finished(run, 1.0)
    assert (ended.state, ended.stage, ended.reason) == ("partial", "first", "one")


def test_killed_in_a_stage_the_next_run_resumes(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from pathlib import Path\nfrom support import toys\n"
        "from flagrelease.run.executors.inline import InlineExecutor\n"
        f"InlineExecutor().execute(toys.run_cells(Path({str(tmp_path)!r}), 'cpu/tiny'))"
    )
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "TOY_TINY": "die"}, check=False)
    assert done.returncode == -signal.SIGKILL
    again = toys.run_cells(tmp_path, "cpu/tiny")
    InlineExecutor().execute(again)
    assert [outcome.status for outcome in again[0].outcomes] == ["reused", "done", "skipped", "done"]
    assert toys.ran(tmp_path) == ["first", "second", "second", "third"]


def test_a_cell_is_held_by_one_run(tmp_path: Path) -> None:
    path = tmp_path / "cell.lock"
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from pathlib import Path\nfrom flagrelease.store import locks\nimport time\n"
        f"with locks.hold(Path({str(path)!r}), 'x', 'otherrun'):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(Busy, match="cpu/tiny is busy") as caught, locks.hold(path, "cpu/tiny", "mine"):
            pass
        assert caught.value.why.startswith(f"held by run otherrun, pid {other.pid} on ")
        other.kill()
    with locks.hold(path, "cpu/tiny", "mine"):
        assert json.loads(path.read_text())["run"] == "mine"


def test_waiting_for_the_chip_is_not_time_of_the_stage(tmp_path: Path) -> None:
    (run,) = toys.run_cells(tmp_path, "cpu/tiny")
    machine = run.session.machine
    held = threading.Event()

    def other() -> None:
        with machine.chip(run.cell.chip.hosts[0], "another", {}, lambda _holder: None, time.sleep):
            held.set()
            time.sleep(1.5)

    holder = threading.Thread(target=other)
    holder.start()
    held.wait(10)
    began = time.monotonic()
    InlineExecutor().execute([run])
    holder.join()
    assert time.monotonic() - began > 1
    spent = next(outcome.spent for outcome in run.outcomes if outcome.stage == "second")
    assert spent is not None
    assert spent.seconds < 1


@pytest.mark.parametrize(("host_devices", "together"), [(2, True), (None, False)])
def test_cells_that_fit_on_a_machines_devices_run_at_once(
    tmp_path: Path, host_devices: int | None, together: bool
) -> None:
    runs = toys.run_cells(tmp_path, "gpu/tiny", "gpu/big")
    seen: dict[str, set[tuple[int, ...] | None]] = {}
    running = 0
    most = 0
    for run in runs:
        run.job = replace(run.job, cell=replace(run.cell, chip=replace(run.cell.chip, host_devices=host_devices)))

    def on_chip(job: Job, context: Context) -> toys.Made:
        nonlocal running, most
        running += 1
        most = max(most, running)
        seen.setdefault(job.cell.id, set()).add(context.devices)
        time.sleep(0.5)
        running -= 1
        return toys.second(job, context)

    stages = tuple(replace(stage, run=on_chip) if stage.on_chip else stage for stage in runs[0].session.stages)
    for run in runs:
        run.session = replace(run.session, stages=stages)
    InlineExecutor().execute(runs)
    assert all(outcome.status in ("done", "skipped") for run in runs for outcome in run.outcomes)
    assert (most == 2) == together
    expected: set[tuple[int, ...] | None] = {(0,), (1,)} if together else {None}
    assert set().union(*seen.values()) == expected


def test_plain_lines_show_the_progress(tmp_path: Path) -> None:
    stream = io.StringIO()
    shared = toys.session(tmp_path, board=PlainBoard(stream))
    InlineExecutor().execute([CellRun(shared, toys.jobs(tmp_path)["cpu/tiny"])])
    stamped = [line.partition("Z  ") for line in stream.getvalue().splitlines()]
    assert all(datetime.fromisoformat(stamp) for stamp, _, _ in stamped), "a log has times"
    lines = [line for _, _, line in stamped]
    assert lines[0] == "cpu/tiny  first     making one"
    assert lines[-1].startswith("cpu/tiny  third     ✓ done")


def test_a_silent_stage_gets_a_line_a_minute(tmp_path: Path) -> None:
    stream = io.StringIO()
    with PlainBoard(stream, beat_seconds=0.02) as board:
        board.begin("cpu/tiny", "first", "asking")
        board.begin("cpu/tiny", "second", "waiting")
        board.settle(Outcome(cell="cpu/tiny", stage="second", status="done", reason="two"))
        time.sleep(0.2)
    lines = stream.getvalue().splitlines()
    beats = [line.partition("Z  ")[2] for line in lines if "running for" in line]
    assert len(beats) > 1
    assert {beat.split()[1] for beat in beats} == {"first"}, "a stage that has ended is silent"
    assert beats[0].startswith("cpu/tiny  first     running for 0.0 s: asking")
    shown = len(stream.getvalue())
    time.sleep(0.1)
    assert len(stream.getvalue()) == shown, "nothing after the end"


@pytest.mark.parametrize(
    ("verdict", "shown"), [("FAIL", "✗ FAIL"), ("INCONCLUSIVE", "? INCONCLUSIVE"), ("PASS", "✓ done")]
)
def test_a_stage_is_green_only_with_a_pass(verdict: str, shown: str) -> None:
    outcome = Outcome(cell="cpu/tiny", stage="speed", status="done", reason="x", verdict=verdict)
    stream = io.StringIO()
    PlainBoard(stream).settle(outcome)
    assert f"speed     {shown}" in stream.getvalue()
    result = CellResult(cell="cpu/tiny", state="red", stage="", reason="", code=4, seconds=0, outcomes=(outcome,))
    assert shown in summary.text([result], [])
    board = LiveBoard(["cpu/tiny"], ["speed"])
    board.settle(outcome)
    (cell,) = board._table().columns[1].cells
    assert isinstance(cell, Text)
    assert (cell.plain, str(cell.style)) == (
        shown,
        {"FAIL": "bold red", "INCONCLUSIVE": "yellow"}.get(verdict, "green"),
    )


def test_a_small_terminal_shows_what_runs_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "6")
    board = LiveBoard([f"cpu/m{n}" for n in range(40)], ["first"])
    board.begin("cpu/m34", "first", "asking")
    board.settle(Outcome(cell="cpu/m37", stage="first", status="failed", reason="broke"))
    rows, folded = board._shown_rows(single=False)
    assert [label for label, _ in rows] == ["cpu/m34  first", "cpu/m37  first", "cpu/m0  first"]
    assert folded == "37 more waiting"
    assert board._table().row_count == 4
    states = [cell.plain.split()[-1] for cell in board._table().columns[1].cells if isinstance(cell, Text)]
    assert states == ["running", "failed", "waiting"]
    assert board._table().width == 57, "the echo of Ctrl-C must not wrap"


def test_the_table_shows_counts_rates_and_the_time_left() -> None:
    board = LiveBoard(["cpu/tiny"], ["first"])
    board.begin("cpu/tiny", "first", "fetching")
    progress = board.progress("cpu/tiny", "first")
    progress.doing("fetching", Count(0, 100_000_000, "B"))
    time.sleep(0.6)
    progress.doing("fetching", Count(50_000_000, 100_000_000, "B"))
    shown = board._rows["cpu/tiny", "first"].shown()
    assert shown.startswith("fetching  50.0 MB of 100.0 MB, ")
    assert shown.endswith(" left")


def test_questions_are_counted_in_few_words() -> None:
    board = LiveBoard(["cpu/tiny"], ["first"])
    board.begin("cpu/tiny", "first", "asking")
    for done in (0, 12):
        board.progress("cpu/tiny", "first").doing("asking", Count(done, 200, "questions"))
        time.sleep(0.6)
    assert board._rows["cpu/tiny", "first"].shown().startswith("asking  12 of 200 questions, ")


def test_amounts_and_durations() -> None:
    assert [amount(1, "B"), amount(98_362_432, "B"), amount(3, "questions")] == ["1 B", "98.4 MB", "3 questions"]
    assert [spell(1.26), spell(59), spell(61), spell(7260)] == ["1.3 s", "59 s", "1 min 01 s", "2 h 01 min"]
