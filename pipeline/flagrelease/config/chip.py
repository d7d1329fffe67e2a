"""The chips of matrix.yaml: device, base image, container options and operator settings."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Literal, get_args

import msgspec

from flagrelease.config import strict_yaml
from flagrelease.config.engines import Execution
from flagrelease.config.strict_yaml import Checked, FieldError, at_least, between, matching, not_empty
from flagrelease.config.value_types import Python, Reference, Size, Text, Version
from flagrelease.config.vendors import VENDORS, Fact
from flagrelease.errors import ConfigError, also, did_you_mean

_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|m|h)")


def _check_vendor(name: str) -> None:
    if name not in VENDORS:
        new = "a new vendor is an entry of flagkernels/vendors.json (docs/kernels.md)"
        raise ConfigError(f"unknown vendor {name!r}", hint=also(did_you_mean(name, VENDORS), new))


VendorName = Annotated[str, Checked(_check_vendor)]
"""FlagGems' name for a vendor, a key of VENDORS."""


UNKNOWN = "unknown"
"""What no source says, for a base image and a device's code."""

_COMPARISON = r"(?:>=|<=|==|<|>) *[0-9]+(?:\.[0-9]+)*"
DriverRange = Annotated[
    str,
    matching(
        rf"(?:{_COMPARISON}(?:, *{_COMPARISON})*)?",
        "a range of versions",
        'write comparisons of numbers, such as ">=570.86, <600"',
    ),
]


@dataclass(frozen=True, kw_only=True)
class Device:
    """The accelerator."""

    name: Text
    """The vendor's name for it."""
    code: str
    """Its code in FlagOS, such as nvidia004."""
    query: str = ""
    """The command that reports the devices and their driver; by default the vendor's."""
    reported: tuple[Text, ...] = ()
    """Its name in the output of `query`: globs of the complete name or of its first words; by default `name`."""
    memory: Annotated[float, between(0, math.inf, without=(0,))] | None = None
    """The least memory that it reports, GiB; by default not compared."""
    driver: DriverRange = ""
    """The versions of the driver; by default not compared."""

    @property
    def names(self) -> tuple[str, ...]:
        """The globs of its name."""
        return self.reported or (self.name,)


@dataclass(frozen=True, kw_only=True)
class Components:
    """Versions of the FlagOS components in the image; `none` if the chip does not have one."""

    flagscale: Version
    """Starts the engine."""
    flaggems: Version
    """Triton operators."""
    flagtree: Version = "none"
    """Replaces Triton."""
    flagcx: Version = "none"
    """Communication between devices."""


ComponentName = Literal["flagscale", "flaggems", "flagtree", "flagcx"]
"""A key of `components`."""
_NEVER_INSTALLED = ("flagtree", "flagcx")
"""No package index has them for every chip: only a base image brings them."""


@dataclass(frozen=True, kw_only=True)
class Container:
    """The options of `docker run` on this chip, for both starting the container and printing the command line."""

    network: Literal["bridge", "host"] = "bridge"
    """--network"""
    ipc: str = ""
    """--ipc"""
    uts: str = ""
    """--uts"""
    pid: str = ""
    """--pid"""
    privileged: bool = False
    """--privileged"""
    gpus: str = ""
    """--gpus"""
    runtime: str = ""
    """--runtime"""
    shm: Size = ""
    """--shm-size, such as 32gb."""
    devices: tuple[str, ...] = ()
    """--device"""
    groups: tuple[str, ...] = ()
    """--group-add"""
    capabilities: tuple[str, ...] = ()
    """--cap-add"""
    security: tuple[str, ...] = ()
    """--security-opt"""
    ulimits: Mapping[str, int] = field(default_factory=dict)
    """--ulimit"""
    env: Mapping[str, str] = field(default_factory=dict)
    """--env"""
    mounts: tuple[str, ...] = ()
    """--volume"""
    tmpfs: tuple[str, ...] = ()
    """--tmpfs"""


def vendor_options(vendor: str) -> Container:
    """The options of `docker run` that the sources name for a vendor's chips."""
    return msgspec.convert(VENDORS[vendor].container, Container)


FACTS = (
    "device.name",
    "device.code",
    "device.reported",
    "device.memory",
    "device.driver",
    "base",
    "components",
    "container",
)
"""What `facts` of a chip may name the source of."""


@dataclass(frozen=True, kw_only=True)
class KernelSettings:
    """How the Triton operators of a chip are qualified, tuned and selected. Durations are written 90s, 10m or 2h."""

    policy: Literal["express", "coverage"] = "express"
    """`express` selects operators that make the served model faster, `coverage` all correct ones."""
    device: str = ""
    """PyTorch's name for the chip; by default the vendor's."""
    budget: str = "10m"
    """Time limit of tuning."""
    limit: str = "2h"
    """Time limit of the stage."""
    operator_limit: str = "3m"
    """Time limit of one operator."""
    max_len: int | None = None
    """Longest context length that is considered; by default the model's."""
    classes: int = 24
    """The most shape classes of an operator that are measured."""
    min_speed_ratio: float = field(default=0.98, metadata=strict_yaml.formerly("floor"))
    """The lowest ratio to native speed that `express` accepts."""
    execution: Execution | None = None
    """How the engine runs the layers, which determines the operators they call; by default from its arguments."""
    exclude: Mapping[str, str] = field(default_factory=dict)
    """Operators that are excluded by hand, with the reasons."""

    def __post_init__(self) -> None:
        for name in ("budget", "limit", "operator_limit"):
            duration(getattr(self, name))
        if (self.max_len is not None and self.max_len < 2) or self.classes < 1:
            raise ValueError("max_len must be at least 2 and classes at least 1")
        if not 0 < self.min_speed_ratio <= 1:
            raise ValueError(
                f"min_speed_ratio is {self.min_speed_ratio:g}; a ratio to native speed is above 0 and at most 1"
            )


def duration(text: str) -> float:
    """The seconds of 90s, 10m or 2h. Raises ValueError."""
    match = _TIME.fullmatch(text)
    if match is None or float(match[1]) <= 0:
        raise ValueError(f"{text!r} is not a duration: write 90s, 10m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


@dataclass(frozen=True, kw_only=True)
class Chip:
    """An accelerator as a release target."""

    vendor: VendorName
    """FlagGems' name for the vendor."""
    device: Device
    """The accelerator."""
    base: Reference
    """The reference of the base image, or UNKNOWN."""
    components: Components
    """Versions of the FlagOS components."""
    from_base: tuple[ComponentName, ...] = ()
    """Components that the base image brings: nothing is installed, and the version in `components` is read there."""
    python: Python = "3.11"
    """The Python version of the base image."""
    container: Container = field(default_factory=Container)
    """The options of `docker run`; without any, those of the vendor."""
    hosts: Annotated[tuple[str, ...], Checked(not_empty)] = ("local",)
    """The first one names the machine that stages on the chip lock. flagrelease runs on that machine; nothing is sent
    to it."""
    runs_on: tuple[str, ...] = ()
    """The labels of the GitHub Actions runner on that machine; by default `self-hosted` and the chip's name."""
    host_devices: Annotated[int, at_least(1)] | None = None
    """How many devices that machine has. Cells then hold as many as they need and share the machine; by default each
    cell holds the machine."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """By component that is `none`, the reason, for the card."""
    profile: str | None = None
    """The profile of its cells, instead of the default one."""
    kernels: KernelSettings | None = None
    """The settings of its operators, instead of the default ones."""
    facts: Mapping[str, Fact] = field(default_factory=dict)
    """By key of this stanza, such as device.memory, who says so. Not part of a release."""

    @property
    def unknown(self) -> Mapping[str, str]:
        """What is not known of it and of its vendor: the reasons, by fact."""
        facts = {**{f"vendor.{name}": fact for name, fact in VENDORS[self.vendor].facts.items()}, **self.facts}
        return {name: fact.unknown for name, fact in facts.items() if fact.unknown}

    def options(self) -> Container:
        """The options of `docker run`: its own, or those of its vendor."""
        return self.container if self.container != Container() else vendor_options(self.vendor)

    def __post_init__(self) -> None:
        for name in self.facts:
            if name not in FACTS:
                raise FieldError(f"is not a fact of a chip; {did_you_mean(name, FACTS)}", "facts", name)
        if self.components.flagscale == "none":
            raise FieldError("is none, but FlagScale starts every engine; write a version", "components", "flagscale")
        if self.host_devices is not None and (gpus := self.options().gpus) not in ("", "all"):
            rule = "with host_devices it must be `all`: each cell gets the devices that it holds"
            raise FieldError(f"is {gpus!r}; {rule}", "container", "gpus")
        self._check_flagcx()
        for at, part in enumerate(self.from_base):
            if getattr(self.components, part) == "none":
                raise FieldError(f"is {part}, which `components` has as none", "from_base", at)
        known = [each.name for each in fields(Components)]
        for name in self.reasons:
            if name not in known:
                raise FieldError(f"is not a component; {did_you_mean(name, known)}", "reasons", name)

    @property
    def brought(self) -> tuple[ComponentName, ...]:
        """The components that are read in the base image, in the order of Components."""
        names: tuple[ComponentName, ...] = get_args(ComponentName)
        return tuple(
            name
            for name in names
            if name in self.from_base or (name in _NEVER_INSTALLED and getattr(self.components, name) != "none")
        )

    def _check_flagcx(self) -> None:
        """An empty FLAGCX_PATH still selects FlagCX (vllm_fl/distributed of vllm-plugin-FL)."""
        path = self.container.env.get("FLAGCX_PATH")
        where = ("container", "env", "FLAGCX_PATH")
        if path is not None and not path.strip():
            raise FieldError("is empty, which selects FlagCX all the same; write its folder, or remove it", *where)
        if path is not None and self.components.flagcx == "none":
            raise FieldError("selects FlagCX, and components.flagcx is none; write its version, or remove it", *where)
