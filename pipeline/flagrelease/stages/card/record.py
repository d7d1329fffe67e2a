"""release.json: every digest, version, parameter and verdict of one cell. The only source of the card. Pure.

A record is a function of the job and its finished stages, so that a run which was killed and resumed makes the
same bytes, and the sha256 of these bytes can name the release (`Record.tag`).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from flagrelease.config.cell import Cell
from flagrelease.config.chip import Chip
from flagrelease.config.lockfile import Lock, LockedChip, LockedData, LockedModel, LockedWheels
from flagrelease.config.matrix import Baseline, Benchmark, Model, Profile, Stack
from flagrelease.contract.accuracy_results import Accuracy
from flagrelease.contract.handles import Done, Finished, ResultOf, StageResult, VerdictName
from flagrelease.contract.job import Job
from flagrelease.contract.results import (
    ACCURACY,
    ATTRIBUTION,
    CARD,
    IMAGE,
    KERNELS,
    PUBLISH,
    SMOKE,
    SPEED,
    WEIGHTS,
    Attribution,
    Image,
    Kernels,
    Smoke,
    Weights,
)
from flagrelease.contract.speed_results import Speed
from flagrelease.errors import ConfigError, FlagreleaseError
from flagrelease.recipe.container import model_path
from flagrelease.store.parts import Keep
from flagrelease.verdict import types as verdicts

VERSION = 1
COMPONENTS: Mapping[str, str] = {
    "flagscale": "FlagScale",
    "flaggems": "FlagGems",
    "flagtree": "FlagTree",
    "flagcx": "FlagCX",
}
NEEDED: tuple[ResultOf[StageResult], ...] = (WEIGHTS, IMAGE, SMOKE, ACCURACY)
"""Without these there is no record."""
_NAMED = {one.stage for one in (*NEEDED, KERNELS, SPEED, ATTRIBUTION)}
_AFTER = {one.stage for one in (CARD, PUBLISH)}
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """What a stage cost: seconds in all, seconds of them outside our own code, bytes over the network."""

    stage: str
    key: str
    seconds: float
    outside: float
    moved: int


@dataclass(frozen=True, kw_only=True)
class Pins:
    """The part of matrix.lock that this cell was made from."""

    model: LockedModel | None = None
    chip: LockedChip | None = None
    wheels: Mapping[str, LockedWheels] = field(default_factory=dict)
    benchmarks: Mapping[str, LockedData] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One release of one cell.

    `rendered_by` is the sha256 (hex) of the template and code that make the card, so that a mended card is a new
    release. `differences` are whole sentences about what is not upstream's own; `attributed` the rounds in which a gate
    failed and operators were taken out, or none was to blame. `unfinished` says for each gate that was not decided why;
    such a record is no release. `further` holds the results of stages
    that have no field of their own, by stage name. `chip.hosts` is empty: a record is public.
    """

    version: int = VERSION
    rendered_by: str
    cell: str
    chip_name: str
    model_name: str
    chip: Chip
    model: Model
    stack: Stack
    baseline: Baseline
    profile_name: str
    profile: Profile
    benchmarks: Mapping[str, Benchmark]
    pins: Pins
    weights: Weights
    image: Image
    smoke: Smoke
    accuracy: Accuracy
    stages: tuple[StageCost, ...]
    differences: tuple[str, ...]
    kernels: Kernels | None = None
    speed: Speed | None = None
    attributed: tuple[Attribution, ...] = ()
    unfinished: Mapping[str, str] = field(default_factory=dict)
    further: Mapping[str, Any] = field(default_factory=dict)
    kept: tuple[Keep, ...] = ()
    """Results that were made by other code than the release's, and by whose word they count."""

    @property
    def verdict(self) -> VerdictName:
        """The worst of the gates."""
        open_gates = [verdicts.Verdict.INCONCLUSIVE for _ in self.unfinished]
        return verdicts.worst_verdict([*(verdicts.Verdict(gate.verdict) for gate in self._gates), *open_gates]).value

    @property
    def reason(self) -> str:
        """What decided the verdict."""
        decided = [gate.reason for gate in self._gates if gate.verdict == self.verdict and gate.reason]
        left = [f"{name} {why}" for name, why in self.unfinished.items()] if self.verdict == "INCONCLUSIVE" else []
        return "; ".join([*decided, *left])

    @property
    def _gates(self) -> tuple[Accuracy | Speed, ...]:
        return (self.accuracy,) if self.speed is None else (self.accuracy, self.speed)

    @property
    def name(self) -> str:
        """`MODEL-CHIP-FlagOS`, as model repositories of FlagRelease are named."""
        return f"{self.model.title}-{self.chip_name}-FlagOS"

    @property
    def candidate_name(self) -> str:
        """What was compared with the baseline: `flagos on cpu`."""
        return f"{self.stack} on {self.chip_name}"

    @property
    def model_dir(self) -> str:
        """Where users keep the weights, on the host and in the container."""
        return model_path(self.model)

    @property
    def tag(self) -> str:
        """The release's own tag: the versions of the FlagOS parts, then the first 12 digits of the record's sha256.

        Raises ConfigError where a version cannot stand in an OCI tag.
        """
        parts = self.chip.components
        versions = f"tree_{parts.flagtree}-gems_{parts.flaggems}-scale_{parts.flagscale}-cx_{parts.flagcx}"
        tag = f"{versions}-{hashlib.sha256(dumps(self)).hexdigest()[:12]}".replace("+", ".")
        if not _TAG.fullmatch(tag):
            raise ConfigError(
                f"{tag!r} cannot be an image tag",
                why="a tag has at most 128 letters, digits and . _ -",
                hint=f"mend chips.{self.chip_name}.components in matrix.yaml",
            )
        return tag


def build(job: Job, finished: Finished, rendered_by: str, unfinished: Mapping[str, str] | None = None) -> Record:
    """The record of the job's cell. Raises FlagreleaseError when a stage that it needs has not finished."""
    missing = [one.stage for one in NEEDED if one not in finished]
    if missing:
        raise FlagreleaseError(
            f"{job.cell.id} has no release record yet",
            why=f"not finished: {', '.join(missing)}",
            hint=f"run `flagrelease run {job.cell.id}`",
        )
    cell, image, attributed = job.cell, finished.result(IMAGE), finished.get(ATTRIBUTION)
    return Record(
        rendered_by=rendered_by,
        cell=cell.id,
        chip_name=cell.chip_name,
        model_name=cell.model_name,
        chip=replace(cell.chip, hosts=()),
        model=cell.model,
        stack=cell.stack,
        baseline=cell.baseline,
        profile_name=cell.profile_name,
        profile=cell.profile,
        benchmarks={name: job.matrix.benchmarks[name] for name in cell.profile.benchmarks},
        pins=_pins(cell, job.lock),
        weights=finished.result(WEIGHTS),
        image=image,
        smoke=finished.result(SMOKE),
        accuracy=finished.result(ACCURACY),
        kernels=finished.get(KERNELS),
        speed=finished.get(SPEED),
        attributed=(*job.attributed, *((attributed,) if attributed is not None else ())),
        stages=tuple(_cost(done) for done in finished if done.stage not in _AFTER),
        differences=_differences(cell, image),
        unfinished=unfinished or {},
        kept=tuple(done.kept for done in finished if done.kept is not None),
        further={
            done.stage: msgspec.to_builtins(done.result, enc_hook=_plain)
            for done in finished
            if done.stage not in _NAMED | _AFTER
        },
    )


def dumps(record: Record) -> bytes:
    """Canonical JSON: keys sorted, two spaces, one final newline. Raises ValueError for NaN and infinity."""
    plain = msgspec.to_builtins(record, enc_hook=_plain)
    _finite(plain, "release.json")
    return msgspec.json.format(msgspec.json.encode(plain, order="sorted"), indent=2) + b"\n"


def loads(raw: bytes, name: str = "release.json") -> Record:
    """Read a record. Raises ConfigError where it is damaged or written by a newer version of this program."""
    try:
        version = msgspec.json.decode(raw, type=_Versioned).version
        if version > VERSION:
            raise ConfigError(
                f"{name} has version {version}", why=f"this program reads versions up to {VERSION}", hint="upgrade"
            )
        return msgspec.json.decode(raw, type=Record)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{name} is damaged", why=str(error), hint="take it from the release again") from None


@dataclass(frozen=True, kw_only=True)
class _Versioned:
    version: int


def _pins(cell: Cell, lock: Lock) -> Pins:
    return Pins(
        model=lock.models.get(cell.model_name),
        chip=lock.chips.get(cell.chip_name),
        wheels={name: lock.wheels[name] for name in (cell.wheels_entry,) if name in lock.wheels},
        benchmarks={name: lock.benchmarks[name] for name in cell.profile.benchmarks if name in lock.benchmarks},
    )


def _cost(done: Done[StageResult]) -> StageCost:
    spent = done.spent
    return StageCost(
        stage=done.stage,
        key=done.key,
        seconds=round(spent.seconds, 3),
        outside=round(spent.outside, 3),
        moved=spent.moved,
    )


def _differences(cell: Cell, image: Image) -> tuple[str, ...]:
    absent = [
        f"{title} is not applied: {cell.chip.reasons[part]}"
        for part, title in COMPONENTS.items()
        if getattr(cell.chip.components, part) == "none" and part in cell.chip.reasons
    ]
    return tuple(dict.fromkeys(_sentence(text) for text in (*absent, *image.remarks, *cell.model.notes)))


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be part of a record")


def _finite(value: Any, where: str) -> None:
    match value:
        case float() if not math.isfinite(value):
            raise ValueError(f"{where} is {value}, which is not a number that a record can hold")
        case dict():
            for key, inner in value.items():
                _finite(inner, f"{where}.{key}")
        case list() | tuple():
            for index, inner in enumerate(value):
                _finite(inner, f"{where}[{index}]")
