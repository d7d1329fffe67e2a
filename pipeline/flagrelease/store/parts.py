"""The separate inputs of a stage's key, recorded so that a changed key can be explained. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from flagrelease.redact import redact, secret, secret_variables
from flagrelease.store.digests import sha256_of

Kind = Literal["input", "code", "template", "result"]

_SHORT = 100
"""Longest value (characters) that is recorded as is; longer ones are recorded by digest. `sha256:HEX` fits."""
_SHOWN_DIGITS = 12
"""Digits of a digest that are shown."""
_SHOWN = 4
"""The most changes listed in a line of text."""


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """The digest of an input that is a secret or too long to record."""

    sha256: str
    """Of its JSON, 64 hex digits."""


Value = str | int | float | bool | Hidden | None


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The inputs of a key."""

    inputs: Mapping[str, Value] = field(default_factory=dict)
    """Values by dotted path into the stage's inputs."""
    code: Mapping[str, str] = field(default_factory=dict)
    """By module, the digest of the definitions that the stage reaches in it."""
    templates: Mapping[str, str] = field(default_factory=dict)
    """sha256 (hex) by file name."""
    results: Mapping[str, str] = field(default_factory=dict)
    """By stage that is read, the key of its result (hex)."""


@dataclass(frozen=True, kw_only=True)
class Keep:
    """A user's statement that a code change cannot affect a stage's result, so that the earlier result counts."""

    stage: str
    """The stage's name."""
    from_key: str
    """The key of the earlier result."""
    to_key: str
    """The key of the stage with the changed code. The statement holds for no other key."""
    reason: str
    """Why the change has no effect, in the user's words."""
    by: str
    """The user's name."""
    at: str
    """ISO 8601, UTC."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One input that differs between two keys."""

    kind: Kind
    """The kind of input."""
    name: str
    """The dotted path, module, file or stage."""
    before: Value = None
    """Its earlier value; none if it was added."""
    after: Value = None
    """Its new value; none if it was removed."""

    def __str__(self) -> str:
        match self.kind:
            case "input":
                return redact(_in_words(self))
            case "code":
                return f"code of {self.name}"
            case "template":
                return f"template {self.name}"
            case "result":
                return f"key of {self.name}"


def flat(inputs: Any) -> Iterator[tuple[str, Value]]:
    """The values of a nested mapping by dotted path. A list counts as one value."""
    return _flat(inputs, "", secret_variables())


def _flat(inputs: Any, path: str, env: Mapping[str, str]) -> Iterator[tuple[str, Value]]:
    if isinstance(inputs, Mapping) and inputs:
        for name, value in inputs.items():
            yield from _flat(value, f"{path}.{name}" if path else str(name), env)
    else:
        yield path, _recorded(inputs, path, env)


def _recorded(value: Any, path: str, env: Mapping[str, str]) -> Value:
    scalar = value if isinstance(value, str | int | float | bool | None) else msgspec.json.encode(value).decode()
    text = str(scalar)
    if len(text) > _SHORT or secret(path.rpartition(".")[2]) or redact(text, env) != text:
        return Hidden(sha256=_digest(scalar))
    return scalar


def _digest(value: Value) -> str:
    """Equal for a value and its Hidden form: which values are secret may change with the environment."""
    return value.sha256 if isinstance(value, Hidden) else sha256_of(msgspec.json.encode(value))


def changes(before: Parts, after: Parts) -> tuple[Change, ...]:
    """The inputs that differ. A module that was renamed or moved with equal definitions does not count."""
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
    """Modules whose own definitions differ; if there are none, those whose referenced definitions differ."""

    def own(digests: Mapping[str, str]) -> dict[str, str]:
        return {name: digest.partition("-")[0] for name, digest in digests.items()}

    for old, new in ((own(before), own(after)), (before, after)):
        changed = _changed("code", old, new)
        removed = {str(change.before) for change in changed if change.after is None}
        added = {str(change.after) for change in changed if change.before is None}
        moved = removed & added
        if edited := tuple(change for change in changed if not {str(change.before), str(change.after)} & moved):
            return edited
    return ()


def in_line(differences: tuple[Change, ...]) -> str:
    """The changes in one line of text; beyond the first few, only their number."""
    shown = differences if len(differences) <= _SHOWN else differences[: _SHOWN - 1]
    more = len(differences) - len(shown)
    return "; ".join([*map(str, shown), *([f"… and {more} more"] if more else [])])


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
