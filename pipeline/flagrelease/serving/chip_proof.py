"""Prove that the accelerator of a container is the one that matrix.yaml names, with the vendor's tool."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Protocol

from flagrelease.config.cell import Cell
from flagrelease.config.vendors import VENDORS, Vendor
from flagrelease.contract.job import Job
from flagrelease.errors import EnvironmentFault
from flagrelease.recipe import device_check as check
from flagrelease.recipe.device_check import Found, Patterns, Wanted

QUERY_SECONDS = 60.0
"""For the vendor's tool; some take ten seconds to wake eight devices."""
_MARGIN_SECONDS = 10.0
_SHOWN = 300


class Execute(Protocol):
    """Runs a program in a container; returns its exit code and its output."""

    def __call__(self, argv: Sequence[str], *, seconds: float) -> tuple[int, str]: ...


def patterns(vendor: Vendor) -> Patterns:
    """How the output of the vendor's tool is read."""
    return Patterns(device=vendor.device, driver=vendor.driver, memory=vendor.memory, unit=vendor.memory_unit)


def wanted(cell: Cell) -> Wanted:
    """The devices that the cell's release needs."""
    device = cell.chip.device
    return Wanted(
        names=device.names,
        title=device.name,
        count=cell.model.serve.devices,
        memory=device.memory,
        driver=device.driver,
    )


def prove(job: Job, execute: Execute, note: Callable[[str], None]) -> Found | None:
    """The devices that the container sees; None for the host's own processor, and for a vendor whose tool's output is
    not known, which `note` gets to know.

    Raises EnvironmentFault, with a reason for each difference, if they are not those of matrix.yaml, and if the tool
    is missing, fails, hangs or prints something else.
    """
    cell = job.cell
    vendor = VENDORS[cell.chip.vendor]
    if vendor.on_host:
        return None
    if vendor.device is None:
        note(f"{cell.chip_name} is not proven: no source has what `{cell.chip.device.query}` prints")
        return None
    printed = ask(cell, execute)
    found = check.read(patterns(vendor), printed)
    if not found.names:
        raise EnvironmentFault(
            f"`{cell.chip.device.query}` in the container reports no device of {cell.chip.vendor}",
            why=f"it printed {_excerpt(printed)}" if printed.strip() else "it printed nothing",
            hint=f"check that the devices are visible with {_options(cell)}; if the tool prints otherwise now, its "
            "patterns are in flagkernels/vendors.json",
        )
    if reasons := check.refusals(wanted(cell), found):
        raise EnvironmentFault(
            f"this machine is not one for {cell.id}", why="; ".join(reasons), hint=_fitting(job, found)
        )
    for name in check.unproven(wanted(cell), found):
        note(f"{name} of {cell.chip_name} is not proven: `{cell.chip.device.query}` does not report it")
    return found


def ask(cell: Cell, execute: Execute) -> str:
    """What the chip's query prints in the container. Raises EnvironmentFault if it is missing, fails or hangs."""
    argv = check.command(shlex.split(cell.chip.device.query), QUERY_SECONDS)
    code, printed = check.answer(*execute(argv, seconds=QUERY_SECONDS + _MARGIN_SECONDS))
    if code == 0:
        return printed
    raise _failed(cell, code, printed)


def _failed(cell: Cell, code: int, printed: str) -> EnvironmentFault:
    query, failure = cell.chip.device.query, check.failure(code)
    if code == check.HUNG:
        failure = f"did not end within {QUERY_SECONDS:.0f} s and was stopped"
        why, hint = "", "run it on the host; a device that does not answer usually needs a reset by its administrator"
    elif code == check.ENDLESS:
        why = f"its first {check.MOST_BYTES // 1024} KiB are {_excerpt(printed)}"
        hint = "check that it is the vendor's tool"
    elif failure == check.failure(127):
        why = f"it reports the devices of {cell.chip.vendor}, and {cell.chip_name} cannot be proven without it"
        hint = "mount it with `container.mounts` in matrix.yaml, or choose a base image that has it"
        return EnvironmentFault(f"`{shlex.split(query)[0]}` {failure}", why=why, hint=hint)
    else:
        why = f"it printed {_excerpt(printed)}" if printed.strip() else "it printed nothing"
        hint = f"run it on the host, and check that the container may use the devices ({_options(cell)})"
    return EnvironmentFault(f"`{query}` in the container {failure}", why=why, hint=hint)


def _fitting(job: Job, found: Found) -> str:
    """The hint for a machine with other devices: another chip of the matrix, if they are its."""
    cell = job.cell
    for name, chip in job.matrix.chips.items():
        others = Wanted(names=chip.device.names, title=name, memory=chip.device.memory, driver=chip.device.driver)
        if name != cell.chip_name and chip.vendor == cell.chip.vendor and not check.refusals(others, found):
            return f"this is a machine for the chip {name}: choose its cell, {name}/{cell.model_name}"
    return (
        f"run it on a machine with {cell.chip.device.name}; chips.{cell.chip_name}.device in matrix.yaml says what fits"
    )


def _options(cell: Cell) -> str:
    return f"the options under chips.{cell.chip_name}.container in matrix.yaml, or the vendor's"


def _excerpt(printed: str) -> str:
    text = " ".join(printed.split())
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
