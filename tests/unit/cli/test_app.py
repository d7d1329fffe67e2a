"""The command line: one clear error line and the right exit code."""

import json
import math
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from flagrelease import __version__
from flagrelease.cli import app
from flagrelease.store.ledger import Entry, Failure, Ledger
from flagrelease.store.workspace import Workspace

ROOT = Path(__file__).parents[3]


HIDDEN = "8.2 billion parameters"
"""A reason in matrix.yaml, taken for a secret here."""


@pytest.mark.parametrize("json_flag", [(), ("--json",)])
@pytest.mark.parametrize(
    "argv", [["plan"], ["status"], ["explain", "cpu/smollm2-135m"], ["history", "cpu/smollm2-135m"]]
)
def test_every_verb_redacts_what_it_prints(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    json_flag: list[str],
) -> None:
    failure = Failure(kind="X", code=6, what=f"said\n{HIDDEN}", why=HIDDEN, hint=HIDDEN, detail=HIDDEN)
    ledger = Ledger(Workspace(here / ".flagrelease").ledger)
    more = {"at": "2026-01-01T00:00:00+00:00", "run": "r", "cell": "cpu/smollm2-135m", "stage": "image", "key": "0"}
    ledger.append(Entry(**more, state="failed", process="1@b", error=failure))  # type: ignore[arg-type]
    assert HIDDEN in ledger.path.read_text()
    monkeypatch.setenv("SOME_TOKEN", HIDDEN)
    assert app.main([*argv, *json_flag]) == 0
    shown = capsys.readouterr()
    assert HIDDEN not in shown.out + shown.err
    assert "$SOME_TOKEN" in shown.out
    if json_flag:
        json.loads(shown.out)
    assert app.main(["run", "cpu/qwen3-8b"]) == 3
    assert HIDDEN not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "code", "expected"),
    [
        (["run", "--chip", "cqu"], 2, "unknown chip 'cqu'|did you mean 'cpu'?"),
        (["run", "--model", "smol"], 2, "unknown model 'smol'|did you mean 'smollm2-135m'?"),
        (["run", "cpu/smollm2-135n"], 2, "unknown cell|did you mean 'cpu/smollm2-135m'?"),
        (["run", "--model", "zz*"], 3, "no model matches 'zz*'"),
        (["run", "cpu/qwen3-8b"], 3, "cpu/qwen3-8b is excluded: 8.2 billion parameters"),
        (["run", "metax/qwen3-8b"], 2, "metax/qwen3-8b cannot run: models.qwen3-8b is not locked"),
        (["run", "--only", "smok"], 2, "unknown stage 'smok'|did you mean 'smoke'?"),
        (["run", "--rounds", "-1"], 2, "--rounds must be >= 0|with 0, no operators are looked for after a failed gate"),
        (["run", "--force", "imge"], 2, "did you mean 'image'?"),
        (["tune", "--chip", "nvidia-h100", "--config", "none.json"], 2, "are selected|--model"),
        (["tune", "nvidia-h100/qwen3-8b", "--config", "none.json"], 2, "none.json cannot be read|No such file"),
        (["tune", "nvidia-h100/qwen3-8b", "--config", "matrix.yaml"], 2, "matrix.yaml is not JSON|config.json of a"),
        (["run", "--profile", "fully"], 2, "unknown profile 'fully'|did you mean 'full'?"),
        (["plan", "--matrix", "none.yaml"], 2, "none.yaml does not exist|flagrelease init"),
        (["rnu"], 2, "unknown verb 'rnu'|did you mean 'run'?"),
        (["run", "--chp", "cpu"], 2, "unrecognized arguments: --chp|did you mean '--chip'?"),
        (["plan", "--josn=1"], 2, "unrecognized arguments: --josn=1|did you mean '--json'?"),
        (["plan", "--workspace", "matrix.yaml"], 2, "matrix.yaml is not a directory|--workspace DIR"),
        (["plan", "--workspace", "a:b"], 2, "a:b' cannot be the workspace|without colons"),
        (["plan", "--workspace", "a\nb"], 2, r"a\nb' cannot be the workspace|without colons"),
        (["help"], 2, "unknown verb 'help'|`flagrelease --help` describes the verbs"),
        (["run", "--rounds", "-1", "--dry-run"], 2, "--rounds must be >= 0"),
        (["run", "--engine", "airflow"], 2, "invalid choice"),
        (["plan", "--registry", "localhost:5000/Upper"], 2, "invalid registry: 'localhost:5000/Upper'"),
        (["plan", "--registry", "localhost"], 2, "HOST[:PORT]/PREFIX"),
        ([], 2, "VERB"),
        (["explain", "cpu/none"], 2, "unknown cell 'cpu/none'"),
    ],
)
def test_bad_input(here: Path, capsys: pytest.CaptureFixture[str], argv: list[str], code: int, expected: str) -> None:
    assert app.main(argv) == code
    err = capsys.readouterr().err
    for part in expected.split("|"):
        assert part in err
    assert "Traceback" not in err
    assert not (here / ".flagrelease").exists(), "bad input leaves nothing behind"


def test_the_executor_from_the_environment_is_validated(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAGRELEASE_ENGINE", "inlin")
    assert app.main(["run", "cpu/smollm2-135m"]) == 2
    assert "invalid choice: 'inlin'" in capsys.readouterr().err
    monkeypatch.setenv("FLAGRELEASE_ENGINE", "")
    assert app.parser().parse_args(["run"]).engine == "prefect"


def test_plan_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["plan", "--json"]) == 0
    cells = {cell["cell"]: cell["stages"] for cell in json.loads(capsys.readouterr().out)["cells"]}
    assert {"cpu/smollm2-135m", "cpu/qwen3-8b", "metax/qwen3-8b"} <= set(cells)
    assert cells["cpu/smollm2-135m"][0] == {"stage": "weights", "action": "run", "reason": "never run"}
    assert cells["cpu/smollm2-135m"][-1]["reason"] == "image, accuracy and card will run"
    assert cells["cpu/qwen3-8b"][0]["action"] == "skip"
    assert cells["cpu/qwen3-8b"][0]["reason"].startswith("excluded: ")


def test_a_plan_shows_how_to_unblock_a_cell(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "matrix.lock").unlink()
    assert app.main(["plan", "cpu/smollm2-135m"]) == 2
    assert "is not locked: matrix.lock has no entry; run `flagrelease lock`" in capsys.readouterr().out


def test_plan_and_dry_run_are_the_same(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["plan", "cpu/smollm2-135m"]) == 0
    planned = capsys.readouterr().out
    assert app.main(["run", "cpu/smollm2-135m", "--dry-run"]) == 0
    assert capsys.readouterr().out == planned
    assert planned.splitlines()[0].split() == ["cell", "stage", "action", "reason"]


def test_power_forecast(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["plan", "cpu/smollm2-135m", "--power", "--json"]) == 0
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    (forecast,) = cell["benchmarks"]
    assert forecast["answers"] == 155
    assert forecast["needed"] > 125
    assert 0 < forecast["passes_if_equal"] < forecast["finds"]["0.1"] < 1
    assert forecast["sequential"]["0.1"]["answers"] < forecast["sequential"]["0"]["answers"] < 155
    assert cell["passes_if_equal"] == pytest.approx(forecast["passes_if_equal"])
    assert cell["hours"] is None
    assert app.main(["plan", "nvidia-h100/qwen3-8b", "--power", "--profile", "full"]) == 0
    shown = capsys.readouterr().out
    assert "aime" in shown
    assert "expected if equal" in shown
    assert "all of them" in shown


def test_an_identical_stack_passes_the_full_profile(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All five benchmarks in 90 % of the cases, which their repeats have to provide."""
    assert app.main(["plan", "nvidia-h100/qwen3-8b", "--power", "--json", "--profile", "full"]) == 0
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    assert len(cell["benchmarks"]) == 5
    product = math.prod(each["passes_if_equal"] for each in cell["benchmarks"])
    assert 0.9 <= cell["passes_if_equal"] == pytest.approx(product, abs=1e-3)
    assert cell["expected"] < 0.4 * cell["answers"]


def test_the_hours_of_an_evaluation_follow_from_the_last_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = {"questions_asked": 100, "inference_seconds": 360.0}
    cell, stage = "cpu/smollm2-135m", "accuracy"
    entry = Entry(at="2026", run="r", cell=cell, stage=stage, state="done", key="k", process="1@b", result=result)
    Ledger(Workspace(here / ".flagrelease").ledger).append(entry)
    assert app.main(["plan", "cpu/smollm2-135m", "--power", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["cells"]
    assert told["hours"] == pytest.approx([3.6 * told["expected"] / 3600, 3.6 * told["answers"] / 3600], abs=0.01)
    assert app.main(["plan", "cpu/smollm2-135m", "--power"]) == 0
    shown = capsys.readouterr().out
    assert "3.6 s per answer in its last evaluation" in shown
    assert re.search(r"evaluation: \d min \d\d s for the candidate's answers if equal, at most \d min \d\d s\n", shown)
    for column in ("pt", "maximum", "expected", "PASS, detects", "needed for 80%"):
        assert f"\n{column}: " in shown, "each column is explained"


def test_status_and_explain_of_a_new_cell(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["status"]) == 0
    assert "never run" in capsys.readouterr().out
    assert app.main(["explain", "cpu/smollm2-135m"]) == 0
    assert capsys.readouterr().out.startswith("cpu/smollm2-135m is new: never run")


def test_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert app.main(["init"]) == 0
    said = capsys.readouterr().out
    assert said.index("docker build") < said.index("flagrelease lock") < said.index("flagrelease doctor"), said
    assert app.main(["plan"]) == 2, "nothing is locked yet"
    assert "cpu/smollm2-135m" in capsys.readouterr().out
    assert app.main(["init"]) == 2
    assert "matrix.yaml exists" in capsys.readouterr().err


def test_odd_paths_are_the_environments(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "file").write_text("")
    assert app.main(["plan", "--workspace", "file/x/y"]) == 2
    assert "file is not a directory" in capsys.readouterr().err
    (here / "ws" / "ledger.jsonl").mkdir(parents=True)
    assert app.main(["status", "--workspace", "ws"]) == 6
    assert "ledger.jsonl cannot be read: Is a directory" in capsys.readouterr().err
    (here / "matrix.lock").unlink()
    (here / "matrix.lock").mkdir()
    assert app.main(["plan"]) == 2
    assert "matrix.lock cannot be read: Is a directory" in capsys.readouterr().err
    assert app.main(["init", "--matrix", "/proc/x.yaml"]) == 6
    err = capsys.readouterr().err
    assert "/proc/x.yaml cannot be written: No such file or directory" in err
    assert "choose another --matrix FILE" in err
    assert app.main(["init", "--matrix", "file/x.yaml"]) == 6
    assert "file/x.yaml cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(("verb", "code"), [("explain cpu/smollm2-135m", 0), ("--help", 0), ("plan", 0)])
def test_an_ascii_terminal_gets_escapes(verb: str, code: int, here: Path) -> None:
    done = started(verb, here, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (code, b"")
    assert done.stdout.isascii()


def test_a_full_output_is_the_environments(here: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = started("plan", here, stdout=full)
    assert done.returncode == 6
    assert done.stderr.decode().splitlines()[0] == (
        "flagrelease: standard output cannot be written: No space left on device"
    )
    assert b"bug" not in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_streams_are_no_defect(closed: str, here: Path) -> None:
    code = "import sys; from flagrelease.cli.app import main; sys.exit(main(sys.argv[1:]))"
    line = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(code)} card cpu/smollm2-135m {closed}"
    done = subprocess.run(["bash", "-c", line], cwd=here, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["card cpu/smollm2-135m 2>&1 >/dev/null", "status --state nothing 2>&1", "plan 2>&1"])
def test_a_reader_that_has_enough_does_not_hide_the_exit_code(verb: str, here: Path) -> None:
    code = "import sys, time; time.sleep(0.5); from flagrelease.cli.app import main; sys.exit(main(sys.argv[1:]))"
    line = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(code)} {verb}"
    whole = subprocess.run(["bash", "-c", line], cwd=here, capture_output=True, check=False)
    piped = f"({line}) | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", piped], cwd=here, capture_output=True, text=True, check=False)
    assert done.stdout == f"{whole.returncode}\n"
    assert done.stderr == ""


def test_a_full_log_does_not_hide_the_exit_code(here: Path) -> None:
    code = (
        "import sys; from flagrelease.cli.app import main; from flagrelease.cli.display import PlainBoard\n"
        "PlainBoard().say('a line'); sys.exit(main(['plan', '--josn']))"
    )
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([sys.executable, "-c", code], cwd=here, stderr=full, check=False)
    assert done.returncode == 2


@pytest.mark.parametrize("line", [b"[" * 100_000, b'{"at": "\xff"}', b'{"result": ' + b"[" * 100_000])
def test_damaged_lines_of_the_ledger_are_ignored(here: Path, capsys: pytest.CaptureFixture[str], line: bytes) -> None:
    (here / ".flagrelease").mkdir()
    (here / ".flagrelease" / "ledger.jsonl").write_bytes(line + b"\n")
    assert app.main(["status"]) == 0
    assert "ignored: 1 damaged line of" in capsys.readouterr().out
    assert app.main(["explain", "cpu/smollm2-135m"]) == 0


def test_results_of_another_version_are_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = Ledger(Workspace(here / ".flagrelease").ledger)
    for stage in ("image", "card"):
        entry = Entry(at="2026", run="r", cell="cpu/smollm2-135m", stage=stage, state="done", key="k", process="1@b")
        ledger.append(replace(entry, result=[1]))
    assert app.main(["explain", "cpu/smollm2-135m"]) == 0
    assert capsys.readouterr().out.count("written by another version; the next run makes it again") == 2
    assert app.main(["card", "cpu/smollm2-135m"]) == 2
    assert "has no card yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["compare", "deep", "deep"], "conditions.json is damaged"),
        (["compare", "deep/release.json", "deep"], "is not a release record"),
        (["baseline", "import", "deep/release.json", "cpu/smollm2-135m"], "is not a release record"),
        (["tune", "nvidia-h100/qwen3-8b", "--config", "deep/release.json"], "is not JSON"),
    ],
)
def test_deeply_nested_files_are_damaged(
    here: Path, capsys: pytest.CaptureFixture[str], argv: list[str], name: str
) -> None:
    (here / "deep").mkdir()
    for file in ("samples.jsonl", "conditions.json", "release.json"):
        (here / "deep" / file).write_text("" if file == "samples.jsonl" else "[" * 100_000)
    assert app.main(argv) == 2
    assert name in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (PermissionError(13, "Permission denied", "/x/y"), 6, "/x/y cannot be used: Permission denied"),
        (OSError(30, "Read-only file system", "/x"), 6, "/x cannot be used: Read-only file system"),
        (OSError(28, "No space left on device", "/x"), 6, "no space left: /x"),
        (OSError(24, "Too many open files"), 6, "the operating system refused: Too many open files"),
        (MemoryError(), 6, "too few resources: memory is used up"),
        (RuntimeError("can't start new thread"), 6, "too few resources: can't start new thread"),
    ],
)
def test_faults_of_the_machine_are_no_defects(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
    shown: str,
) -> None:
    def broken(_options: object) -> None:
        raise error

    monkeypatch.setattr("flagrelease.cli.commands.status.open_project", broken)
    assert app.main(["status"]) == code
    err = capsys.readouterr().err
    assert shown in err
    assert "bug" not in err
    assert "Traceback" not in err


def started(
    verb: str, here: Path, stdout: IO[bytes] | int = subprocess.PIPE, **env: str
) -> subprocess.CompletedProcess[bytes]:
    program = "import sys; from flagrelease.cli.app import main; sys.exit(main(sys.argv[1:]))"
    argv = [sys.executable, "-c", program, *verb.split()]
    return subprocess.run(argv, cwd=here, env={**os.environ, **env}, stdout=stdout, stderr=subprocess.PIPE, check=False)


def test_an_unexpected_exception_is_reported_as_a_bug(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_options: object) -> None:
        raise ZeroDivisionError("with letters-and-digits-123 inside")

    monkeypatch.setenv("SOME_TOKEN", "letters-and-digits-123")
    monkeypatch.setattr("sys.argv", ["flagrelease", "status", "--registry", "letters-and-digits-123"])
    monkeypatch.setattr("flagrelease.cli.commands.status.open_project", broken)
    assert app.main(["status"]) == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError" in err
    assert "this is a bug" in err
    assert f"flagrelease {__version__}, Python 3." in err, "what a report needs"
    assert "flagrelease status --registry" in err
    assert "flagrelease doctor --json" in err
    assert "letters-and-digits-123" not in err, "a report is sent to others"


def test_tune_says_why_a_chip_has_nothing_to_tune(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["tune", "--chip", "cpu", "--model", "smollm2-135m"]) == 3
    err = capsys.readouterr().err
    assert "cpu/smollm2-135m has no operators to prepare: no Triton backend" in err
    hint = (
        "`flagrelease run cpu/smollm2-135m` releases it without FlagGems operators; `tune` is for nvidia-a100/qwen3-8b"
    )
    assert hint in err
    assert not (here / ".flagrelease").exists(), "no weights are fetched for it"


@pytest.mark.parametrize(("verb", "hint"), [("plan", ""), ("run", "  → run again: finished stages are kept\n")])
def test_only_verbs_with_stages_keep_some_when_interrupted(
    verb: str, hint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"flagrelease.cli.commands.{verb}.main", interrupted)
    assert app.main([verb]) == 130
    assert capsys.readouterr().err == f"flagrelease: interrupted\n{hint}"
