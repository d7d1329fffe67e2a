"""The options of `flagkernels prepare` for a cell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flagrelease.config.chip import duration
from flagrelease.config.engines import ENGINES
from flagrelease.config.matrix import Serve
from flagrelease.contract.job import Job
from flagrelease.errors import ConfigError

if TYPE_CHECKING:
    from flagrelease.stages.kernels.flagkernels_cli import KernelFolders

CONFIG = "config.json"
"""The file of a transformers model that names its architecture."""


def no_transformers_model(job: Job) -> ConfigError:
    """The error for weights without CONFIG."""
    return ConfigError(
        f"the weights of {job.cell.model_name} have no {CONFIG}",
        why="it is needed to trace the operators",
        hint="use the model in transformers format, unpack a GGUF with serve.convert: safetensors, "
        "or serve it with defaults.stack: native",
    )


def limits(job: Job) -> dict[str, int]:
    """The largest lengths, batches and token counts of an engine step, from the engine's arguments."""
    serve: Serve = job.cell.model.serve
    engine = ENGINES[serve.engine]
    longest = min(serve.max_model_len, job.cell.kernels.max_len or serve.max_model_len)
    tokens = serve.args.get(engine.tokens_argument, engine.step_tokens)
    return {
        "max_len": longest,
        "max_batch": serve.args.get(engine.batch_argument, serve.concurrency),
        "max_tokens": min(tokens, longest) if job.cell.kernels.max_len else tokens,
    }


def execution(job: Job) -> str:
    """How the engine runs the layers: from the matrix, else from the engine's arguments."""
    serve: Serve = job.cell.model.serve
    engine = ENGINES[serve.engine]
    eager = serve.args.get(engine.eager_argument, False)
    return job.cell.kernels.execution or ("eager" if eager else engine.execution)


def requests(job: Job) -> str:
    """The sampling of the evaluation's requests, so that no operator is shipped which they would not call."""
    return "mixed" if job.cell.model.sampling.temperature else "greedy"


def share(job: Job) -> dict[str, Any]:
    """The share of one device of the model: its parts of each layer, its layers, and whether its experts are whole."""
    serve: Serve = job.cell.model.serve
    ranks, argument = serve.ranks, ENGINES[serve.engine].expert_argument
    whole = bool(argument) and bool(serve.args.get(argument, False))
    return {"tensor": ranks.tensor, "pipeline": ranks.pipeline, "whole_experts": whole}


def _share(job: Job) -> list[str]:
    given, devices = share(job), job.cell.model.serve.devices
    needed = ["--devices", str(devices)] if devices > 1 else []
    sizes = [text for name in ("tensor", "pipeline") for text in (f"--{name}", str(given[name])) if given[name] > 1]
    return [*needed, *sizes, *(["--whole-experts"] if given["whole_experts"] else [])]


def argv(job: Job, folders: KernelFolders, config: Path) -> list[str]:
    """The command line of `flagkernels prepare`."""
    plan, largest = job.cell.kernels, limits(job)
    context = max(1, min(512, largest["max_len"] - 16))
    loads = [f"decode:{batch}x{context}" for batch in (1, 8, 32) if batch <= max(1, largest["max_batch"])]
    return [
        *("prepare", "--config", str(config), "--work", str(folders.work)),
        *("--out", str(folders.bundle), "--vendor", job.cell.chip.vendor, "--device", plan.device),
        *("--execution", execution(job), "--requests", requests(job)),
        *("--policy", plan.policy, "--budget", plan.budget, "--floor", str(plan.min_speed_ratio)),
        *("--seconds", str(duration(plan.operator_limit)), "--classes", str(plan.classes)),
        *(text for name, value in largest.items() for text in (f"--{name.replace('_', '-')}", str(value))),
        *("--loads", ",".join(loads)),
        *_share(job),
        *(text for name, reason in plan.exclude.items() for text in ("--exclude", f"{name}={reason}")),
    ]
