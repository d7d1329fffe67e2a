"""Killed or interrupted in any stage, the next run ends with the release, and nothing is left behind."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flagrelease.stages import STAGES
from flagrelease.workspace import TEMPORARY

pytestmark = [pytest.mark.faults, pytest.mark.integration]

CELL = "cpu/smollm2-135m"
STOPPED = [stage.name for stage in STAGES]


class Pipeline:
    """The command line of a user, in a project of its own with few questions."""

    def __init__(self, root: Path, registry: str) -> None:
        self.root = root
        self.registry = registry

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [str(Path(sys.executable).parent / "flagrelease"), "run", CELL, "--engine", "inline"]
        return subprocess.Popen(
            [*command, "--registry", self.registry, *words],
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str) -> dict[str, object]:
        """A whole run; its JSON."""
        with self.start("--json", *words) as process:
            out, err = process.communicate(timeout=280)
        assert out, err
        told: dict[str, object] = json.loads(out)["cells"][0]
        return told

    def stop_in(self, stage: str, number: int) -> tuple[int, str]:
        """Run until `stage` has begun, then send the signal; the exit code and what was said after it."""
        with self.start() as process:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith(f"{CELL}  {stage:<9}") and "✓" not in line:
                    break
            else:
                pytest.fail(f"{stage} never began: {process.communicate()}")
            time.sleep(0.3 if stage not in ("card", "publish") else 0.0)
            process.send_signal(number)
            _, rest = process.communicate(timeout=60)
        return process.returncode, rest

    def leftovers(self) -> list[str]:
        """Containers of this workspace and half-written files."""
        label = f"label=flagrelease.workspace={self.root / '.flagrelease'}"
        listed = subprocess.run(["docker", "ps", "-aq", "--filter", label], capture_output=True, text=True, check=True)
        unfinished = [str(path) for path in self.root.rglob(f"{TEMPORARY}*")]
        return listed.stdout.split() + unfinished


def small_project(root: Path) -> Path:
    """The shipped matrix with twelve questions for each stack."""
    source = Path(__file__).parents[2]
    matrix = (source / "matrix.yaml").read_text()
    assert "mmlu-sample: {limit: 200}" in matrix
    (root / "matrix.yaml").write_text(matrix.replace("mmlu-sample: {limit: 200}", "mmlu-sample: {limit: 12}"))
    (root / "matrix.lock").write_bytes((source / "matrix.lock").read_bytes())
    (root / "templates").symlink_to(source / "templates")
    return root


def states(told: dict[str, object]) -> dict[str, str]:
    stages = told["stages"]
    assert isinstance(stages, list)
    return {stage["stage"]: stage["state"] for stage in stages}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_stopped_in_every_stage(tmp_path: Path, base: str, own_registry: str, number: signal.Signals) -> None:
    pipeline = Pipeline(small_project(tmp_path), f"{own_registry}/stopped")
    for stage in STOPPED:
        code, said = pipeline.stop_in(stage, number)
        if number == signal.SIGINT:
            assert code == 130, said
            assert "run again" in said
            assert pipeline.leftovers() == [], f"after Ctrl-C in {stage}"
        else:
            assert code == -signal.SIGKILL
    told = pipeline.run()
    before_the_last = [name for name in STOPPED if name != STOPPED[-1]]
    assert {states(told)[name] for name in before_the_last} <= {"reused", "skipped"}, "a finished stage ran again"
    assert told["state"] in ("released", "red"), told
    assert pipeline.leftovers() == []
    assert not [path for path in Path("/proc").glob("[0-9]*") if _is_ours(path, tmp_path)]


def _is_ours(process: Path, root: Path) -> bool:
    try:
        return str(root) in (process / "cmdline").read_text().replace("\0", " ")
    except OSError:
        return False
