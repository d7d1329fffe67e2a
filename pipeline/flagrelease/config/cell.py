"""Cells: one chip × model pair each, their selection, and the fingerprints of their stages. Pure."""

from __future__ import annotations

import fnmatch
import hashlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from flagrelease.config.matrix import Baseline, Chip, Kernels, Matrix, Model, OnChip, Profile, Stack, check_name
from flagrelease.config.vendors import VENDORS
from flagrelease.errors import ConfigError, NothingSelected, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A chip × model pair with everything of the matrix that concerns it; `model` is as it is on this chip. What the
    matrix leaves to the vendor is filled in."""

    chip_name: str
    model_name: str
    chip: Chip
    model: Model
    stack: Stack
    baseline: Baseline
    profile_name: str
    profile: Profile
    kernels: Kernels
    excluded: str = ""

    @property
    def id(self) -> str:
        """`CHIP/MODEL`: what users type, read and grep for."""
        return f"{self.chip_name}/{self.model_name}"

    @property
    def slug(self) -> str:
        """The id where a slash cannot stand: container names, lock files."""
        return f"{self.chip_name}--{self.model_name}"

    @property
    def wheels_entry(self) -> str:
        """The name of its packages in matrix.lock: images of one chip and engine share them."""
        return f"{self.chip_name}-{self.model.serve.engine}"

    @property
    def own_baseline(self) -> bool:
        """Whether the baseline is evaluated on this very chip."""
        return self.baseline.chip == self.chip_name

    @property
    def holds_both(self) -> bool:
        """Whether both stacks can be up at once on the chip. As users start it, a server takes an accelerator's memory
        whole, unless the matrix says that two fit."""
        return VENDORS[self.chip.vendor].on_host or self.model.serve.colocate


def expand(matrix: Matrix, *, profile: str | None = None) -> tuple[Cell, ...]:
    """All cells of the matrix in its order, the excluded ones with their reason."""
    if profile is not None:
        check_name(profile, matrix.profiles, "profile")
    return tuple(
        _cell(matrix, chip_name, model_name, profile) for chip_name in matrix.chips for model_name in matrix.models
    )


def _cell(matrix: Matrix, chip_name: str, model_name: str, profile: str | None) -> Cell:
    chip, model = matrix.chips[chip_name], matrix.models[model_name].on_chip(chip_name)
    own = matrix.models[model_name].per_chip.get(chip_name, OnChip())
    baseline = model.baseline or matrix.defaults.baseline
    if baseline.chip == "same":
        baseline = Baseline(chip=chip_name, stack=baseline.stack)
    excluded = next(
        (
            rule.reason
            for rule in matrix.exclude
            if fnmatch.fnmatchcase(chip_name, rule.chip) and fnmatch.fnmatchcase(model_name, rule.model)
        ),
        "",
    )
    vendor, kernels = VENDORS[chip.vendor], own.kernels or chip.kernels or matrix.defaults.kernels
    device = replace(chip.device, query=chip.device.query or shlex.join(vendor.query))
    profile_name = profile or own.profile or chip.profile or matrix.defaults.profile
    return Cell(
        chip_name=chip_name,
        model_name=model_name,
        chip=replace(chip, device=device),
        model=model,
        stack=matrix.defaults.stack,
        baseline=baseline,
        profile_name=profile_name,
        profile=matrix.profiles[profile_name],
        kernels=replace(kernels, device=kernels.device or vendor.torch_device),
        excluded=excluded,
    )


def select(cells: Sequence[Cell], patterns: Sequence[str], chips: Sequence[str], models: Sequence[str]) -> list[Cell]:
    """The cells that match every kind of filter given; without any filter, all.

    `patterns` are cell ids or globs of them. Raises ConfigError for a name that matches no cell (did you
    mean), NothingSelected where nothing is left, with the reason where exclusions took the last one.
    """
    chosen = list(cells)
    filters: tuple[tuple[Sequence[str], str, Callable[[Cell], str]], ...] = (
        (patterns, "cell", lambda cell: cell.id),
        (chips, "chip", lambda cell: cell.chip_name),
        (models, "model", lambda cell: cell.model_name),
    )
    for texts, kind, text_of in filters:
        known = {text_of(cell) for cell in cells}
        for text in texts:
            if not fnmatch.filter(known, text):
                if any(sign in text for sign in "*?["):
                    raise NothingSelected(f"no {kind} matches {text!r}", hint=did_you_mean(text, known))
                raise ConfigError(f"unknown {kind} {text!r}", hint=did_you_mean(text, known))
        if texts:
            chosen = [cell for cell in chosen if any(fnmatch.fnmatchcase(text_of(cell), text) for text in texts)]
    if not chosen:
        raise NothingSelected("no cell matches all of the filters", hint="`flagrelease plan` lists all cells")
    if all(cell.excluded for cell in chosen):
        lines = [f"{cell.id}: {cell.excluded}" for cell in chosen]
        raise NothingSelected(
            "every cell that was selected is excluded" if len(chosen) > 1 else f"{chosen[0].id} is excluded",
            why=chosen[0].excluded if len(chosen) == 1 else "",
            hint="remove the rule under `exclude` in matrix.yaml to release it",
            detail="\n".join(lines) if len(chosen) > 1 else "",
        )
    return chosen


def fingerprint(parts: Mapping[str, Any]) -> str:
    """The sha256 (hex) of `parts` in canonical form. Two equal fingerprints mean equal inputs."""
    canonical = msgspec.json.encode(parts, order="deterministic", enc_hook=_plain)
    return hashlib.sha256(canonical).hexdigest()


def plain(value: Any) -> Any:
    """`value` as JSON has it: mappings, lists and scalars."""
    return msgspec.json.decode(msgspec.json.encode(value, order="deterministic", enc_hook=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be part of a key")
