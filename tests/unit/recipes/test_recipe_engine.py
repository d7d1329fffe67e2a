"""A serving engine is one entry of ENGINES."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from flagrelease.config.engines import ENGINES, ServingEngine
from flagrelease.contract.results import WEIGHTS
from flagrelease.errors import ConfigError
from flagrelease.packaging.wheelhouse import Wheelhouse
from flagrelease.recipe import engine_config
from flagrelease.recipe.image_paths import DOCKER
from flagrelease.stages.image import build_context
from flagrelease.stages.kernels import stage as kernels
from flagrelease.stages.speed import run as speed
from flagrelease.stages.speed.load_own import StreamingLoad
from support import finished_cell
from support.contexts import Shown, SleeplessClock, without_ports
from support.newcomer_project import NewcomerProject, recipe

NEW = ServingEngine(
    title="Fast",
    distribution="fast-serve",
    command=("{packages}/bin/fast-serve", "--weights"),
    requirements=("fast-serve==1.2",),
    options={"max_model_len": "window"},
    batch_argument="slots",
    tokens_argument="step",
    step_tokens=256,
    execution="eager",
)
CELL = "nvidia-h100/smollm2-135m"


class Up:
    """A served image, as far as a load generator of ours asks for it."""

    base_url = "http://localhost:1/v1"
    model = "M"
    port_inside = 1
    folder_inside = "/m"
    running: Any = SimpleNamespace(execute=None)


def test_a_serving_engine_is_an_entry_of_the_table(
    project: NewcomerProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "`ENGINES` in `config/engines.py`" in recipe("a serving engine")
    project.replace(
        "engine: vllm\n          convert: safetensors", "engine: fast_serve\n          convert: safetensors"
    )
    project.replace("args: {gpu_memory_utilization: 0.35, no_enable_prefix_caching: true}", "args: {slots: 7}")
    with pytest.raises(ConfigError, match="unknown serving engine 'fast_serve'"):
        project.plan(CELL)
    monkeypatch.setitem(ENGINES, "fast_serve", NEW)  # type: ignore[arg-type]

    lock = project.relock(CELL)
    assert "fast-serve==1.2" in lock.wheels["nvidia-h100-fast_serve"].inputs
    assert not project.plan(CELL).blocked
    job = project.job(CELL)

    native = engine_config.native(job.cell, DOCKER)
    assert native[:2] == ["/opt/flagos/lib/bin/fast-serve", "--weights"]
    assert native[native.index("--window") + 1] == "8192"
    plan = build_context.draw(job, Wheelhouse(folder=tmp_path, wheels=()), "base:1", "sha256:base")
    (served,) = yaml.safe_load(plan.files["config/serve.yaml"][0])["serve"]
    assert served["engine"] == "fast_serve"
    assert kernels.skip(job) == ""
    asked = kernels.inputs(job)
    assert (asked["limits"]["max_batch"], asked["limits"]["max_tokens"], asked["execution"]) == (7, 256, "eager")
    monkeypatch.delenv("FLAGRELEASE_EVALSCOPE", raising=False)
    server: Any = Up()
    context = without_ports(tmp_path, SleeplessClock(), Shown(), weights=finished_cell.finished().result(WEIGHTS))
    assert isinstance(speed.choose(job, context, server), StreamingLoad)
