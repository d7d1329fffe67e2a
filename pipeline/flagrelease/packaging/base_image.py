"""A chip's base image: where it comes from, and how it gets here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flagrelease.config.lockfile import LockedChip
from flagrelease.errors import EnvironmentFault
from flagrelease.ports.container_runner import LocalImage
from flagrelease.ports.processes.runner import Machine, ProcessRunner
from flagrelease.ports.progress import Count

if TYPE_CHECKING:
    from flagrelease.contract.context import Context
    from flagrelease.contract.job import Job
    from flagrelease.ports.container_runner import Moved


def locked_base(job: Job) -> LockedChip:
    return job.lock.chips.get(job.cell.chip_name) or LockedChip(base=job.cell.chip.base)


def pinned_base(job: Job) -> dict[str, str]:
    """The same as an input of a stage."""
    locked = locked_base(job)
    return {"base image": locked.digest or locked.base, "base image name": locked.base}


def how_to_make(base: str) -> str:
    """What to do where a base that no registry has is missing."""
    return (
        f"`docker build --tag {base} base` makes it from the Dockerfile that `flagrelease init` wrote; "
        "in a checkout of flagrelease, `make base`"
    )


def base_image(job: Job, context: Context) -> tuple[str, LocalImage]:
    """Its reference and what is here, pulled where it has a digest; without containers it is this machine. Raises
    EnvironmentFault where a local one is missing."""
    if job.runner == "process":
        machine = processes(context).machine
        return machine.name, LocalImage(id=machine.id, size=0, labels={})
    locked = locked_base(job)
    docker = context.ports.docker
    if not locked.digest:
        found = docker.image(locked.base)
        if found is None:
            raise EnvironmentFault(
                f"the base image {locked.base} is not here", why=locked.why, hint=how_to_make(locked.base)
            )
        return locked.base, found
    name, _, tag = locked.base.rpartition(":")
    name = name if name and "/" not in tag else locked.base
    reference = f"{name}@{locked.digest}"
    found = docker.image(reference)
    if found is None:
        with context.meter.waiting():
            found = docker.pull(name, locked.digest, counted(context, "pulling the base"))
    return reference, found


def processes(context: Context) -> ProcessRunner:
    """The runner of a job whose runner is `process`."""
    runner = context.ports.runner
    if not isinstance(runner, ProcessRunner):
        raise TypeError(f"the job's runner is process, the ports' {runner.kind}")
    return runner


def check_python(machine: Machine, wanted: str) -> None:
    """Raises EnvironmentFault where the machine has another Python than the chip's packages are made for."""
    if not machine.fits(wanted):
        raise EnvironmentFault(
            f"this machine's python3 is {machine.version}",
            why=f"matrix.yaml says `python: {wanted}` for the chip, and its packages are made for that",
            hint=f"put a Python {wanted} first on PATH",
        )


def counted(context: Context, doing: str) -> Moved:
    """Adds the bytes that move to the meter, and shows them."""
    before = context.meter.moved

    def moved(done: int, total: int) -> None:
        context.meter.moved = before + done
        context.progress.doing(doing, Count(done, total, "B"))

    return moved
