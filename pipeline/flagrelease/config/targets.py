"""The table of kinds of targets: where a release can be published, as matrix.yaml writes it. Pure.

A new kind is an entry of TARGETS and a publisher in stages/publish/targets/ with an entry of PUBLISHERS there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from flagrelease.config import names
from flagrelease.config.strict_yaml import Checked, FieldError, check_name

_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_OWNER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9]|[._-](?=[A-Za-z0-9])){0,95}")
_HOST = r"[A-Za-z0-9.-]+(:[0-9]+)?"


@dataclass(frozen=True, kw_only=True)
class TargetKind:
    """One kind of target."""

    form: str
    """How its places are written in matrix.yaml, for hints."""
    pattern: re.Pattern[str]
    """Matches a place completely."""
    name: str
    """The template of a release's name at a place, unless the matrix has another."""
    needs_tls: bool = False
    """Whether the matrix may name a certificate authority (`ca`)."""


TARGETS: Mapping[str, TargetKind] = {
    "folder": TargetKind(form="/FOLDER", pattern=re.compile(r"/[^\0\n]*"), name="{chip}/{model}"),
    "huggingface": TargetKind(form="ACCOUNT-OR-ORGANISATION", pattern=_OWNER, name=names.HUB),
    "modelscope": TargetKind(form="ACCOUNT-OR-ORGANISATION", pattern=_OWNER, name=names.HUB),
    "registry": TargetKind(
        form="HOST[:PORT]/PREFIX",
        pattern=re.compile(rf"{_HOST}(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)+"),
        name=names.SHORT,
        needs_tls=True,
    ),
}

_KIND = Checked(lambda name: check_name(name, TARGETS, "kind of target"))
_TEMPLATE = Checked(names.check)


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where releases are published, in addition to the registry of the releases."""

    kind: Annotated[str, _KIND]
    """A key of TARGETS."""
    to: str
    """The place of releases that passed, in the form of the kind."""
    private: str = ""
    """The place of those that did not; empty: they are not sent there."""
    name: Annotated[str, _TEMPLATE] | None = None
    """The template of a release's name there, instead of the kind's."""
    ca: str = ""
    """The PEM file of the authority that signed the registry's certificate, if it is a private one."""

    def __post_init__(self) -> None:
        kind = TARGETS[self.kind]
        for field in ("to", "private"):
            place: str = getattr(self, field)
            if (place or field == "to") and not kind.pattern.fullmatch(place):
                raise FieldError(f"is {place!r}, which is not a place of kind {self.kind}: write {kind.form}", field)
        if self.private and self.private.rstrip("/") == self.to.rstrip("/"):
            raise FieldError("is the place of releases that passed, where everybody looks; write another", "private")
        if self.ca and not kind.needs_tls:
            raise FieldError(f"is not used by kind {self.kind}", "ca")
        if self.ca and not self.ca.startswith("/"):
            raise FieldError(f"is {self.ca!r}, which is not an absolute path", "ca")

    @property
    def template(self) -> str:
        """The template of a release's name."""
        return self.name or TARGETS[self.kind].name

    def place(self, *, private: bool) -> str:
        """Where a release goes; empty if nowhere."""
        return (self.private if private else self.to).rstrip("/")


def check_names(repository: str, targets: Mapping[str, Target], cells: Mapping[str, Mapping[str, str]]) -> None:
    """Raise FieldError for a target without a proper name, and if two cells have the same name in the registry of the
    releases or at a target: their releases would take turns in being the latest one. `cells` are the fields of names by
    cell."""
    _check_distinct(repository, cells, "repository")
    for name, target in targets.items():
        if not _NAME.fullmatch(name):
            raise FieldError("is not a name: write lower-case letters, digits and single . _ -", "targets", name)
        _check_distinct(target.template, cells, "targets", name, *(["name"] if target.name else []))


def _check_distinct(template: str, cells: Mapping[str, Mapping[str, str]], *path: str) -> None:
    taken: dict[str, str] = {}
    for cell, fields in cells.items():
        name = names.render(template, {**dict.fromkeys(names.FIELDS, "x"), **fields})
        if name in taken:
            raise FieldError(
                f"gives {taken[name]} and {cell} the same name, {name!r}: add {{chip}} or {{model}}", *path
            )
        taken[name] = cell
