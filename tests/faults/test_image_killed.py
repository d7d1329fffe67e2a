"""The image stage, killed with SIGKILL midway and run again, gives the same image."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import docker
import pytest

import support.served_cell as given
from flagrelease.errors import FlagreleaseError
from flagrelease.ports.container_runner import WORKSPACE_LABEL
from flagrelease.ports.docker.engine import Engine
from flagrelease.ports.registry import OciRegistry
from flagrelease.ports.retry import Backoff
from flagrelease.stages.image import stage as image

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.timeout(900)]

REGISTRY = f"localhost:{os.environ.get('FLAGRELEASE_REGISTRY_PORT', '5000')}"

PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
from support import served_cell as given
from flagrelease.stages.image import stage as image

class Telling:
    def doing(self, text, count=None):
        print(text, flush=True)
    def note(self, text):
        pass

context = replace(given.context(Path(sys.argv[1])), progress=Telling())
print(image.run(given.job(given.cell(), sys.argv[2]), context).digest, flush=True)
"""


@pytest.fixture(scope="module", autouse=True)
def parts() -> None:
    try:
        Engine().version()
        OciRegistry(backoff=Backoff(budget=2.0)).check_push(f"{REGISTRY}/x")
    except FlagreleaseError as error:
        pytest.skip(error.line())
    if Engine().image("flagrelease-base:bookworm") is None:
        pytest.skip("no base image; `make base` makes it")


def killed_at(moment: str, workspace: Path, registry: str) -> str:
    """Run the stage until it reports `moment`, kill it, and return its output."""
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": f"{root}/pipeline:{root}/tests"}
    argv = [sys.executable, "-c", PROGRAM, str(workspace), registry]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=env, start_new_session=True)
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith(moment):
            time.sleep(0.05)
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.wait()
    return "".join(said)


MOMENTS = ("gathering", "asking", "unpacking", "compiling", "compressing", "writing", "pushing")


@pytest.mark.slow  # assembles and pushes twice for each moment
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_run_again(moment: str, tmp_path: Path) -> None:
    registry = f"{REGISTRY}/flagrelease-killed/{tmp_path.name.replace('_', '-').lower()}"
    assert moment in killed_at(moment, tmp_path, registry)
    job, context = given.job(given.cell(), registry), given.context(tmp_path)
    first = image.run(job, context)
    assert OciRegistry().digest(first.repository, first.digest) == first.digest
    again = image.run(job, context)
    assert (again.digest, again.pushed_bytes) == (first.digest, 0)
    unfinished = [path for path in (tmp_path / "wheels").iterdir() if not (path / "wheels.json").exists()]
    assert all(path.name.startswith(".") for path in unfinished), "a half-gathered wheelhouse is never used"
    layers = [path for path in (tmp_path / "layers").iterdir() if not path.name.startswith(".")]
    assert len(layers) == 3, "the facts of the base, the packages' layer and its digests"
    Engine().reap(job.cell.id, tmp_path)
    label = f"{WORKSPACE_LABEL}={tmp_path.resolve()}"
    assert docker.from_env().containers.list(all=True, filters={"label": label}) == []
