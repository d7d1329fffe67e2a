"""docs/matrix.md has every key of matrix.yaml with its default, and stanzas that work."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flagrelease.config import strict_yaml
from flagrelease.config.matrix import Matrix
from flagrelease.errors import ConfigError

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/matrix.md").read_text()


def part(kind: Any) -> type[Any] | None:
    """The dataclass in the type of a key, such as a mapping or a list of it."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return kind
    return next((found for one in typing.get_args(kind) if (found := part(one))), None)


def parts(kind: type[Any]) -> Iterator[type[Any]]:
    """The dataclass and all that its keys have."""
    yield kind
    for hint in typing.get_type_hints(kind).values():
        if (below := part(hint)) is not None:
            yield from parts(below)


def default(field: dataclasses.Field[Any]) -> str:
    """The default of a key, as the page writes it."""
    if field.default_factory is not dataclasses.MISSING:
        return "none" if field.default_factory in (dict, tuple) else "see there"
    if field.default is dataclasses.MISSING:
        return "required"
    if field.default in (None, "", ()):
        return "none"
    value = field.default[0] if isinstance(field.default, tuple) else field.default
    text = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
    return f"`{text}`"


def documented() -> dict[str, list[tuple[str, str]]]:
    """By the name of a dataclass, the keys and defaults on the page."""
    sections = re.findall(r"(?m)^<!-- (\w+) -->\n((?:(?!#).*\n)*)", PAGE)
    return {name: re.findall(r"(?m)^\| `(\w+)` \| (\S.*?) \| ", text) for name, text in sections}


def test_the_page_has_every_key_with_its_default() -> None:
    kinds = {kind.__name__: [(f.name, default(f)) for f in dataclasses.fields(kind)] for kind in parts(Matrix)}
    assert documented() == kinds


def stanzas() -> dict[str, str]:
    """The minimal stanzas, by the key of the file under which they go."""
    blocks = re.findall(r"(?ms)^```yaml\n(\w+):\n(.*?)^```", PAGE)
    assert {key for key, _ in blocks} == {"chips", "models"}
    return dict(blocks)


def with_stanzas(stanzas: dict[str, str]) -> bytes:
    text = (ROOT / "templates/matrix.yaml").read_text()
    for key, stanza in stanzas.items():
        text = text.replace(f"\n{key}:\n", f"\n{key}:\n{stanza}")
    return text.encode()


def test_the_minimal_stanzas_are_complete_and_minimal() -> None:
    matrix = strict_yaml.loads(with_stanzas(stanzas()), Matrix)
    assert len(matrix.chips) == len(matrix.models) == 2
    for key, stanza in stanzas().items():
        lines = stanza.splitlines(keepends=True)
        for number in range(1, len(lines)):
            shorter = "".join(lines[:number] + lines[number + 1 :])
            with pytest.raises(ConfigError, match="lacks"):
                strict_yaml.loads(with_stanzas({**stanzas(), key: shorter}), Matrix)
