"""release.json: all digests, versions, parameters and verdicts of a cell, and the only source of its card. Pure.

A record depends only on the job and its finished stages: a resumed run writes the same bytes, so their sha256 can name
the release (`Record.tag`).
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
from flagrelease.config.waivers import Waiver
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
from flagrelease.releases.lineage import Lineage, lineage
from flagrelease.store.parts import Keep
from flagrelease.verdict import rule
from flagrelease.verdict.types import Verdict

VERSION = 1
COMPONENTS: Mapping[str, str] = {
    "flagscale": "FlagScale",
    "flaggems": "FlagGems",
    "flagtree": "FlagTree",
    "flagcx": "FlagCX",
}
NEEDED: tuple[ResultOf[StageResult], ...] = (WEIGHTS, IMAGE, SMOKE, ACCURACY)
"""Stages without which no record can be built."""
_NAMED = {result.stage for result in (*NEEDED, KERNELS, SPEED, ATTRIBUTION)}
_AFTER = {result.stage for result in (CARD, PUBLISH)}
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """Time and network traffic of a stage."""

    stage: str
    key: str
    """The stage's key in the ledger."""
    seconds: float
    """Total duration."""
    outside: float
    """Seconds of the total that were spent outside flagrelease's own code."""
    moved: int
    """Bytes transferred over the network."""
    at: str = ""
    """When it ended, ISO 8601, UTC."""


@dataclass(frozen=True, kw_only=True)
class Pins:
    """The entries of matrix.lock that the cell was built from."""

    model: LockedModel | None = None
    chip: LockedChip | None = None
    wheels: Mapping[str, LockedWheels] = field(default_factory=dict)
    benchmarks: Mapping[str, LockedData] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One release of one cell."""

    version: int = VERSION
    rendered_by: str
    """sha256 (hex) of the template and code that render the card, so that a corrected card is a new release."""
    cell: str
    chip_name: str
    model_name: str
    chip: Chip
    """The chip's entry in the matrix, without `hosts` and `host_devices`: records are public."""
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
    """Differences from the upstream software, in complete sentences."""
    kernels: Kernels | None = None
    speed: Speed | None = None
    attributed: tuple[Attribution, ...] = ()
    """Rounds in which a gate failed and the operators were searched for the cause."""
    unfinished: Mapping[str, str] = field(default_factory=dict)
    """Why a gate has no verdict, by stage name. A record with such gates is not a release."""
    further: Mapping[str, Any] = field(default_factory=dict)
    """Results of stages without a field in this class, by stage name."""
    kept: tuple[Keep, ...] = ()
    """Results of other code versions that were accepted for this release, and by whom."""
    waivers: tuple[Waiver, ...] = ()
    """Known shortcomings that did not withhold the release."""
    lineage: Lineage | None = None
    """Its place among the releases of the cell; none in records of versions that had none."""
    public_image: str = ""
    """REPOSITORY@DIGEST of the copy that the card names; empty: it names the image where it was evaluated."""

    @property
    def verdict(self) -> VerdictName:
        """The worst verdict of the gates that are not waived; one without a verdict counts as INCONCLUSIVE."""
        return rule.decide_release(self._verdicts, self.unfinished, self.waived).value

    @property
    def reason(self) -> str:
        """The reasons of the gates that decided the verdict."""
        gates: dict[str, Accuracy | Speed] = {"accuracy": self.accuracy}
        if self.speed is not None:
            gates["speed"] = self.speed
        decisive = [
            gates[name].reason
            for name, verdict in self._verdicts.items()
            if verdict == self.verdict == gates[name].verdict and gates[name].reason
        ]
        undecided = [f"{name} {why}" for name, why in self.unfinished.items()] if self.verdict == "INCONCLUSIVE" else []
        return "; ".join([*decisive, *undecided])

    @property
    def waived(self) -> frozenset[str]:
        """The gates whose verdict does not count: `speed`, or names of benchmarks."""
        return frozenset(waiver.gate for waiver in self.waivers)

    @property
    def _verdicts(self) -> dict[str, Verdict]:
        """The verdicts that count, by gate."""
        gate = self.accuracy.token_gate
        return rule.gates_that_count(
            accuracy=Verdict(self.accuracy.verdict),
            benchmarks=self.accuracy.benchmarks,
            tokens=Verdict(gate.verdict) if gate and gate.verdict else None,
            speed=None if self.speed is None else Verdict(self.speed.verdict),
            waived=self.waived,
        )

    @property
    def name(self) -> str:
        """`MODEL-CHIP-FlagOS`, the naming scheme of FlagRelease's model repositories."""
        return f"{self.model.title}-{self.chip_name}-FlagOS"

    @property
    def candidate_name(self) -> str:
        """Name of what was compared with the baseline, for example `flagos on cpu`."""
        return f"{self.stack} on {self.chip_name}"

    @property
    def model_dir(self) -> str:
        """Path of the weights, on the user's host and in the container."""
        return model_path(self.model)

    @property
    def tag(self) -> str:
        """The release's own tag: the versions of the FlagOS parts, then the first 12 digits of the record's sha256.

        Raises ConfigError if a version has characters that an OCI tag cannot have.
        """
        parts = self.chip.components
        versions = f"tree_{parts.flagtree}-gems_{parts.flaggems}-scale_{parts.flagscale}-cx_{parts.flagcx}"
        tag = f"{versions}-{hashlib.sha256(dumps(self)).hexdigest()[:12]}".replace("+", ".")
        if not _TAG.fullmatch(tag):
            raise ConfigError(
                f"{tag!r} is not a valid image tag",
                why="a tag has at most 128 letters, digits and . _ -",
                hint=f"fix chips.{self.chip_name}.components in matrix.yaml",
            )
        return tag


def build(job: Job, finished: Finished, rendered_by: str, unfinished: Mapping[str, str] | None = None) -> Record:
    """Build the record of the job's cell. Raises FlagreleaseError if a stage in NEEDED has not finished."""
    missing = [needed.stage for needed in NEEDED if needed not in finished]
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
        chip=replace(cell.chip, hosts=(), host_devices=None),
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
        waivers=cell.waivers,
        lineage=lineage(job.previous, _keys(finished), rendered_by, job.reason),
        further={
            done.stage: msgspec.to_builtins(done.result, enc_hook=_plain)
            for done in finished
            if done.stage not in _NAMED | _AFTER
        },
    )


def _keys(finished: Finished) -> dict[str, str]:
    return {done.stage: done.key for done in finished if done.stage not in _AFTER}


def dumps(record: Record) -> bytes:
    """Canonical JSON: sorted keys, two-space indent, one final newline. Raises ValueError for NaN or infinity."""
    plain = msgspec.to_builtins(record, enc_hook=_plain)
    _finite(plain, "release.json")
    return msgspec.json.format(msgspec.json.encode(plain, order="sorted"), indent=2) + b"\n"


def loads(raw: bytes, name: str = "release.json") -> Record:
    """Parse a record. Raises ConfigError if it is damaged or written by a newer version of flagrelease."""
    try:
        version = msgspec.json.decode(raw, type=_Versioned).version
        if version > VERSION:
            raise ConfigError(
                f"{name} has version {version}", why=f"this program reads versions up to {VERSION}", hint="upgrade"
            )
        return msgspec.json.decode(raw, type=Record)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{name} is damaged", why=str(error), hint="copy it from the release again") from None


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
        at=done.at,
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
            raise ValueError(f"{where} is {value}, but a record can only contain finite numbers")
        case dict():
            for key, inner in value.items():
                _finite(inner, f"{where}.{key}")
        case list() | tuple():
            for index, inner in enumerate(value):
                _finite(inner, f"{where}[{index}]")
