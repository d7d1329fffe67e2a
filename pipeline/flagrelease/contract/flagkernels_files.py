"""Read the files that flagkernels writes, without importing flagkernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from flagrelease.contract.results import ExcludedOperator, Tuning
from flagrelease.errors import EnvironmentFault

__all__ = [
    "AttributionReport",
    "Effective",
    "Label",
    "Limits",
    "Measurement",
    "OperatorFigures",
    "Report",
    "Round",
    "decode_effective",
    "read_attribution",
    "read_label",
    "read_report",
]

FORMAT = 1
"""The newest supported format of report.json."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class OperatorFigures:
    """The speed of an operator over all measured shape classes."""

    classes: int = 0
    """Shape classes that were measured."""
    faster: int = 0
    """Shape classes in which it is significantly faster than the vendor's kernel."""
    share: tuple[float, ...] = ()
    """Its speed as a fraction of the chip's limit: lowest, median, highest; empty if there is no limit."""
    native_share: tuple[float, ...] = ()
    """The same for the vendor's kernel."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The speed of operators relative to the limits of the chip."""

    operators: Mapping[str, OperatorFigures]
    """By operator, for those that were measured."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """report.json of a bundle (flagkernels report.build)."""

    format: int
    """The version of the format."""
    policy: str
    """How operators were selected: express or coverage."""
    execution: str
    """How the engine runs the layers: compiled, captured or eager."""
    requests: str
    """The sampling that operators were selected for: mixed or greedy."""
    operators: tuple[str, ...]
    """The operators in effect."""
    excluded: tuple[ExcludedOperator, ...]
    """The other operators that the model calls."""
    verdicts: Mapping[str, int]
    """Number of operators by verdict."""
    tuning: Tuning
    """The extent of autotuning."""
    limits: Limits
    """The speed of operators relative to the limits of the chip."""
    served: Mapping[str, tuple[float, float, float]]
    """By load, speed with all operators over native speed: median, lower and upper end of its 95 % interval."""
    versions: Mapping[str, str]
    """Versions of the packages that the operators were built with, by name."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """compat.json of a bundle: its content and the machine that it was built for."""

    vendor: str
    """FlagGems' name for the vendor."""
    device: str
    """The driver's name for the chip."""
    driver: str
    """The driver's version."""
    triton: str
    """The version of Triton, or of FlagTree where it replaces Triton."""
    flaggems: str
    """The version of FlagGems."""
    source: str
    """sha256 (hex) over FlagGems' source files."""
    database: str
    """The file name of FlagGems' tuning database."""
    content: str
    """sha256 (hex) over the bundle's other files."""


@dataclass(frozen=True, kw_only=True)
class Effective:
    """The output of `activate --effective`: the operators in effect in the processes of an engine."""

    processes: tuple[int, ...]
    """Ids of the processes that have a bundle in effect."""
    bundles: tuple[str, ...]
    """Content digests (hex) of their bundles; exactly one is expected."""
    operators: tuple[str, ...]
    """Operators in effect in all processes."""
    partial: tuple[str, ...]
    """Operators in effect in only some processes."""
    called: Mapping[str, int]
    """Calls by operator since the start; the last half second may be missing."""
    captured: tuple[str, ...]
    """Operators captured in a graph, which replays them without a call."""
    tuning_events: int
    """Candidates that were timed since the start."""
    tuned: tuple[str, ...]
    """The kernels of these candidates."""
    filled: int
    """Keys that use the choice of the nearest tuned key."""
    compilations: int
    """Kernels compiled since the start."""
    devices: tuple[int, ...] = ()
    """Numbers of the devices on which operators were called; empty for a processor."""
    differing: tuple[str, ...] = ()
    """Kernels that have different configurations for the same key in two processes."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The distance of a set of operators from float32, relative to the native kernels."""

    operators: tuple[str, ...]
    """The set."""
    excess: float | None
    """Root mean square distance from float32, divided by that of the native kernels; None without answers."""
    shift: float | None
    """Mean log-probability minus that of the native kernels, in nats per token."""
    note: str = ""
    """Why there is no figure."""

    @property
    def finding(self) -> str:
        """The figures in words."""
        if self.excess is None or self.shift is None:
            return self.note
        return (
            f"log-probabilities {self.excess:.2f} times as far from float32 as with the native kernels, "
            f"{self.shift:+.4f} nats per token on average"
        )


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round of the search for culprits."""

    measurements: tuple[Measurement, ...]
    """All measurements of the round."""
    culprit: str | None
    """The operator that was found; None if the round found none."""
    partner: str | None = None
    """The operator that the culprit is harmful together with."""


@dataclass(frozen=True, kw_only=True)
class AttributionReport:
    """The output of `attribute`: the operators that make the answers worse."""

    together: Measurement | None
    """All operators; None if the bundle has none."""
    rounds: tuple[Round, ...]
    """The rounds of the search, until no further culprit was found."""
    clean: bool
    """Whether the other operators are as close to float32 as the native kernels are."""


class _Versioned(msgspec.Struct):
    format: int


def read_report(path: Path) -> Report:
    """Read report.json. Raises EnvironmentFault if it is missing, malformed or of a newer format."""
    raw = _bytes(path)
    if (version := _decode(raw, _Versioned, path.name).format) > FORMAT:
        why = f"it has format {version}; formats up to {FORMAT} are supported"
        raise _unexpected(path.name, why)
    return _decode(raw, Report, path.name)


def read_label(path: Path) -> Label:
    """Read compat.json. Raises EnvironmentFault if it is missing or malformed."""
    return _decode(_bytes(path), Label, path.name)


def read_attribution(path: Path) -> AttributionReport:
    """Read attribute.json. Raises EnvironmentFault if it is missing or malformed."""
    return _decode(_bytes(path), AttributionReport, path.name)


def decode_effective(printed: str) -> Effective:
    """Decode the output of `activate --effective`; a vendor's libraries may print around the JSON object.

    Raises EnvironmentFault if there is no such object."""
    start, end = printed.find("{\n"), printed.rfind("}")
    return _decode(printed[max(start, 0) : end + 1].encode(), Effective, "the status of operators in effect")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unexpected(path.name, str(error)) from None


def _decode(raw: bytes, kind: type[T], name: str) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        raise _unexpected(name, str(error)) from None


def _unexpected(name: str, why: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"{name} cannot be read",
        why=why,
        hint="it is damaged or was written by another version of flagkernels; run again with `--force kernels`",
    )
