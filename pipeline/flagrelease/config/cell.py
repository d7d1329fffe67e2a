"""Expand the matrix into cells, select cells, and fingerprint the inputs of their stages. Pure."""

from __future__ import annotations

import fnmatch
import hashlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from flagrelease.config.chip import Chip, KernelSettings
from flagrelease.config.globs import matches
from flagrelease.config.matrix import Baseline, Matrix, Model, OnChip, Profile, Stack
from flagrelease.config.strict_yaml import check_name
from flagrelease.config.vendors import VENDORS
from flagrelease.config.waivers import Waiver, of_cell
from flagrelease.errors import ConfigError, NothingSelected, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A chip × model pair with its part of the matrix and the vendor's defaults."""

    chip_name: str
    """The chip's name in matrix.yaml."""
    model_name: str
    """The model's name in matrix.yaml."""
    chip: Chip
    """The chip, with the vendor's query command and options of `docker run` as the defaults, without its facts."""
    model: Model
    """The model with its settings for this chip."""
    stack: Stack
    """The stack that is released."""
    baseline: Baseline
    """The native evaluation that it is compared with; `same` is resolved."""
    profile_name: str
    """The profile's name in matrix.yaml."""
    profile: Profile
    """What is evaluated."""
    kernels: KernelSettings
    """The settings of its operators, with the vendor's device as the default."""
    excluded: str = ""
    """The reason of the rule that excludes it; empty if none does."""
    waivers: tuple[Waiver, ...] = ()
    """The waivers for it, expired ones included."""

    @property
    def id(self) -> str:
        """`CHIP/MODEL`, as on the command line and in all output."""
        return f"{self.chip_name}/{self.model_name}"

    @property
    def slug(self) -> str:
        """The id without a slash, for container names and lock files."""
        return f"{self.chip_name}--{self.model_name}"

    @property
    def wheels_entry(self) -> str:
        """The name of its packages in matrix.lock, shared by all images of a chip and engine."""
        return f"{self.chip_name}-{self.model.serve.engine}"

    @property
    def own_baseline(self) -> bool:
        """Whether the baseline is evaluated on the same chip."""
        return self.baseline.chip == self.chip_name

    @property
    def holds_both(self) -> bool:
        """Whether both stacks can run on the chip at the same time. By default a server uses all of an accelerator's
        memory; `serve.colocate` says that two fit."""
        return VENDORS[self.chip.vendor].on_host or self.model.serve.colocate


def expand(matrix: Matrix, *, profile: str | None = None) -> tuple[Cell, ...]:
    """All cells in the order of the matrix, including excluded ones. Raises ConfigError for an unknown `profile`."""
    if profile is not None:
        check_name(profile, matrix.profiles, "profile")
    chips = {name: _complete(chip) for name, chip in matrix.chips.items()}
    return tuple(
        _cell(matrix, chips[chip_name], chip_name, model_name, profile)
        for chip_name in matrix.chips
        for model_name in matrix.models
    )


def _complete(chip: Chip) -> Chip:
    """The chip with its vendor's defaults, and without its facts, which are no part of a release."""
    device = replace(chip.device, query=chip.device.query or shlex.join(VENDORS[chip.vendor].query))
    return replace(chip, device=device, container=chip.options(), facts={})


def _cell(matrix: Matrix, chip: Chip, chip_name: str, model_name: str, profile: str | None) -> Cell:
    model = matrix.models[model_name].on_chip(chip_name)
    own = matrix.models[model_name].per_chip.get(chip_name, OnChip())
    baseline = model.baseline or matrix.defaults.baseline
    if baseline.chip == "same":
        baseline = Baseline(chip=chip_name, stack=baseline.stack)
    excluded = next((rule.reason for rule in matrix.exclude if matches(rule, chip_name, model_name)), "")
    vendor, kernels = VENDORS[chip.vendor], own.kernels or chip.kernels or matrix.defaults.kernels
    profile_name = profile or own.profile or chip.profile or matrix.defaults.profile
    return Cell(
        chip_name=chip_name,
        model_name=model_name,
        chip=chip,
        model=model,
        stack=matrix.defaults.stack,
        baseline=baseline,
        profile_name=profile_name,
        profile=matrix.profiles[profile_name],
        kernels=replace(kernels, device=kernels.device or vendor.torch_device),
        excluded=excluded,
        waivers=of_cell(matrix.waivers, chip_name, model_name),
    )


def select(
    cells: Sequence[Cell],
    patterns: Sequence[str],
    chips: Sequence[str],
    models: Sequence[str],
    *,
    only_excluded: bool = False,
) -> list[Cell]:
    """The cells that match all given kinds of filters; all cells without a filter.

    `patterns` are cell ids or globs. Raises ConfigError for a name that matches no cell, NothingSelected if no cell
    is left or, without `only_excluded`, all that are left are excluded.
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
    if not only_excluded and all(cell.excluded for cell in chosen):
        lines = [f"{cell.id}: {cell.excluded}" for cell in chosen]
        raise NothingSelected(
            "all selected cells are excluded" if len(chosen) > 1 else f"{chosen[0].id} is excluded",
            why=chosen[0].excluded if len(chosen) == 1 else "",
            hint="remove the rule under `exclude` in matrix.yaml to release it",
            detail="\n".join(lines) if len(chosen) > 1 else "",
        )
    return chosen


def select_one(cells: Sequence[Cell], pattern: str, *, excluded: bool = False) -> Cell:
    """The cell that `pattern` names, which may be excluded with `excluded`. Raises the errors of `select`, and
    ConfigError if it matches several."""
    chosen = select(cells, [pattern], [], [], only_excluded=excluded)
    if len(chosen) > 1:
        names = ", ".join(cell.id for cell in chosen)
        raise ConfigError(f"{pattern!r} matches {len(chosen)} cells", why=names, hint="name one of them")
    return chosen[0]


def fingerprint(parts: Mapping[str, Any]) -> str:
    """The sha256 (hex) of `parts` in canonical form: equal fingerprints mean equal inputs."""
    canonical = msgspec.json.encode(parts, order="deterministic", enc_hook=_plain)
    return hashlib.sha256(canonical).hexdigest()


def plain(value: Any) -> Any:
    """`value` in JSON form: mappings, lists and scalars."""
    return msgspec.json.decode(msgspec.json.encode(value, order="deterministic", enc_hook=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be part of a key")
