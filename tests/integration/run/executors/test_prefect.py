"""The same cells under a real Prefect server: same outcomes, a red flow when a cell is red, nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.prefect]

PROGRAM = """
import sys, json, urllib.request, os
from pathlib import Path
from support import toys
from flagrelease.run.executors.open import opened
root = Path(sys.argv[1])
runs = toys.run_cells(root, "cpu/tiny", "gpu/tiny", "gpu/big")
with opened("prefect", root / "prefect", "testrun") as chosen:
    (root / "url").write_text(os.environ["PREFECT_API_URL"])
    chosen.execute(runs)
    request = urllib.request.Request(os.environ["PREFECT_API_URL"] + "/flow_runs/filter", b"{}",
                                     {"content-type": "application/json"})
    flows = json.load(urllib.request.urlopen(request))
print(json.dumps({
    "outcomes": {run.cell.id: [outcome.status for outcome in run.outcomes] for run in runs},
    "flows": [[flow["name"], flow["state_type"]] for flow in flows],
    "home": os.environ["PREFECT_HOME"],
}))
"""


def start(root: Path, program: str = PROGRAM, **env: str) -> subprocess.Popen[str]:
    path = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-c", program, str(root)],
        env={**os.environ, "PYTHONPATH": path, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def gone(url: str) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not answers(url):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow  # four flows; the release of tests/e2e is one too
def test_green_red_and_killed(tmp_path: Path) -> None:
    with start(tmp_path, TOY_BIG="fail") as first:
        out, err = first.communicate(timeout=120)
    assert first.returncode == 0, err
    told = json.loads(out)
    assert told["outcomes"] == {
        "cpu/tiny": ["done", "done", "skipped", "done"],
        "gpu/tiny": ["done", "done", "skipped", "done"],
        "gpu/big": ["done", "failed", "not run", "not run"],
    }
    assert told["flows"] == [["testrun", "FAILED"]]
    assert Path(told["home"]).is_relative_to(tmp_path)
    assert gone((tmp_path / "url").read_text())
    assert "Traceback" not in err

    # Killed while a stage works: the server goes with us, and the next run resumes.
    with start(tmp_path, TOY_BIG="hang") as second:
        while not (tmp_path / "hanging").exists():
            assert second.poll() is None
            time.sleep(0.1)
        url = (tmp_path / "url").read_text()
        assert answers(url)
        second.send_signal(signal.SIGKILL)
        second.communicate()
    assert gone(url), "the embedded server outlived a killed run"

    with start(tmp_path) as third:
        out, err = third.communicate(timeout=120)
    told = json.loads(out)
    assert told["outcomes"]["gpu/big"] == ["reused", "done", "skipped", "done"]
    assert told["flows"][-1][1] == "COMPLETED" or ["testrun", "COMPLETED"] in told["flows"]


@pytest.mark.slow  # a Prefect client's patience
def test_a_named_server_that_does_not_answer(tmp_path: Path) -> None:
    with start(tmp_path, PREFECT_API_URL="http://127.0.0.1:9/api") as done:
        _, err = done.communicate(timeout=60)
    assert "EnvironmentFault: the Prefect server at http://127.0.0.1:9/api did not answer" in err


ROUNDS = """
import sys, json, urllib.request, os
from pathlib import Path
from flagrelease.run.executors.open import opened
from support.toy_operators import run_cell
root = Path(sys.argv[1])
run = run_cell(root)
with opened("prefect", root / "prefect", "testrun") as chosen:
    chosen.execute([run])
    request = urllib.request.Request(os.environ["PREFECT_API_URL"] + "/flow_runs/filter", b"{}",
                                     {"content-type": "application/json"})
    flows = json.load(urllib.request.urlopen(request))
print(json.dumps({
    "outcomes": [f"{one.stage} {one.status}" for one in run.outcomes],
    "flows": [flow["state_type"] for flow in flows],
}))
"""


@pytest.mark.slow  # a Prefect server of its own; unit tests remedy without one
def test_a_failure_that_is_remedied_leaves_the_flow_green(tmp_path: Path) -> None:
    (tmp_path / "deadly").write_text("mul")
    (tmp_path / "findable").write_text("mul")
    with start(tmp_path, program=ROUNDS) as run:
        out, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    told = json.loads(out)
    assert told["outcomes"] == [
        *("weights done", "kernels done", "smoke remedied", "attribute done"),
        *("kernels done", "smoke done", "accuracy done", "card done"),
    ]
    assert told["flows"] == ["COMPLETED"]


WITHHELD = """
import os, sys
from pathlib import Path
from flagrelease.run.executors.open import opened
root = Path(sys.argv[1])
with opened("prefect", root / "prefect", "testrun"):
    servers = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"prefect.server.api.server" in (process / "cmdline").read_bytes() and (
                str(root).encode() in (process / "environ").read_bytes()
            ):
                servers.append((process / "environ").read_bytes().decode())
        except OSError:
            pass
    print(len(servers), any("own-secret" in each for each in servers), "PREFECT_API_KEY" in os.environ)
"""


@pytest.mark.slow  # a Prefect server of its own; the cell with canaries has one too
def test_the_embedded_server_and_its_client_get_no_credentials(tmp_path: Path) -> None:
    with start(tmp_path, WITHHELD, PREFECT_API_KEY="own-secret-1", HF_TOKEN="own-secret-2") as done:
        out, err = done.communicate(timeout=240)
    assert out.split() == ["1", "False", "False"], err
