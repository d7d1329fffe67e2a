"""The figures of a release, read from its release.json. Pure.

Only the fields that are shown or compared are read, and all others are skipped: reading thousands of records takes
seconds, and the fields that a later version adds do not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from flagrelease.errors import ConfigError
from flagrelease.releases.lineage import Lineage
from flagrelease.verdict import rule
from flagrelease.verdict.types import Verdict

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Score:
    """One benchmark. Scores, differences and margins are fractions of 1."""

    benchmark: str
    """Its name in matrix.yaml."""
    metric: str
    """Its name on the card."""
    n: int
    """Questions."""
    candidate: float
    """The score of the release."""
    baseline: float | None
    """The baseline's score."""
    difference: float | None
    """candidate − baseline."""
    interval90: tuple[float, float] | None
    """90 % confidence interval of the difference."""
    margin: float
    """The non-inferiority margin."""
    verdict: Verdict
    """Of this gate or part of it."""
    reason: str
    """The reason for it."""
    data_sha256: str
    """sha256 (hex) of the questions."""
    partial: str = ""
    """The share of the benchmark that was asked; empty if all of it was."""
    sensitive: bool = True
    """Whether a candidate without the skill could not have passed."""


@dataclass(frozen=True, kw_only=True)
class TokenGate:
    """The token gate."""

    reason: str
    """The reason for the verdict, or for its absence."""
    verdict: Verdict | None = None
    """None if it was not measured."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The accuracy gate."""

    verdict: Verdict
    """Of this gate or part of it."""
    reason: str
    """The reason for it."""
    benchmarks: tuple[Score, ...]
    """The scores."""
    baseline_name: str = ""
    """The baseline's name on the card."""
    token_gate: TokenGate | None = None
    """The token gate."""


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """One stack at one load point."""

    output_tokens_per_s: float
    """Output tokens per second."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """Speed at one load point."""

    input_tokens: int
    """Tokens of each prompt."""
    output_tokens: int
    """Tokens of each answer."""
    concurrency: int
    """Requests at the same time."""
    ratio: float
    """candidate / baseline in output tokens per second."""
    interval95: tuple[float, float]
    """The 95 % confidence interval of the ratio."""
    gate: float
    """The ratio that is required."""
    verdict: Verdict
    """Of this gate or part of it."""
    candidate: Throughput
    """The stack that is released."""

    @property
    def load(self) -> str:
        """The load in words."""
        return f"{self.input_tokens} → {self.output_tokens} tokens × {self.concurrency}"


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The speed gate."""

    verdict: Verdict
    """Of this gate or part of it."""
    reason: str
    """The reason for it."""
    points: tuple[Point, ...]
    """The load points."""

    @property
    def slowest(self) -> Point | None:
        """The load point whose interval reaches lowest."""
        return min(self.points, key=lambda point: point.interval95[0], default=None)


@dataclass(frozen=True, kw_only=True)
class Named:
    """An operator."""

    name: str
    """Its name in FlagGems."""


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """An operator that the vendor's kernel computes."""

    operator: str
    """Its name."""
    reason: str = ""
    """Why."""


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """The operators."""

    operators: tuple[Named, ...] = ()
    """Those in effect."""
    excluded: tuple[Excluded, ...] = ()
    """The others that the model calls."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """The image."""

    repository: str
    """REGISTRY/PREFIX/NAME."""
    digest: str
    """sha256:…"""
    base_id: str
    """The id of the base image."""
    size: int
    """Bytes, uncompressed."""
    versions: Mapping[str, str]
    """Versions found inside, by component."""
    runner: str = "docker"
    """What starts it."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check of the smoke stage."""

    name: str
    """Its name on the card."""
    passed: bool
    """Whether it passed."""


@dataclass(frozen=True, kw_only=True)
class Smoke:
    """The start of the image."""

    ready_seconds: float
    """From the start until the server was ready."""
    checks: tuple[Check, ...] = ()
    """The checks that were made."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """By name of a check that was not made, the reason."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights."""

    digest: str
    """sha256:…"""
    revision: str = ""
    """The pinned revision of the source."""
    source: str = ""
    """Where they come from."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """A chip's device."""

    name: str
    """For people."""


@dataclass(frozen=True, kw_only=True)
class Chip:
    """A chip of the matrix."""

    vendor: str
    """FlagGems' name of the vendor."""
    device: Device
    """The device."""
    components: Mapping[str, str]
    """Versions of the FlagOS parts; `none` if absent."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model of the matrix."""

    title: str
    """Its name on the card."""


@dataclass(frozen=True, kw_only=True)
class Waiver:
    """A known shortcoming that did not withhold the release."""

    gate: str
    """`speed`, or a benchmark."""
    reason: str
    """Why."""
    owner: str
    """Who sees to it."""
    until: str
    """The last day on which it holds."""


@dataclass(frozen=True, kw_only=True)
class StageKey:
    """A stage of the release."""

    stage: str
    """Its name."""
    key: str
    """Its key in the ledger."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A release record, as far as it is shown or compared."""

    version: int
    """Of the format."""
    cell: str
    """CHIP/MODEL."""
    stack: str
    """native or flagos."""
    chip: Chip
    """The chip."""
    model: Model
    """The model."""
    profile_name: str
    """The evaluation profile."""
    weights: Weights
    """The weights."""
    image: Image
    """The image."""
    smoke: Smoke
    """The start of the image."""
    accuracy: Gate
    """The accuracy gate."""
    kernels: Kernels | None = None
    """The operators."""
    speed: Speed | None = None
    """The speed gate."""
    unfinished: Mapping[str, str] = field(default_factory=dict)
    """Why a gate has no verdict, by stage."""
    waivers: tuple[Waiver, ...] = ()
    """Known shortcomings that did not withhold it."""
    rendered_by: str = ""
    """The version of the code that rendered the card."""
    stages: tuple[StageKey, ...] = ()
    """The stages whose results it records."""
    lineage: Lineage | None = None
    """Its place among the releases of the cell; none in records of versions that had none."""

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of the gates that are not waived; one without a verdict counts as INCONCLUSIVE."""
        waived = {waiver.gate for waiver in self.waivers}
        gate = self.accuracy.token_gate
        gates = rule.gates_that_count(
            accuracy=self.accuracy.verdict,
            benchmarks=self.accuracy.benchmarks,
            tokens=None if gate is None else gate.verdict,
            speed=None if self.speed is None else self.speed.verdict,
            waived=waived,
        )
        return rule.decide_release(gates, self.unfinished, waived)

    @property
    def components(self) -> dict[str, str]:
        """All versions by component: the FlagOS parts of the matrix, and what was found in the image."""
        return {**self.chip.components, **self.image.versions}

    @property
    def operators(self) -> frozenset[str]:
        """The names of the operators in effect."""
        return frozenset(each.name for each in self.kernels.operators) if self.kernels is not None else frozenset()


_DECODER = msgspec.json.Decoder(Facts)


class _Versioned(msgspec.Struct):
    version: int


def read(raw: bytes, name: str = "release.json") -> Facts:
    """Parse a record. Raises ConfigError if it is damaged or written by a newer version of flagrelease."""
    try:
        facts = _DECODER.decode(raw)
    except (ValueError, RecursionError) as error:
        raise _unreadable(raw, name, error) from None
    if facts.version > VERSION:
        raise _newer(name, facts.version)
    return facts


def _unreadable(raw: bytes, name: str, error: Exception) -> ConfigError:
    try:
        version = msgspec.json.decode(raw, type=_Versioned).version
    except (ValueError, RecursionError):
        version = 0
    if version > VERSION:
        return _newer(name, version)
    return ConfigError(f"{name} is not a release record", why=str(error), hint="copy it from the release again")


def _newer(name: str, version: int) -> ConfigError:
    return ConfigError(
        f"{name} has version {version}", why=f"this program reads versions up to {VERSION}", hint="upgrade flagrelease"
    )


def as_json(value: Any) -> Any:
    """Plain JSON of the dataclasses of this room."""
    return msgspec.to_builtins(value, enc_hook=dict)
