"""An engine's configuration: FlagScale's serve.yaml, and the native stack's command line. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flagrelease.config.cell import Cell
from flagrelease.config.engines import ENGINES, parallel_options
from flagrelease.recipe import container
from flagrelease.recipe.image_paths import Layout


def common(cell: Cell, layout: Layout) -> dict[str, Any]:
    """Engine arguments under vLLM's names, which FlagScale translates for other engines. `port` is set at the start."""
    serve = cell.model.serve
    arguments: dict[str, Any] = {
        "model": layout.model(cell.model),
        "served_model_name": cell.model.title,
        "host": layout.address,
        "port": container.PORT,
        "max_model_len": serve.max_model_len,
        "max_num_seqs": serve.concurrency,
        **parallel_options(serve.engine, serve.ranks),
    }
    return {**arguments, **serve.args} if ENGINES[serve.engine].translated else arguments


def specific(cell: Cell) -> dict[str, Any]:
    """Engine arguments under the engine's own names; empty for an engine with vLLM's names."""
    engine = ENGINES[cell.model.serve.engine]
    return {} if engine.translated else {**engine.defaults, **cell.model.serve.args}


def native(cell: Cell, layout: Layout) -> list[str]:
    """The command line that starts the engine without FlagScale, except the port."""
    engine = ENGINES[cell.model.serve.engine]
    arguments = common(cell, layout)
    del arguments["port"]
    model = arguments.pop("model")
    renamed = {engine.options.get(name, name): value for name, value in arguments.items()}
    return [*engine.argv(layout.packages), model, *_options(renamed | specific(cell))]


def env(cell: Cell, stack: str, layout: Layout, bundled: bool) -> dict[str, str]:
    """The engine's environment variables. Only `flagos` enables FlagGems, and only if the chip has it. If its operators
    are `bundled`, the bundle alone determines which are in effect."""
    variables = {"HF_HUB_OFFLINE": "1"}
    if bundled:
        on = {"FLAGKERNELS_BUNDLE": layout.bundle, "FLAGKERNELS_EFFECTIVE": layout.effective}
        variables |= {"USE_FLAGGEMS": "0"} | (on if stack == "flagos" else {"FLAGKERNELS_BUNDLE": "none"})
    elif cell.chip.components.flaggems != "none":
        variables["USE_FLAGGEMS"] = "1" if stack == "flagos" else "0"
    return variables


def for_entrypoint(cell: Cell, layout: Layout, bundled: bool) -> dict[str, Any]:
    """The part of the manifest that the image's entry point reads. `operators` holds the arguments of Python that start
    `flagos` with the bundle in effect."""
    folders = ("--bundle", layout.bundle, "--effective", layout.effective)
    return {
        "operators": ["-m", "flagkernels", "run", *folders, "--"] if bundled else [],
        "name": cell.model.serve.name,
        "logs": f"{layout.home}/serve_logs",
        "native": native(cell, layout),
        "env": {stack: env(cell, stack, layout, bundled) for stack in ("flagos", "native")},
    }


def _options(arguments: Mapping[str, Any]) -> list[str]:
    """Options in FlagScale's form: `_` becomes `-`, true a bare option, false nothing, a list several values."""
    argv: list[str] = []
    for name, value in arguments.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            argv += [option] if value else []
        elif isinstance(value, list | tuple):
            argv += [option, *map(str, value)]
        else:
            argv += [option, str(value)]
    return argv
