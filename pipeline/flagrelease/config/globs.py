"""Rules of matrix.yaml that name cells by globs. Pure."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection
from typing import Protocol

from flagrelease.config.strict_yaml import FieldError
from flagrelease.errors import did_you_mean

__all__ = ["CellRule", "check_globs", "matches"]


class CellRule(Protocol):
    """A rule for the cells whose chip and model match."""

    @property
    def chip(self) -> str:
        """A name or a glob."""
        ...

    @property
    def model(self) -> str:
        """A name or a glob."""
        ...


def matches(rule: CellRule, chip: str, model: str) -> bool:
    """Whether the rule is for this cell."""
    return fnmatch.fnmatchcase(chip, rule.chip) and fnmatch.fnmatchcase(model, rule.model)


def check_globs(rule: CellRule, chips: Collection[str], models: Collection[str], section: str, index: int) -> None:
    """Raise FieldError for a rule that matches no chip or no model: a mistake in a name."""
    for kind, pattern, names in (("chip", rule.chip, chips), ("model", rule.model, models)):
        if not fnmatch.filter(names, pattern):
            text = f"is {pattern!r}, which matches no {kind}"
            raise FieldError(f"{text}; {did_you_mean(pattern, names)}", section, index, kind)
