"""Find or pull a chip's base image."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from flagrelease.config.chip import UNKNOWN
from flagrelease.config.lockfile import LockedChip
from flagrelease.errors import ConfigError, EnvironmentFault
from flagrelease.ports.container_runner import LocalImage
from flagrelease.ports.progress import Count

if TYPE_CHECKING:
    from flagrelease.contract.context import Context
    from flagrelease.contract.job import Job
    from flagrelease.ports.container_runner import Moved
    from flagrelease.ports.processes.runner import Machine, ProcessRunner


def locked_base(job: Job) -> LockedChip:
    """The base image in matrix.lock; the unpinned one of matrix.yaml if the lock has none. Raises ConfigError if the
    lock has another one."""
    name, base = job.cell.chip_name, job.cell.chip.base
    check_known(name, base)
    locked = job.lock.chips.get(name) or LockedChip(base=base)
    if locked.base != base:
        why = f"matrix.yaml says {base}, matrix.lock {locked.base}"
        raise ConfigError(f"chips.{name} is locked for another base image", why=why, hint="run `flagrelease lock`")
    return locked


def check_known(chip: str, base: str) -> None:
    """Raise ConfigError for a chip whose base image no source names."""
    if base == UNKNOWN:
        raise ConfigError(
            f"chips.{chip} has no base image",
            why="its `base` in matrix.yaml is unknown",
            hint="write the vendor's image with torch and the engine as its `base`, HOST/NAME:TAG",
        )


def pinned_base(job: Job) -> dict[str, str]:
    """The base image as an input of a stage's key."""
    locked = locked_base(job)
    return {"base image": locked.digest or locked.base, "base image name": locked.base}


OWN_BASE = "flagrelease-base:bookworm"
"""The base image that the Dockerfile of `flagrelease init` makes, and `make base`."""


def registry_name(base: str) -> tuple[str, str] | None:
    """HOST/REPOSITORY and tag of a base image; None if its name has no registry, so that nothing can pull it."""
    repository, tag = base.rsplit(":", 1) if ":" in base.rpartition("/")[2] else (base, "latest")
    host = repository.partition("/")[0]
    if "/" not in repository or not ("." in host or ":" in host or host == "localhost"):
        return None
    return repository, tag


def repository_of(base: str) -> str:
    """The name of a base image without its tag."""
    name, _, tag = base.rpartition(":")
    return name if name and "/" not in tag else base


def not_here(base: str) -> EnvironmentFault:
    """The error for a base image without a registry that is not on this machine."""
    if base == OWN_BASE:
        hint = (
            f"`docker build --tag {base} base` builds it from the Dockerfile that `flagrelease init` wrote; "
            "in a checkout of flagrelease, run `make base`"
        )
    else:
        hint = (
            f"check the name (`docker images` lists what is here); build or load an image {base} on this machine, "
            "or write `base` in matrix.yaml with its registry, HOST/NAME:TAG"
        )
    why = "its name has no registry to pull it from"
    return EnvironmentFault(f"the base image {base} is not on this machine", why=why, hint=hint)


def absent_base(job: Job) -> EnvironmentFault:
    """The error for a base image without digest that is not on this machine."""
    base = locked_base(job).base
    if registry_name(base) is None:
        return not_here(base)
    unresolved = job.lock.unresolved.get(f"chips.{job.cell.chip_name}")
    why = "matrix.lock has no digest to pull it by" + (f": {unresolved}" if unresolved else "")
    hint = f"run `flagrelease lock {job.cell.id}`"
    return EnvironmentFault(f"the base image {base} is not on this machine", why=why, hint=hint)


def check_base(job: Job, has: Callable[[str], bool | None]) -> None:
    """Raise EnvironmentFault if the job's base image can be neither pulled nor found here. `has` says whether this
    machine has an image; None if that is not known."""
    locked = locked_base(job)
    if not locked.digest and has(locked.base) is False:
        raise absent_base(job)


def base_image(job: Job, context: Context) -> tuple[str, LocalImage]:
    """The base image's reference and the image, pulled if it is locked by digest; without containers, this machine.

    Raises EnvironmentFault if a base image without digest is not on this machine, and the errors of `pull`.
    """
    if job.runner == "process":
        machine = processes(context).machine
        return machine.name, LocalImage(id=machine.id, size=0, labels={})
    locked = locked_base(job)
    docker = context.ports.docker
    if not locked.digest:
        image = docker.image(locked.base)
        if image is None:
            raise absent_base(job)
        return locked.base, image
    reference = _reference(locked)
    image = docker.image(reference)
    if image is None:
        with context.meter.waiting():
            name = repository_of(locked.base)
            image = docker.pull(name, locked.digest, counted(context, "pulling the base"), context.progress.note)
    return reference, image


def base_here(job: Job, context: Context) -> str | None:
    """The base image's reference, without containers this machine; None if it would have to be pulled first."""
    if job.runner == "process":
        return processes(context).machine.name
    reference = _reference(locked_base(job))
    return None if context.ports.docker.image(reference) is None else reference


def _reference(locked: LockedChip) -> str:
    return f"{repository_of(locked.base)}@{locked.digest}" if locked.digest else locked.base


def processes(context: Context) -> ProcessRunner:
    """The runner of a job whose runner is `process`."""
    from flagrelease.ports.processes.runner import ProcessRunner

    runner = context.ports.runner
    if not isinstance(runner, ProcessRunner):
        raise TypeError(f"the job's runner is process, but the port's is {runner.kind}")
    return runner


def check_python(machine: Machine, wanted: str) -> None:
    """Raise EnvironmentFault unless the machine has the Python version that the chip's packages are made for."""
    if not machine.fits(wanted):
        raise EnvironmentFault(
            f"this machine's python3 is {machine.version}",
            why=f"matrix.yaml has `python: {wanted}` for the chip, and its packages are made for that version",
            hint=f"put a Python {wanted} first on PATH",
        )


def counted(context: Context, doing: str) -> Moved:
    """A progress callback that adds the transferred bytes to the meter and shows them."""
    before = context.meter.moved

    def moved(done: int, total: int) -> None:
        context.meter.moved = before + done
        context.progress.doing(doing, Count(done, total, "B"))

    return moved
