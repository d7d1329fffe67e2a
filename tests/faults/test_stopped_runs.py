"""After a kill or an interrupt in any stage, the next run completes the release, and nothing is left behind."""

import json
import signal
import time
from pathlib import Path

import pytest

from flagrelease.stages import STAGES
from support.project import CELL, UserProject, project

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.slow]  # a real cell, with ten starts of it

STOPPED = [stage.name for stage in STAGES]


def stop_in(user: UserProject, stage: str, number: int) -> tuple[int, str]:
    """Run until `stage` has begun, then send the signal; return the exit code and the output after it."""
    with user.start("run", CELL) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.partition("Z  ")[2].startswith(f"{CELL}  {stage:<9}") and "✓" not in line:
                break
        else:
            pytest.fail(f"{stage} never began: {process.communicate()}")
        time.sleep(0.3 if stage not in ("card", "publish") else 0.0)
        process.send_signal(number)
        _, rest = process.communicate(timeout=180)
    return process.returncode, rest


def nothing_is_left(user: UserProject, stage: str, code: int, said: str) -> None:
    # Publishing is two requests to the registry, which may finish before the signal arrives.
    finished = stage == "publish" and code == 0
    assert finished or (code == 130 and "run again" in said), said
    assert user.leftovers() == [], f"after Ctrl-C in {stage}"


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("killed", "interrupted"),
    [
        pytest.param(STOPPED, ["image", "smoke"], id="killed"),
        pytest.param([], STOPPED, id="interrupted"),
    ],
)
def test_stopped_in_every_stage(
    tmp_path: Path, base: str, own_registry: str, killed: list[str], interrupted: list[str]
) -> None:
    user = project(tmp_path, f"{own_registry}/stopped")
    for stage in STOPPED:
        if stage in killed:
            assert stop_in(user, stage, signal.SIGKILL)[0] == -signal.SIGKILL
        if stage in interrupted:
            nothing_is_left(user, stage, *stop_in(user, stage, signal.SIGINT))
    code, out, err = user.call("run", CELL, "--json")
    assert code == 0, err
    (cell,) = json.loads(out)["cells"]
    assert cell["state"] in ("released", "unchanged")
    states = {stage["stage"]: stage["state"] for stage in cell["stages"]}
    assert {states.get(name, "reused") for name in STOPPED[:-1]} <= {"reused", "skipped"}, "a finished stage ran again"
    assert user.leftovers() == []
    assert not [path for path in Path("/proc").glob("[0-9]*") if _is_ours(path, tmp_path)]


def _is_ours(process: Path, root: Path) -> bool:
    try:
        return str(root) in (process / "cmdline").read_text().replace("\0", " ")
    except OSError:
        return False


@pytest.mark.timeout(900)
def test_a_killed_run_s_server_is_removed_by_another_workspace(tmp_path: Path, base: str, own_registry: str) -> None:
    dead, next_one = tmp_path / "dead", tmp_path / "next"
    dead.mkdir(), next_one.mkdir()
    user, locks = project(dead, f"{own_registry}/dead"), {"FLAGRELEASE_LOCKS": str(tmp_path / "locks")}
    with user.start("run", CELL, **locks) as process:
        while not any("/" not in left for left in user.leftovers()):  # a container
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        process.kill()
        process.communicate()
    code, _, err = project(next_one).call("run", CELL, "--only", "weights", **locks)
    assert code == 0, err
    assert f"of {CELL} left" in err
    assert [left for left in user.leftovers() if "/" not in left] == []
    assert list((tmp_path / "locks").glob("run-*")) == []
