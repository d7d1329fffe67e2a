"""An image laid out in a folder: packages combined with those of the machine, complete or absent."""

import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

import support.served_cell as given
from flagrelease.config.lockfile import Lock, LockedModel
from flagrelease.contract.job import Job
from flagrelease.errors import CommandFailed, EnvironmentFault
from flagrelease.packaging import base_image
from flagrelease.packaging.wheelhouse import Wheel, Wheelhouse
from flagrelease.ports import command
from flagrelease.ports.processes.runner import Machine, ProcessRunner
from flagrelease.recipe import image_paths
from flagrelease.stages.image import build_context, process_root
from flagrelease.stages.kernels import flagkernels_cli
from flagrelease.store.files import TEMPORARY
from flagrelease.store.workspace import Workspace
from support.packages import distribution, written
from support.pip_wheel import pip_wheel

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Wheelhouse:
    """one 1.0 and two 1.0, and pip."""
    folder = tmp_path_factory.mktemp("wheels")
    wheels = []
    for name in ("one", "two"):
        file = f"{name}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(folder / file, "w") as archive:
            for path, text in distribution(name, "1.0").items():
                archive.writestr(path, text)
        wheels.append(Wheel(file=file, name=name, version="1.0", sha256=""))
    pip = pip_wheel(folder)
    return Wheelhouse(folder=folder, wheels=(*wheels, Wheel(file=pip.name, name="pip", version="1", sha256="")))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with an engine that needs the machine's `two`, and with an unneeded old `one`."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "machine"], check=True)
    site = next((tmp_path / "machine").glob("lib/python3*/site-packages"))
    written(site, distribution("vllm", "0.19", "Requires-Dist: two>=2\nRequires-Dist: one; extra == 'all'\n"))
    written(site, distribution("two", "2.0") | distribution("one", "0.1"))
    script = tmp_path / "machine/bin/vllm"
    script.write_text(f"#!{tmp_path}/machine/bin/python3\nimport vllm\nvllm.main()\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/machine/bin{os.pathsep}{os.environ['PATH']}")
    return ProcessRunner(Workspace(tmp_path)).machine


def drawn(house: Wheelhouse, root: Path | None = None) -> build_context.Plan:
    cell = given.cell()
    weights = LockedModel(source="s", revision="r", files=(), digest="sha256:" + "2" * 64)
    job: Job = replace(given.job(cell), lock=Lock(models={cell.model_name: weights}))
    layout = image_paths.DOCKER if root is None else image_paths.under(root)
    return build_context.draw(job, house, "base", "id", layout)


def laid_out(root: Path, house: Wheelhouse, machine: Machine, engine: str) -> process_root.Folder:
    return process_root.make(root, process_root.digest(drawn(house)), drawn(house, root), machine, engine, command.run)


def printed(root: Path, *argv: str) -> str:
    path = f"{root}/opt/flagos/bin:{root}/opt/flagos/lib/bin:{os.defpath}"
    return command.run(argv, seconds=30, env={"PATH": path}, inherit=False).stdout.strip()


VERSIONS = "import one, two; print(one.VERSION, two.VERSION)"


def test_only_the_engine_s_packages_come_from_the_machine(house: Wheelhouse, machine: Machine, tmp_path: Path) -> None:
    root = tmp_path / "images/a"
    made = laid_out(root, house, machine, "vllm")
    assert printed(root, "python3", "-c", VERSIONS) == "1.0 2.0"
    assert printed(root, "vllm") == "one 1.0"
    assert (root / "opt/flagos/lib/one.py").is_file()
    assert not (root / "opt/flagos/lib/two.py").exists()
    manifest = root / "etc/flagos/manifest.json"
    assert f'"{root}/' in manifest.read_text()
    assert os.access(root / "opt/flagos/bin/flagos-serve", os.X_OK)
    assert made == process_root.complete(root)
    before = manifest.stat().st_mtime_ns
    laid_out(root, house, machine, "vllm")
    assert manifest.stat().st_mtime_ns == before


def test_without_a_machine_engine_all_packages_come_from_the_release(
    house: Wheelhouse, machine: Machine, tmp_path: Path
) -> None:
    root = tmp_path / "images/a"
    laid_out(root, house, machine, "llama_cpp")
    assert printed(root, "python3", "-c", VERSIONS) == "1.0 1.0"


def test_the_digest_depends_on_the_content_not_the_folder(house: Wheelhouse) -> None:
    digest = process_root.digest(drawn(house))
    assert digest == process_root.digest(drawn(house))
    plan = drawn(house)
    changed = replace(plan, files={**plan.files, "config/serve.yaml": (b"other", 0o644)})
    assert process_root.digest(changed) != digest


def test_a_failed_layout_leaves_nothing(house: Wheelhouse, machine: Machine, tmp_path: Path) -> None:
    root = tmp_path / "images/a"
    broken = replace(house, wheels=(replace(house.wheels[0], file="gone-1.0-py3-none-any.whl"), house.wheels[-1]))
    with pytest.raises(CommandFailed, match="ended with"):
        process_root.make(root, "sha256:1", replace(drawn(house, root), wheels=broken), machine, "vllm", command.run)
    assert not root.exists()


def test_sweep_removes_layouts_of_killed_runs_and_keeps_others(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    images = tmp_path / "images"
    for name, pid in (("dead", dead.pid), ("alive", os.getpid()), ("whole", dead.pid)):
        (images / name).mkdir(parents=True)
        (images / name / f"{TEMPORARY}{pid}.image").touch()
    (images / "whole/image.json").write_text('{"digest":"d","size":1,"labels":{},"entrypoint":["x"]}')
    process_root.sweep(images)
    assert sorted(path.name for path in images.iterdir()) == ["alive", "whole"]


def test_a_different_python_is_refused_with_a_hint(machine: Machine) -> None:
    base_image.check_python(machine, ".".join(map(str, sys.version_info[:2])))
    with pytest.raises(EnvironmentFault, match=r"this machine's python3 is 3\.\d+") as caught:
        base_image.check_python(machine, "3.99")
    assert "3.99 first on PATH" in caught.value.hint


def test_flagkernels_does_not_run_in_a_different_python(tmp_path: Path) -> None:
    runner = ProcessRunner(Workspace(tmp_path))
    job = given.job(given.cell("nvidia-h100/smollm2-135m"))
    chip = replace(job.cell.chip, python="3.99")
    other = replace(job, cell=replace(job.cell, chip=chip), runner="process")
    folders = flagkernels_cli.KernelFolders(tmp_path)
    with pytest.raises(EnvironmentFault, match="this machine's python3"):
        flagkernels_cli.call(other, given.context(tmp_path, runner=runner), folders, name="kernels", argv=[], seconds=1)
