"""The files that flagkernels writes, as the host reads them, without importing flagkernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from flagrelease.errors import EnvironmentFault

__all__ = [
    "AttributionReport",
    "Effective",
    "Excluded",
    "Label",
    "Limits",
    "Measurement",
    "OperatorFigures",
    "Report",
    "Round",
    "Tuning",
    "decode_effective",
    "read_attribution",
    "read_label",
    "read_report",
]

FORMAT = 1
"""The newest format of report.json that is read."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """An operator that the model calls and that is not in effect."""

    operator: str
    """Its name."""
    verdict: str
    """What qualification found; `excluded` where it was taken out by hand."""
    reason: str
    """Why it was left out."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What the search for the fastest candidates did."""

    kernels: int
    """Kernels that have candidates."""
    keys: int
    """Keys (sizes and dtypes) that they were tuned for."""
    candidates: int
    """Candidates timed."""
    seconds: float
    """How long all of it took."""


@dataclass(frozen=True, kw_only=True)
class OperatorFigures:
    """How fast an operator is, over all of its shape classes that were measured."""

    classes: int = 0
    """Shape classes measured."""
    faster: int = 0
    """Those where it is certainly faster than the vendor's kernel."""
    share: tuple[float, ...] = ()
    """Its share of the chip's limit: lowest, median, highest (fractions of 1); empty where there is no limit."""
    native_share: tuple[float, ...] = ()
    """The same of the vendor's kernel."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Speed against what the chip can reach."""

    operators: Mapping[str, OperatorFigures]
    """By operator; one that was not measured is absent."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """report.json of a bundle (flagkernels report.build)."""

    format: int
    """The version of this form."""
    policy: str
    """How operators were chosen."""
    execution: str
    """How the engine runs the layers: compiled, captured or eager."""
    requests: str
    """What is asked of the model: mixed or greedy."""
    operators: tuple[str, ...]
    """The operators in effect."""
    excluded: tuple[Excluded, ...]
    """All others that the model calls."""
    verdicts: Mapping[str, int]
    """How many operators have each verdict."""
    tuning: Tuning
    """What tuning did."""
    limits: Limits
    """Speed against what the chip can reach."""
    served: Mapping[str, tuple[float, float, float]]
    """By load, speed with all operators over native speed: median, and the ends of its 95 % interval."""
    versions: Mapping[str, str]
    """Versions of what the operators were made with."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """compat.json of a bundle: the machine that it was made for, and what it contains."""

    vendor: str
    """FlagGems' name of the vendor."""
    device: str
    """The chip, as its driver names it."""
    driver: str
    """The driver's version."""
    triton: str
    """The version of Triton, or of FlagTree in its place."""
    flaggems: str
    """The version of FlagGems."""
    source: str
    """sha256 (hex) over FlagGems' source files."""
    database: str
    """The name that FlagGems gives its tuning database."""
    content: str
    """sha256 (hex) over the bundle's other files."""


@dataclass(frozen=True, kw_only=True)
class Effective:
    """What `activate --effective` prints: the operators in effect, over all processes of an engine."""

    processes: tuple[int, ...]
    """Process ids of those that have a bundle in effect."""
    bundles: tuple[str, ...]
    """Their bundles, by content (hex); one if all is well."""
    operators: tuple[str, ...]
    """Operators that all processes have."""
    partial: tuple[str, ...]
    """Operators that only some processes have."""
    called: Mapping[str, int]
    """Calls by operator since the start; those of the last half second may be missing."""
    captured: tuple[str, ...]
    """Operators in a graph, which replays them without a call."""
    tuning_events: int
    """Candidates timed since the start."""
    tuned: tuple[str, ...]
    """The kernels that they are of."""
    filled: int
    """Keys that took the choice of the nearest tuned key."""
    compilations: int
    """Kernels compiled since the start."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """How far a set of operators is from float32, against the native kernels."""

    operators: tuple[str, ...]
    """The set."""
    excess: float | None
    """Root mean square distance from float32, over the native kernels'; None where there are no answers."""
    shift: float | None
    """Mean log-probability against native (nats a token)."""
    note: str = ""
    """Why there is no figure."""

    @property
    def finding(self) -> str:
        """The figures in words."""
        if self.excess is None or self.shift is None:
            return self.note
        return (
            f"log-probabilities {self.excess:.2f} times as far from float32 as with the native kernels, "
            f"{self.shift:+.4f} nats a token on average"
        )


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round of the search for culprits."""

    measurements: tuple[Measurement, ...]
    """All that were made."""
    culprit: str | None
    """The operator that it names."""
    partner: str | None = None
    """The operator without which the culprit would do no harm."""


@dataclass(frozen=True, kw_only=True)
class AttributionReport:
    """What `attribute` writes: which operators make the answers worse."""

    together: Measurement | None
    """All operators; None where the bundle has none."""
    rounds: tuple[Round, ...]
    """The search, until nothing more could be named."""
    clean: bool
    """Whether what remains is as near to float32 as the native kernels are."""


class _Versioned(msgspec.Struct):
    format: int


def read_report(path: Path) -> Report:
    """Raises EnvironmentFault where the file is missing or not a report that this version reads."""
    raw = _bytes(path)
    if (found := _decode(raw, _Versioned, path.name).format) > FORMAT:
        why = f"it has format {found}, and formats up to {FORMAT} are read"
        raise _unexpected(path.name, why)
    return _decode(raw, Report, path.name)


def read_label(path: Path) -> Label:
    """Raises EnvironmentFault where the file is missing or not a compatibility label."""
    return _decode(_bytes(path), Label, path.name)


def read_attribution(path: Path) -> AttributionReport:
    """Raises EnvironmentFault where the file is missing or of another form."""
    return _decode(_bytes(path), AttributionReport, path.name)


def decode_effective(printed: str) -> Effective:
    """From what the program printed: a vendor's libraries may have said something around the JSON object.

    Raises EnvironmentFault where there is no such object."""
    start, end = printed.find("{\n"), printed.rfind("}")
    return _decode(printed[max(start, 0) : end + 1].encode(), Effective, "the status of the operators in effect")


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
        hint="it was damaged, or written by another version of flagkernels; run again with `--force kernels`",
    )
