"""Waivers: known shortcomings with which cells are released all the same. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date

from flagrelease.config.globs import check_globs, matches
from flagrelease.config.strict_yaml import FieldError
from flagrelease.config.value_types import Date, Line
from flagrelease.errors import ConfigError, did_you_mean

SPEED_GATE = "speed"
"""The gate of a waiver that is not a benchmark."""


@dataclass(frozen=True, kw_only=True)
class Waiver:
    """A known shortcoming with which cells are released all the same, until a day."""

    chip: str
    """A name or a glob."""
    model: str
    """A name or a glob."""
    gate: str
    """`speed`, or the benchmark whose verdict does not withhold the release."""
    reason: Line
    """Shown on the card and in the index."""
    owner: Line
    """Who sees to it that it is not needed any more."""
    until: Date
    """The last day on which it holds. After it, the cells are not run until it is renewed or removed."""


def check_matches(
    waivers: Iterable[Waiver], chips: Collection[str], models: Collection[str], benchmarks: Collection[str]
) -> None:
    """Raise FieldError for a waiver that matches no cell, or whose gate there is not: a mistake in a name."""
    gates = (SPEED_GATE, *benchmarks)
    for index, rule in enumerate(waivers):
        check_globs(rule, chips, models, "waivers", index)
        if rule.gate not in gates:
            hint = did_you_mean(rule.gate, gates)
            raise FieldError(f"is {rule.gate!r}, not {SPEED_GATE} or a benchmark; {hint}", "waivers", index, "gate")


def of_cell(waivers: Iterable[Waiver], chip: str, model: str) -> tuple[Waiver, ...]:
    """The waivers for a cell, expired ones included."""
    return tuple(rule for rule in waivers if matches(rule, chip, model))


def check_days(waivers: Iterable[Waiver], today: str) -> None:
    """Raise ConfigError for a waiver that no longer holds on the day `today` (YYYY-MM-DD)."""
    for waiver in waivers:
        if date.fromisoformat(waiver.until) < date.fromisoformat(today):
            raise ConfigError(
                f"the waiver of {waiver.gate} for {waiver.chip}/{waiver.model} expired on {waiver.until}",
                why=f"{waiver.reason} (owner: {waiver.owner})",
                hint="remove it under `waivers` in matrix.yaml, or renew it with a reason that holds today",
            )
