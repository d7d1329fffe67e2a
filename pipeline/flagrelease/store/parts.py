"""The parts of a stage's key, kept apart so that a changed key can be explained. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from flagrelease.redact import redact, secret

Kind = Literal["input", "code", "template", "result"]

_SHORT = 100
"""Longer values are kept by their digest. A digest with its algorithm is shorter."""
_SHOWN_DIGITS = 12
_SHOWN = 4
"""Changes in a line of text."""


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """An input that is too long to keep, or a secret."""

    sha256: str
    """Of its JSON."""


Value = str | int | float | bool | Hidden | None


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a key was made from."""

    inputs: Mapping[str, Value] = field(default_factory=dict)
    """By dotted path into the stage's inputs."""
    code: Mapping[str, str] = field(default_factory=dict)
    """By module, digests of the definitions that the stage reaches there."""
    templates: Mapping[str, str] = field(default_factory=dict)
    """By file name, the sha256."""
    results: Mapping[str, str] = field(default_factory=dict)
    """By stage that is read, the key of its result."""


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Somebody's word that changed code cannot change a stage's result, so that an earlier one counts."""

    stage: str
    from_key: str
    """The key that the result was made with, under which it goes on to count."""
    to_key: str
    """The key that the stage has with the changed code. Under any other key the word does not hold."""
    reason: str
    by: str
    """The user's name."""
    at: str
    """ISO 8601, UTC."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One part that differs."""

    kind: Kind
    name: str
    before: Value = None
    after: Value = None

    def __str__(self) -> str:
        match self.kind:
            case "input":
                return redact(_in_words(self))
            case "code":
                return f"code of {self.name}"
            case "template":
                return f"template {self.name}"
            case "result":
                return f"result of {self.name}"


def flat(inputs: Any, path: str = "") -> Iterator[tuple[str, Value]]:
    """Each value of a plain mapping by its dotted path. A list is one value."""
    if isinstance(inputs, Mapping) and inputs:
        for name, value in inputs.items():
            yield from flat(value, f"{path}.{name}" if path else str(name))
    else:
        yield path, _kept(inputs, path)


def _kept(value: Any, path: str) -> Value:
    scalar = value if isinstance(value, str | int | float | bool | None) else msgspec.json.encode(value).decode()
    text = str(scalar)
    if len(text) > _SHORT or secret(path.rpartition(".")[2]) or redact(text) != text:
        return Hidden(sha256=_digest(scalar))
    return scalar


def _digest(value: Value) -> str:
    """The same for a value and for what is kept of it: which names are secret may change with the environment."""
    return value.sha256 if isinstance(value, Hidden) else hashlib.sha256(msgspec.json.encode(value)).hexdigest()


def changes(before: Parts, after: Parts) -> tuple[Change, ...]:
    """What differs, inputs first. A module that was renamed or moved with equal definitions is no change."""
    return (
        *_changed("input", before.inputs, after.inputs),
        *_changed("template", before.templates, after.templates),
        *_changed("result", before.results, after.results),
        *_changed_code(before.code, after.code),
    )


def _changed(kind: Kind, before: Mapping[str, Value], after: Mapping[str, Value]) -> tuple[Change, ...]:
    return tuple(
        Change(kind=kind, name=name, before=before.get(name), after=after.get(name))
        for name in dict.fromkeys((*after, *before))
        if (name in before) != (name in after) or _digest(before[name]) != _digest(after[name])
    )


def _changed_code(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Change, ...]:
    """Modules whose own definitions differ; where there are none, those that name other definitions than before."""

    def own(digests: Mapping[str, str]) -> dict[str, str]:
        return {name: digest.partition("-")[0] for name, digest in digests.items()}

    for old, new in ((own(before), own(after)), (before, after)):
        found = _changed("code", old, new)
        gone = {str(one.before) for one in found if one.after is None}
        come = {str(one.after) for one in found if one.before is None}
        moved = gone & come
        if left := tuple(one for one in found if not {str(one.before), str(one.after)} & moved):
            return left
    return ()


def in_line(found: tuple[Change, ...]) -> str:
    """The changes in a line; many are counted."""
    shown = found if len(found) <= _SHOWN else found[: _SHOWN - 1]
    rest = len(found) - len(shown)
    return "; ".join([*map(str, shown), *([f"… and {rest} more"] if rest else [])])


def _in_words(change: Change) -> str:
    before, after = _short(change.before), _short(change.after)
    if isinstance(change.before, Hidden) or isinstance(change.after, Hidden):
        return change.name
    return f"{change.name} {before} → {after}"


def _short(value: Value) -> str:
    if value is None:
        return "none"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    algorithm, colon, digest = text.rpartition("sha256:")
    if colon and len(digest) > _SHOWN_DIGITS and all(digit in "0123456789abcdef" for digit in digest):
        return f"{algorithm}sha256:{digest[:_SHOWN_DIGITS]}…"
    return text or '""'
