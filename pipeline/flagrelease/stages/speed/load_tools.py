"""List the load generators, and check that the one of a cell can be used."""

from __future__ import annotations

from collections.abc import Mapping

from flagrelease.config.cell import Cell
from flagrelease.config.engines import LoadToolName
from flagrelease.errors import ConfigError, EnvironmentFault
from flagrelease.stages.speed import load_evalscope, load_own, load_vllm
from flagrelease.stages.speed.inputs import chosen
from flagrelease.stages.speed.load import LoadTool

__all__ = ["LOAD_TOOLS", "check", "chosen"]

LOAD_TOOLS: Mapping[LoadToolName, LoadTool] = {
    "own": load_own.LOAD_TOOL,
    "vllm": load_vllm.LOAD_TOOL,
    "evalscope": load_evalscope.LOAD_TOOL,
}


def check(cell: Cell, env: Mapping[str, str]) -> None:
    """Check the tool before anything is started. Raises ConfigError if the engine's image does not contain it,
    EnvironmentFault if it is not set up on this machine."""
    name, engine = chosen(cell), cell.model.serve.engine
    tool = LOAD_TOOLS[name]
    if tool.engine not in ("", engine):
        raise ConfigError(
            f"load_tool {name} cannot measure {cell.id}",
            why=f"only images of {tool.engine} contain it, and {cell.model_name} is served by {engine}",
            hint=f"remove `load_tool` from profile {cell.profile_name}",
        )
    if missing := tool.lacking(env):
        raise EnvironmentFault(f"load_tool {name} is not set up", why=missing[0], hint=missing[1])
