"""A chip whose operators a test prepares: the stand-in of chip_site in real containers, with this machine's torch."""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

import support.served_cell as given
from flagrelease.config import lockfile as locks
from flagrelease.config.chip import Container
from flagrelease.config.lockfile import Lock, LockedFile, LockedModel, set_digest
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.packaging.wheelhouse import Wheel, Wheelhouse
from flagrelease.run.project import Options, open_project
from support.pip_wheel import pip_wheel

HERE = Path(__file__).parent
CELL = "stand-in/tiny"
NAME = "Tiny"
CONFIG = {
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 256,
    "dtype": "bfloat16",
}
SITE, CHIP, CACHE = "/srv/site", "/srv/chip", "/srv/cache"
CHIP_SITE = HERE / "chip_site"


def container() -> Container:
    """What a vendor's base would have in it: torch, Triton and FlagGems, here mounted."""
    import torch

    sys.path.insert(0, str(CHIP_SITE))
    import chip_stand_in

    sys.path.remove(str(CHIP_SITE))
    cache = chip_stand_in.cache_folder().parent
    places = {Path(torch.__file__).parents[1]: SITE, CHIP_SITE: CHIP, cache: CACHE}
    mounts = tuple(f"{outside}:{inside}:ro" for outside, inside in places.items())
    env = {"PYTHONPATH": f"{CHIP}:{SITE}", "XDG_CACHE_HOME": CACHE, "OMP_NUM_THREADS": "1"}
    return Container(mounts=mounts, env=env)


def write_project(root: Path, base: str) -> None:
    """A matrix with one cell, whose model is a config.json, and the lock of it."""
    source = root / "model"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(CONFIG))
    flags = container()
    matrix = {
        "version": 1,
        "registry": "localhost:1/none",
        "defaults": {"baseline": {"chip": "same"}, "profile": "none"},
        "chips": {
            "stand-in": {
                "vendor": "cpu",
                "device": {"name": "Stand-in", "code": "none", "query": "uname"},
                "base": base,
                "components": {"flagscale": "0.8.0", "flaggems": "5.0.2"},
                "container": {"mounts": list(flags.mounts), "env": dict(flags.env)},
                "kernels": {
                    "policy": "coverage",
                    "device": "cpu",
                    "budget": "60s",
                    "limit": "20m",
                    "classes": 2,
                    "execution": "captured",  # what the stand-in's operators are; a base image has no C++ compiler
                },
            }
        },
        "models": {
            "tiny": {
                "title": NAME,
                "source": f"file://{source}",
                "upstream": "tests/tiny",
                "license": "apache-2.0",
                "serve": {"name": "tiny", "engine": "vllm", "max_model_len": 32, "concurrency": 2},
                "sampling": {"max_tokens": 16},
            }
        },
        "benchmarks": {"b": {"title": "B", "task": "integer", "data": "data://b", "license": "MIT"}},
        "profiles": {"none": {"benchmarks": {"b": {}}}},
    }
    (root / "matrix.yaml").write_text(yaml.safe_dump(matrix))
    data = (source / "config.json").read_bytes()
    file = LockedFile(path="config.json", size=len(data), sha256=hashlib.sha256(data).hexdigest())
    model = LockedModel(source=f"file://{source}", revision="local", files=(file,), digest=set_digest((file,)))
    locks.save(root / "matrix.lock", Lock(models={"tiny": model}))


def job(root: Path, **plan: Any) -> Job:
    project = open_project(Options(matrix=root / "matrix.yaml"))
    cell = project.cells[0]
    return project.job(replace(cell, kernels=replace(cell.kernels, **plan)))


def context(root: Path, weights: str = "") -> Context:
    """A context for stages after the weights, which lie in folder `weights`: where a run put them."""
    folders = root / ".flagrelease/weights"
    found = weights or next(str(path.parent.relative_to(folders)) for path in folders.glob("tiny/*/config.json"))
    return given.context(root / ".flagrelease", weights=given.weights(found))


def wheelhouse(folder: Path) -> Wheelhouse:
    """pip, and in FlagScale's place a program that starts kernels_engine.py into the background as FlagScale does."""
    folder.mkdir()
    bundled = pip_wheel(folder)
    name = "flag_scale-0.8.0-py3-none-any.whl"
    info = "flag_scale-0.8.0.dist-info"
    files = {
        "stand_in_flagscale.py": (HERE / "kernels_engine.py").read_text(),
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: flag-scale\nVersion: 0.8.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nflagscale = stand_in_flagscale:start\n",
    }
    with zipfile.ZipFile(folder / name, "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]))
    pip = Wheel(file=bundled.name, name="pip", version=bundled.name.split("-")[1], sha256="")
    return Wheelhouse(folder=folder, wheels=(pip, Wheel(file=name, name="flag-scale", version="0.8.0", sha256="")))
