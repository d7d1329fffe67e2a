"""An engine that the machine brings, as on a pod with vLLM: FlagScale starts it, and it sees the release's packages."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import support.served_cell as given
from flagrelease.config.cell import Cell
from flagrelease.contract.job import Job
from flagrelease.packaging.requirements import wanted
from flagrelease.ports.openai_client import Client
from flagrelease.ports.processes.runner import ProcessRunner
from flagrelease.serving.server import ServeRequest, served
from flagrelease.stages.image import stage as image
from flagrelease.store.workspace import Workspace
from support.packages import distribution, written

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

# The engine's command line is that of `vllm serve`; it is told its port there.
ENGINE = """
import sys
from os import environ
import hydra, two
print("sees", hydra.__file__, two.VERSION, flush=True)
environ["FLAGOS_PORT"] = sys.argv[sys.argv.index("--port") + 1]
sys.argv[1] = "fine"
"""


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProcessRunner:
    """A machine whose vLLM answers as tests/fake_engine.py does."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "machine"], check=True)
    site = tmp_path / f"machine/lib/{python}/site-packages"
    package = distribution("vllm", "0.19", "Requires-Dist: two\n")
    package["vllm/__init__.py"] = package.pop("vllm.py")
    engine = (Path(__file__).parents[3] / "support/fake_engine.py").read_text()
    written(site, {**package, **distribution("two", "2.0"), "vllm/engine.py": ENGINE + engine})
    script = tmp_path / "machine/bin/vllm"
    script.write_text(f"#!{tmp_path}/machine/bin/python3\nimport vllm.engine\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/machine/bin:/usr/bin:/bin")
    return ProcessRunner(Workspace(tmp_path))


def on_this_python(runner: ProcessRunner) -> Cell:
    cell = given.cell("nvidia-h100/smollm2-135m", ready_seconds=60)
    return replace(cell, chip=replace(cell.chip, python=runner.machine.version.rpartition(".")[0]))


@pytest.mark.slow  # two starts of torch and an engine
def test_both_stacks_start_the_engine_of_the_machine(runner: ProcessRunner, tmp_path: Path) -> None:
    cell = on_this_python(runner)
    job: Job = replace(given.job(cell), runner="process")
    packages = job.lock.wheels["cpu-llama_cpp"]  # FlagScale is among them, FlagGems is not
    if packages.inputs[0] != f"python=={cell.chip.python}":
        pytest.skip(f"the locked packages are for {packages.inputs[0]}, this is {runner.machine.version}")
    packages = replace(packages, inputs=wanted(cell))
    job = replace(job, lock=replace(job.lock, wheels={cell.wheels_entry: packages}))
    context = given.context(tmp_path, runner=runner)
    kept = given.ROOT / ".flagrelease/wheels"
    if kept.is_dir():
        context.workspace.wheels.symlink_to(kept)
    made = image.run(job, context)
    assert made.versions["vllm"] == "0.19"
    (context.workspace.weights / "none").mkdir(parents=True)
    for stack, shown in (("flagos", "flagscale/serve/run_inference_engine.py"), ("native", "flagos-serve native")):
        with served(job, context, ServeRequest(image=made, weights=given.weights(), stack=stack)) as server:  # type: ignore[arg-type]
            with Client(server.base_url, seconds=5) as client:
                assert client.chat(server.model, "Hello").text == "fine"
            lines = server.running.processes()
            assert any(shown in line for line in lines)
            (engine,) = (line for line in lines if "/vllm serve " in line)
            assert server.folder_inside in engine
            root = context.workspace.image(made.digest)
            assert f"sees {root}/opt/flagos/lib/hydra/__init__.py 2.0" in server.running.logs(1000)
    assert list(context.workspace.processes.iterdir()) == []
