"""tune, bundle, run: end to end on the stand-in chip, with Triton's compiler and FlagGems' tuner and database."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flagkernels.bundle import bundle as bundles
from support.flagkernels_chip import flagkernels, python, require_stand_in, write_trace

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_stand_in()
    folder = tmp_path_factory.mktemp("tune")
    done = flagkernels("tune", "--trace", write_trace(folder / "trace.json"), "--out", folder / "tuned")
    assert done.returncode == 0, done.stderr
    return folder / "tuned"


@pytest.fixture(scope="module")
def bundle(tuned: Path) -> Path:
    operators = tuned.parent / "operators.yaml"
    operators.write_text("include: [mm, neg]\npolicy: coverage\n")
    out = tuned.parent / "bundle"
    words = ("--tuned", tuned, "--operators", operators, "--vendor", "cpu", "--out", out)
    done = flagkernels("bundle", *words)
    assert done.returncode == 0, done.stderr
    return out


def report(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "tune.json").read_text())
    return value


FIRST_CALLS = """
import flag_gems, json, sys, torch
from triton.runtime.autotuner import Autotuner
timed = []
before = Autotuner._bench
Autotuner._bench = lambda tuner, *a, **k: timed.append(1) or before(tuner, *a, **k)
for m in (1, 7, 32, 64, 128):
    flag_gems.chip_kernels.mm(torch.ones(m, 64, dtype=torch.bfloat16), torch.ones(64, 64, dtype=torch.bfloat16))
tuner = flag_gems.chip_kernels.product_kernel.fn
keys = [(m, 64, 64, *["torch.bfloat16"] * 3) for m in map(int, sys.argv[1:])]
print(json.dumps({"timed": len(timed), "chosen": [str(tuner.cache.get(key)) for key in keys]}))
"""


@pytest.mark.slow  # a tuning of its own
def test_products_into_preallocated_memory_share_the_choices_of_the_others(tmp_path: Path) -> None:
    """The layers of a compiled model call `mm.out` and its head `mm`: one kernel, one database."""
    require_stand_in()
    trace = write_trace(tmp_path / "trace.json", rows=(), into=(32, 128))
    done = flagkernels("tune", "--trace", trace, "--out", tmp_path / "tuned")
    assert done.returncode == 0, done.stderr
    status = report(tmp_path / "tuned")
    assert {(row["operator"], row["key"][0]) for row in status["tuned"]} == {("mm_out", 32), ("mm_out", 128)}
    assert (status["failed"], status["tuning_events"]) == ([], 0)
    code = """
import flag_gems, torch
from triton.runtime.autotuner import Autotuner
timed = []
before = Autotuner._bench
Autotuner._bench = lambda tuner, *a, **k: timed.append(1) or before(tuner, *a, **k)
for m in (32, 128):
    flag_gems.chip_kernels.mm(torch.ones(m, 64, dtype=torch.bfloat16), torch.ones(64, 64, dtype=torch.bfloat16))
print(len(timed))
"""
    places = {"FLAGGEMS_CACHE_DIR": tmp_path / "tuned/flaggems", "TRITON_CACHE_DIR": tmp_path / "tuned/triton-cache"}
    assert python(code, **{name: str(place) for name, place in places.items()}).stdout.strip() == "0"


def first_calls(flaggems: Path, triton: Path) -> dict[str, Any]:
    """The candidates that FlagGems times and chooses in a process without flagkernels."""
    done = python(FIRST_CALLS, 32, 64, 128, FLAGGEMS_CACHE_DIR=str(flaggems), TRITON_CACHE_DIR=str(triton))
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def test_flaggems_finds_every_choice_and_times_nothing(tuned: Path) -> None:
    found = first_calls(tuned / "flaggems", tuned / "triton-cache")
    assert found["timed"] == 0
    assert found["chosen"] == [row["config"] for row in report(tuned)["tuned"]]


@pytest.mark.slow  # times every candidate again
def test_the_choice_is_that_of_libtuner_where_one_call_has_the_key(tuned: Path, tmp_path: Path) -> None:
    theirs = first_calls(tmp_path / "flaggems", tmp_path / "triton")
    assert theirs["timed"] == 36  # 12 candidates at three keys: FlagGems tunes where nothing is stored
    ours = report(tuned)["tuned"]
    assert theirs["chosen"][1:] == [row["config"] for row in ours][1:]


def test_the_choice_for_shared_keys_suits_the_smallest_call_too(tuned: Path) -> None:
    shared = report(tuned)["tuned"][0]
    # At 32 rows an inner block of 32 is 1 % faster, at 1 row 30 % slower (chip_stand_in.cost_ms).
    assert "BLOCK_M: 32, BLOCK_N: 64, BLOCK_K: 64" in shared["config"]
    assert shared["smallest_ms"] is not None


def test_one_compiled_form_serves_all_rounded_sizes(tuned: Path) -> None:
    status = report(tuned)
    # 12 candidates once; the few that are left at 1 row; the choices at 1 and 7 rows, and the negation.
    assert 12 < status["compiled"] < 24
    assert status["tuning_events"] == 0
    assert status["missing"] == status["failed"] == status["untunable"] == []


@pytest.mark.slow  # a start of torch; the kernels stage's tests have it too
def test_a_second_run_has_nothing_to_do(tuned: Path) -> None:
    copy = tuned.parent / "again"
    shutil.copytree(tuned, copy)
    done = flagkernels("tune", "--trace", tuned.parent / "trace.json", "--out", copy)
    assert done.returncode == 0, done.stderr
    assert "0 keys tuned, 3 kept" in done.stderr
    assert report(copy)["tuned"] == report(tuned)["tuned"]


ENGINE = """
import os, subprocess, sys, torch
for m in [7, *map(int, os.environ.get("MORE_ROWS", "").split())]:
    torch.ones(m, 64, dtype=torch.bfloat16) @ torch.ones(64, 64, dtype=torch.bfloat16)
-torch.ones(300, dtype=torch.bfloat16)
if "worker" not in sys.argv:
    subprocess.run([sys.executable, "-c", sys.argv[1], sys.argv[1], "worker"], check=True)
"""


def start(bundle: Path, effective: Path, cache: Path, **more: str) -> dict[str, Any]:
    words = ("run", "--bundle", bundle, "--effective", effective, "--", sys.executable, "-c", ENGINE, ENGINE)
    done = flagkernels(*words, FLAGKERNELS_CACHE=str(cache), **more)
    assert done.returncode == 0, done.stderr
    shown = flagkernels("activate", "--effective", effective)
    assert shown.returncode == 0, shown.stderr
    value: dict[str, Any] = json.loads(shown.stdout)
    return value


@pytest.mark.slow  # five starts of torch
def test_an_engine_and_its_worker_start_without_tuning_or_compiling(bundle: Path, tmp_path: Path) -> None:
    status = start(bundle, tmp_path / "effective", tmp_path / "cache")
    assert len(status["processes"]) == 2
    assert status["operators"] == ["mm", "neg"]
    assert status["called"] == {"mm": 2, "neg": 2}
    assert status["captured"] == []
    assert status["partial"] == []
    assert (status["tuning_events"], status["compilations"]) == (0, 0)
    stored = next((tmp_path / "cache").rglob("*.db"))
    assert stored.read_bytes()[18:20] == b"\2\2"  # write-ahead log: readers and a writer do not wait for each other


@pytest.mark.slow  # compiles again
def test_rows_between_those_that_were_tuned_take_the_nearest_choice(bundle: Path, tmp_path: Path) -> None:
    status = start(bundle, tmp_path / "effective", tmp_path / "cache", MORE_ROWS="96 300 96")
    assert status["tuning_events"] == 0
    assert status["filled"] == 2  # once in the engine; the worker finds them in the database
    assert status["differing"] == []
    (engine, worker) = (json.loads(file.read_text())["choices"] for file in (tmp_path / "effective").glob("*.json"))
    assert len(engine) == len(worker) == 3  # the keys at 7, 96 and 300 rows
    overlay = next((tmp_path / "cache").glob("*/flaggems"))
    done = python(FIRST_CALLS, 96, 128, 320, FLAGGEMS_CACHE_DIR=str(overlay), TRITON_CACHE_DIR=str(tmp_path / "triton"))
    assert json.loads(done.stdout)["chosen"] == [report(bundle.parent / "tuned")["tuned"][-1]["config"]] * 3


@pytest.mark.slow  # tunes again, in an engine
def test_a_kernel_that_was_never_tuned_is_tuned_and_counted(bundle: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(bundle, bare)
    with closing(sqlite3.connect(bare / "tuned.db")) as connection:
        (table,) = connection.execute("SELECT name FROM sqlite_master WHERE type='table'").fetchone()
        connection.execute(f'DELETE FROM "{table}"')  # noqa: S608 -- the name is SQLite's own
        connection.commit()
    label = json.loads((bare / "compat.json").read_text())
    (bare / "compat.json").write_text(json.dumps({**label, "content": bundles.content(bare)}))
    status = start(bare, tmp_path / "effective", tmp_path / "cache")
    assert (status["tuning_events"], status["tuned"], status["filled"]) == (12, ["product_kernel"], 0)


EARLY = "import flag_gems; from flagkernels.engine import plugin; plugin.register(); print('served')"


@pytest.mark.slow  # three starts of torch
def test_flaggems_that_was_imported_before_is_accepted_only_with_the_bundles_database(
    bundle: Path, tmp_path: Path
) -> None:
    """A platform plugin may import flag_gems before the general plugins are called."""
    places = {"FLAGKERNELS_CACHE": str(tmp_path / "cache"), "FLAGKERNELS_EFFECTIVE": str(tmp_path / "effective")}
    alone = python(EARLY, **places, FLAGKERNELS_BUNDLE=str(bundle), FLAGGEMS_CACHE_DIR=str(tmp_path / "other"))
    assert alone.returncode == 6
    assert "imported before the bundle" in alone.stderr
    under_run = flagkernels("run", "--bundle", bundle, "--", sys.executable, "-c", EARLY, **places)
    assert under_run.stdout == "served\n", under_run.stderr


@pytest.mark.slow  # compiles again
def test_a_bundle_without_kernels_compiles_and_says_so(bundle: Path, tmp_path: Path) -> None:
    """The counters must not read zero only because nothing is hooked."""
    bare = tmp_path / "bare"
    loaded = bundles.load(bundle)
    bundles.build(
        bare,
        operators=loaded.operators,
        tuned=bundle / "tuned.db",
        database_name="TunedConfig_other.db",  # FlagGems does find it, by URL
        triton_cache=bundle / "triton-cache",
        kernels=[],
        report={},
        compat=loaded.compat,
    )
    status = start(bare, tmp_path / "effective", tmp_path / "cache")
    assert status["tuning_events"] == 0
    assert status["compilations"] >= 2


def test_the_bundle_is_small_relocatable_and_complete(bundle: Path, tmp_path: Path) -> None:
    from flagkernels.bundle import bundle as bundles

    digest = bundles.digest(bundle)
    moved = tmp_path / "elsewhere/bundle"
    moved.parent.mkdir()
    shutil.copytree(bundle, moved)
    assert bundles.digest(moved) == digest
    assert not [file for file in moved.rglob("*") if file.suffix in bundles.INTERMEDIATE]
    assert str(bundle.parent) not in "".join(f.read_text() for f in moved.rglob("__grp__*"))
    status = start(moved, tmp_path / "effective", tmp_path / "cache")
    assert (status["tuning_events"], status["compilations"]) == (0, 0)


@pytest.mark.slow  # a tuning of its own
def test_a_budget_that_ends_early_leaves_the_best_so_far_and_no_tuning(tmp_path: Path) -> None:
    """One compiler and 3 s: a few candidates, a few keys; the other keys borrow, and a second run tunes them."""
    require_stand_in()
    trace = write_trace(tmp_path / "trace.json", rows=(32, 64, 128, 256))
    words = ("tune", "--trace", trace, "--out", tmp_path / "out", "--width", "1")
    code = f"""
import sys, time
sys.argv = ["flagkernels"]
import flag_gems, flagkernels.tuning.session as session
class Slow(session.Session):
    def _tune_key(self, *a):
        super()._tune_key(*a)
        self.deadline = 0  # the budget ends with the first key
session.Session = Slow
from flagkernels import cli
raise SystemExit(cli.main({[*map(str, words), "--worker", "--deadline", "9e18"]!r}))
"""
    out = tmp_path / "out"
    done = python(code, FLAGGEMS_CACHE_DIR=str(out / "flaggems"), TRITON_CACHE_DIR=str(out / "triton-cache"))
    assert done.returncode == 0, done.stderr
    status = report(out)
    assert [row["state"] for row in status["tuned"]] == ["tuned", "borrowed", "borrowed", "borrowed"]
    assert status["tuning_events"] == 0
    assert status["missing"] == []
    again = flagkernels(*words)
    assert again.returncode == 0, again.stderr
    assert {row["state"] for row in report(out)["tuned"]} == {"tuned"}


@pytest.mark.slow  # a tuning of its own
def test_a_budget_too_small_for_one_candidate_is_an_error(tmp_path: Path) -> None:
    require_stand_in()
    done = flagkernels(
        "tune", "--trace", write_trace(tmp_path / "trace.json"), "--out", tmp_path / "out", "--budget", "0.01s"
    )
    assert done.returncode == 2
    assert "is too small for one candidate" in done.stderr
    assert "--budget" in done.stderr


@pytest.mark.parametrize("budget", ["soon", "-3m", "0", "10d"])
def test_a_budget_that_is_not_a_duration_is_a_usage_error(budget: str, tmp_path: Path) -> None:
    done = flagkernels("tune", "--trace", tmp_path / "t.json", "--out", tmp_path / "out", f"--budget={budget}")
    assert done.returncode == 2
    assert "is not a duration" in done.stderr


def test_an_unwritable_path_is_reported(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    done = flagkernels("tune", "--trace", tmp_path / "t.json", "--out", tmp_path / "taken")
    assert done.returncode == 6
    assert "choose a writable path" in done.stderr
    assert "Traceback" not in done.stderr


def test_verdicts_that_are_missing_are_not_taken_for_none_correct(tmp_path: Path) -> None:
    require_stand_in()
    words = ("tune", "--trace", write_trace(tmp_path / "trace.json"), "--out", tmp_path / "out")
    done = flagkernels(*words, "--verdicts", tmp_path / "none.jsonl")
    assert done.returncode == 2
    assert "cannot read" in done.stderr


def test_an_unknown_operator_gets_a_suggestion(tmp_path: Path) -> None:
    require_stand_in()
    trace = write_trace(tmp_path / "trace.json")
    done = flagkernels("tune", "--trace", trace, "--out", tmp_path / "out", "--operators", "nge")
    assert done.returncode == 2
    assert "did you mean 'neg'" in done.stderr


def test_a_bundle_with_an_unknown_operator_is_refused_before_the_engine_starts(bundle: Path, tmp_path: Path) -> None:
    from flagkernels.bundle import bundle as bundles
    from flagkernels.operators.listing import Operators

    loaded = bundles.load(bundle)
    wrong = tmp_path / "wrong"
    bundles.build(
        wrong,
        operators=Operators(include=("mm", "negg")),
        tuned=bundle / "tuned.db",
        database_name=loaded.database_name,
        triton_cache=bundle / "triton-cache",
        kernels=[],
        report={},
        compat=loaded.compat,
    )
    (tmp_path / "operators.yaml").write_text("include: [mm, negg]\n")
    words = ("--tuned", bundle.parent / "tuned", "--operators", tmp_path / "operators.yaml", "--out", tmp_path / "new")
    early = flagkernels("bundle", *words, "--vendor", "cpu")
    assert early.returncode == 2
    assert "did you mean 'neg'" in early.stderr
    assert not (tmp_path / "new").exists()
    done = flagkernels("run", "--bundle", wrong, "--", sys.executable, "-c", "print('started')")
    assert done.returncode == 2
    assert "did you mean 'neg'" in done.stderr
    assert "started" not in done.stdout


@pytest.mark.slow  # a tuning of its own
def test_an_operator_that_fails_is_a_row_and_the_others_are_tuned(tmp_path: Path) -> None:
    require_stand_in()
    trace = write_trace(tmp_path / "trace.json", rows=(32,), once=(512,))
    done = flagkernels("tune", "--trace", trace, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    status = report(tmp_path / "out")
    assert {(row["call"], row["error"]) for row in status["failed"]} == {
        ("inner 512×64 64×64", "RuntimeError: no more products")
    }
    assert [(row["key"][0], row["state"]) for row in status["tuned"]] == [(32, "tuned"), (512, "borrowed")]


@pytest.mark.slow  # a tuning of its own
def test_only_correct_operators_are_tuned(tmp_path: Path) -> None:
    require_stand_in()
    verdicts = tmp_path / "verdicts.jsonl"
    nothing = {
        **dict.fromkeys(("reason", "at", "log_tail"), ""),
        **dict.fromkeys(("cases", "passed", "dropped", "seconds", "peak_mib"), 0),
        **dict.fromkeys(("error", "native", "relative")),
    }
    rows = [
        {**nothing, "key": name, "operator": name, "verdict": verdict, "results": []}
        for name, verdict in (("mm", "wrong"), ("neg", "correct"))
    ]
    lines = [json.dumps(row) for row in rows]
    verdicts.write_text("\n".join(lines) + "\n")
    trace = write_trace(tmp_path / "trace.json")
    done = flagkernels("tune", "--trace", trace, "--out", tmp_path / "out", "--verdicts", verdicts)
    assert done.returncode == 0, done.stderr
    assert report(tmp_path / "out")["tuned"] == []
    assert report(tmp_path / "out")["compiled"] == 1
