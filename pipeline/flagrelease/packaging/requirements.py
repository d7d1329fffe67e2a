"""The Python requirements of an image, and their entry in matrix.lock. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flagrelease.config.cell import Cell
from flagrelease.config.engines import ENGINES
from flagrelease.config.lockfile import LockedWheels
from flagrelease.errors import ConfigError

if TYPE_CHECKING:
    from flagrelease.contract.job import Job

# FlagScale 0.8.0 requires torch, ray, wandb and development tools in its metadata, but `serve` with use_fs_serve off
# imports only these.
_FLAGSCALE_NEEDS = ("aiohttp", "click", "hydra-core", "numpy", "packaging", "pandas", "psutil", "pyyaml", "tqdm")


def wanted(cell: Cell) -> tuple[str, ...]:
    """The inputs of the resolution: first the Python of the base image, then the requirements."""
    parts, engine = cell.chip.components, ENGINES[cell.model.serve.engine]
    requirements = [*engine.requirements, "pip"]
    if "flagscale" not in cell.chip.brought:
        requirements += [f"flag-scale=={parts.flagscale}", *_FLAGSCALE_NEEDS]
    if parts.flaggems != "none" and "flaggems" not in cell.chip.brought:
        requirements.append(f"flag-gems=={parts.flaggems}")
    return (f"python=={cell.chip.python}", *sorted(requirements))


def locked_wheels(job: Job) -> LockedWheels:
    """The packages of the job's image in matrix.lock. Raises ConfigError if they are missing or were resolved for
    other requirements, which would put other versions into the image than its labels name."""
    name = job.cell.wheels_entry
    job.lock.require("wheels", name)
    locked, needed = job.lock.wheels[name], wanted(job.cell)
    if locked.inputs != needed:
        missing = ", ".join(text for text in needed if text not in locked.inputs) or "fewer packages"
        superseded = ", ".join(text for text in locked.inputs if text not in needed) or "fewer packages"
        why = f"matrix.yaml needs {missing}, matrix.lock has {superseded}"
        raise ConfigError(f"wheels.{name} is locked for other requirements", why=why, hint="run `flagrelease lock`")
    return locked
