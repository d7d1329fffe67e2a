"""The kernels stage before it runs: skipping, inputs, arguments and rejected models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import support.served_cell as given
from flagrelease.config.engines import Parallel
from flagrelease.config.lockfile import Lock, LockedFile, LockedModel, set_digest
from flagrelease.contract.context import Look
from flagrelease.contract.job import Job
from flagrelease.errors import ConfigError, EnvironmentFault
from flagrelease.run.history import History
from flagrelease.run.plan import Choice, plan_cell
from flagrelease.stages import STAGES
from flagrelease.stages.kernels import attribute_run, flagkernels_cli, options
from flagrelease.stages.kernels import stage as kernels
from flagrelease.store.evidence import EvidenceStore
from flagrelease.store.ledger import Ledger
from flagrelease.store.workspace import Workspace

CELL = "nvidia-h100/smollm2-135m"


def job(*files: str, **serve: Any) -> Job:
    made = given.job(given.cell(CELL, **serve))
    locked = tuple(LockedFile(path=name, size=1, sha256="a") for name in files)
    model = LockedModel(source=made.cell.model.source, revision="1", files=locked, digest=set_digest(locked))
    return replace(made, lock=replace(made.lock, models={"smollm2-135m": model}))


def test_a_model_without_config_json_is_refused_by_the_plan_before_its_weights_are_fetched(tmp_path: Path) -> None:
    gguf = job("model.gguf", convert=None)
    with pytest.raises(ConfigError, match=r"have no config\.json") as caught:
        kernels.inputs(gguf)
    assert "serve.convert: safetensors" in caught.value.hint
    look = Look(workspace=Workspace(tmp_path), evidence=EvidenceStore(tmp_path / "evidence"))
    plan = plan_cell(gguf, STAGES, History(Ledger(tmp_path / "ledger.jsonl"), look), Choice())
    assert "have no config.json" in plan.blocked
    assert {step.action for step in plan.steps} == {"skip"}


def test_models_that_are_converted_or_have_one_or_are_not_locked_are_accepted() -> None:
    assert kernels.inputs(job("model.gguf"))["runner"] == "docker"
    assert kernels.inputs(job("config.json", "model.safetensors", convert=None))
    assert kernels.inputs(replace(job(), lock=Lock()))


def test_the_reason_of_a_skip_is_the_first_that_holds() -> None:
    made = job()
    assert kernels.skip(made) == ""
    assert kernels.skip(replace(made, cell=replace(made.cell, stack="native"))).startswith("the native stack")
    assert kernels.skip(job(engine="llama_cpp")) == "llama.cpp has its own kernels"
    assert kernels.skip(given.job(given.cell("cpu/smollm2-135m"))) == "no Triton backend"


@pytest.mark.parametrize(
    ("args", "max_len", "expected"),
    [
        ({}, None, {"max_len": 8192, "max_batch": 64, "max_tokens": 8192}),
        ({}, 2048, {"max_len": 2048, "max_batch": 64, "max_tokens": 2048}),
        (
            {"max_num_seqs": 16, "max_num_batched_tokens": 512},
            None,
            {"max_len": 8192, "max_batch": 16, "max_tokens": 512},
        ),
    ],
)
def test_the_limits_follow_the_engine_s_arguments(
    args: dict[str, Any], max_len: int | None, expected: dict[str, int]
) -> None:
    made = job(args=args)
    plan = replace(made.cell.kernels, max_len=max_len)
    assert kernels.inputs(replace(made, cell=replace(made.cell, kernels=plan)))["limits"] == expected


@pytest.mark.parametrize(
    ("args", "execution", "expected"),
    [
        ({}, None, "compiled"),
        ({"enforce_eager": True}, None, "eager"),
        ({"enforce_eager": True}, "captured", "captured"),
    ],
)
def test_operators_are_chosen_for_how_the_engine_runs_the_layers(
    args: dict[str, Any], execution: Any, expected: str, tmp_path: Path
) -> None:
    made = job("config.json", args=args)
    made = replace(made, cell=replace(made.cell, kernels=replace(made.cell.kernels, execution=execution)))
    assert kernels.inputs(made)["execution"] == expected
    argv = options.argv(made, flagkernels_cli.KernelFolders(tmp_path), tmp_path / "config.json")
    assert argv[argv.index("--execution") + 1] == expected


@pytest.mark.parametrize(("temperature", "expected"), [(0.0, "greedy"), (0.6, "mixed")])
def test_operators_are_chosen_for_the_sampling_of_the_evaluation(
    temperature: float, expected: str, tmp_path: Path
) -> None:
    made = job("config.json")
    model = replace(made.cell.model, sampling=replace(made.cell.model.sampling, temperature=temperature))
    made = replace(made, cell=replace(made.cell, model=model))
    assert kernels.inputs(made)["requests"] == expected
    argv = options.argv(made, flagkernels_cli.KernelFolders(tmp_path), tmp_path / "config.json")
    assert argv[argv.index("--requests") + 1] == expected


def test_operators_are_chosen_for_the_share_of_one_of_several_devices(tmp_path: Path) -> None:
    def argv(**serve: Any) -> str:
        return " ".join(options.argv(job("config.json", **serve), flagkernels_cli.KernelFolders(tmp_path), tmp_path))

    assert not {"--devices", "--tensor", "--pipeline", "--whole-experts"} & set(argv(args={}).split())
    several = argv(devices=4, parallel=Parallel(pipeline=2), args={"enable_expert_parallel": True})
    assert several.endswith("--devices 4 --tensor 2 --pipeline 2 --whole-experts")


def test_operators_at_fault_are_not_looked_for_on_several_devices() -> None:
    """The search computes log-probabilities with the real weights, which one device cannot hold."""
    nothing: Any = None
    with pytest.raises(EnvironmentFault, match="on one device, and the model needs 2") as caught:
        attribute_run.attribute(job("config.json", devices=2, args={}), nothing, 1)
    assert "kernels.exclude" in caught.value.hint
