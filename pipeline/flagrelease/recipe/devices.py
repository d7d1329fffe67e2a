"""Which of a machine's devices a cell may use, and its container's flags for them. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from flagrelease.config.cell import Cell
from flagrelease.config.chip import Chip, Container
from flagrelease.config.lockfile import LockedFile
from flagrelease.config.vendors import VENDORS
from flagrelease.errors import ConfigError

_WEIGHTS = (".safetensors", ".gguf", ".bin")
"""Endings of files with weights, of which the first that a model has is served."""

Devices = tuple[int, ...]
"""Numbers of devices of a machine, from 0."""


def check_devices(chip: Chip, chip_name: str, devices: int) -> None:
    """Raise ConfigError if a cell on the chip cannot have so many devices, or cannot be limited to them."""
    vendor = VENDORS[chip.vendor]
    if devices > 1 and vendor.on_host:
        raise ConfigError(
            f"serve.devices is {devices}, but {chip_name} is the machine's processor",
            why="a processor counts as one device",
            hint=f"set serve.devices: 1 under per_chip.{chip_name} in matrix.yaml",
        )
    if devices > 1 and not chip.container.shm and chip.container.ipc not in ("host", "shareable"):
        raise ConfigError(
            f"{chip_name} has no shared memory for {devices} devices",
            why="their processes exchange data through /dev/shm, which has 64 MB in a container",
            hint=f"set chips.{chip_name}.container.shm, such as 32gb, or container.ipc: host",
        )
    if chip.host_devices is None:
        return
    if devices > chip.host_devices:
        raise ConfigError(
            f"serve.devices is {devices}, but a machine of {chip_name} has {chip.host_devices}",
            why=f"chips.{chip_name}.host_devices says so",
            hint="exclude the cell in matrix.yaml with that reason, or serve a smaller model there",
        )
    if devices < chip.host_devices and not chip.container.gpus and vendor.visible is None:
        raise ConfigError(
            f"a cell on {chip_name} cannot be limited to {devices} of its {chip.host_devices} devices",
            why=f"no environment variable that does so is known for {chip.vendor}",
            hint=f"remove chips.{chip_name}.host_devices: each cell then holds the whole machine",
        )


def check_memory(cell: Cell, files: Iterable[LockedFile]) -> None:
    """Raise ConfigError if the weights among `files` are larger than the memory of the cell's devices, as far as it is
    known. What fits may still lack room for the cache of a long context."""
    memory, serve = cell.chip.device.memory, cell.model.serve
    if memory is None:
        return
    used = serve.args.get("gpu_memory_utilization", 1.0)
    share = used if isinstance(used, float) and 0 < used < 1 else 1.0
    room, size = serve.devices * memory * 2**30 * share, weight_bytes(files)
    if size > room:
        one = f"{serve.devices} × {memory:g} GiB" + (f", of which {share:.0%} are used" if share < 1 else "")
        raise ConfigError(
            f"{cell.model_name} is too large for {cell.chip_name}",
            why=f"its weights have {size / 2**30:,.1f} GiB, and its devices {one}",
            hint=f"set serve.devices to {math.ceil(size / (memory * 2**30 * share))} or more under "
            f"per_chip.{cell.chip_name} in matrix.yaml, or exclude the cell with this reason",
        )


def weight_bytes(files: Iterable[LockedFile]) -> int:
    """The size of the weights, without those in a second format."""
    by_kind: dict[str, int] = {}
    for file in files:
        kind = next((kind for kind in _WEIGHTS if file.path.endswith(kind)), "")
        if kind and not file.path.rpartition("/")[2].startswith("consolidated"):
            by_kind[kind] = by_kind.get(kind, 0) + file.size
    return next((by_kind[kind] for kind in _WEIGHTS if kind in by_kind), 0)


def on_card(chip: Chip, devices: int) -> Devices | None:
    """The devices that the card's command names: the first ones of the machine; None if it names none."""
    return None if chip.host_devices is None else tuple(range(devices))


def limited(chip: Chip, devices: Devices | None, *, processes: bool = False) -> Container:
    """The chip's flags, limited to `devices`; unchanged if it is None, for the whole machine.

    With `--gpus` the devices are numbered from 0 inside, so that the vendor's variable would name others. Plain
    `processes` have the variable only."""
    if devices is None:
        return chip.container
    names, variable = ",".join(map(str, devices)), VENDORS[chip.vendor].visible
    if chip.container.gpus and not processes:
        return replace(chip.container, gpus=f"device={names}")
    return replace(chip.container, env={**chip.container.env, **({variable: names} if variable else {})})
