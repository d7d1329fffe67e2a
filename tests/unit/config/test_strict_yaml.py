"""Strict YAML: what is written is read back, and anything else is one error with its line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flagrelease.config.strict_yaml import loads
from flagrelease.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A part of the document."""

    text: str
    flag: bool = False


@dataclass(frozen=True, kw_only=True)
class Document:
    """A document with each kind of value."""

    name: str
    count: int = 0
    share: float = 0.0
    list: tuple[str, ...] = ()
    parts: Mapping[str, Inner] = field(default_factory=dict)


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=12)
NAMES = st.text(alphabet="abcdefghij-", min_size=1, max_size=6).filter(lambda text: text.strip("-") == text)
INNER = st.builds(Inner, text=TEXT, flag=st.booleans())
DOCUMENTS = st.builds(
    Document,
    name=TEXT,
    count=st.integers(-(10**17), 10**17),
    share=st.floats(-1e6, 1e6).map(lambda value: round(value, 3)),
    list=st.lists(TEXT, max_size=3).map(tuple),
    parts=st.dictionaries(NAMES, INNER, max_size=3),
)


def written(document: Document) -> bytes:
    """The document in YAML's flow style, with its texts quoted as JSON quotes them."""
    parts = {
        name: f"{{text: {json.dumps(inner.text, ensure_ascii=False)}, flag: {str(inner.flag).lower()}}}"
        for name, inner in document.parts.items()
    }
    lines = [
        f"name: {json.dumps(document.name, ensure_ascii=False)}",
        f"count: {document.count}",
        f"share: {document.share}",
        f"list: [{', '.join(json.dumps(one, ensure_ascii=False) for one in document.list)}]",
        f"parts: {{{', '.join(f'{name}: {part}' for name, part in parts.items())}}}",
    ]
    return "\n".join(lines).encode()


@given(DOCUMENTS)
def test_what_is_written_is_read_back(document: Document) -> None:
    assert loads(written(document), Document) == document


PIECES = [
    "name",
    "count",
    "share",
    "list",
    "parts",
    ": ",
    ":",
    "- ",
    "\n",
    "  ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "'",
    '"',
    "#",
]
PIECES += [
    "no",
    "1.50",
    "0x10",
    "~",
    "|",
    ">",
    "&a",
    "*a",
    "!!int",
    "%",
    "@",
    "\t",
    "\x00",
    "\u2028",
    "é",
    "a",
    "7",
    "---",
]


@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join) | st.text(max_size=30))
@example("name: a\nname: b")
@example("? [a]\n: b")
def test_any_text_is_a_document_or_one_error_with_its_place(text: str) -> None:
    raw = text.encode("utf-8", "surrogatepass")
    try:
        document = loads(raw, Document)
    except ConfigError as error:
        refused = error.what
    else:
        assert loads(written(document), Document) == document
        return
    line = re.match(r"matrix\.yaml(?::(\d+):)? ", refused)
    assert line is not None
    assert 0 < int(line[1] or 1) <= 1 + len(re.split(r"\r\n|[\n\r\x85\u2028\u2029]", text))


@pytest.mark.parametrize("scalar", ["no", "1", "1.5", "2024-01-01", "~", "null", "true"])
def test_a_scalar_of_another_type_is_not_converted(scalar: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(f"name: x\nlist: [{scalar}]\nshare: 'text'".encode(), Document)
    assert re.match(r"matrix\.yaml:[23]", caught.value.what)


@dataclass(frozen=True, kw_only=True)
class Stanza:
    """Required keys at several depths."""

    name: str
    inner: Inner
    more: Inner | None = None
    each: tuple[Inner, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Stanzas:
    """Several stanzas."""

    title: str
    all: Mapping[str, Stanza]


def test_all_missing_keys_are_reported_at_once() -> None:
    text = b"""all:
  one: {}
  two: {name: x, inner: {flag: true},
    more: {}, each: [{text: t}, {}]}
  three: {name: x, inner: {text: t}}
"""
    with pytest.raises(ConfigError) as caught:
        loads(text, Stanzas)
    assert caught.value.what == (
        "matrix.yaml:1: the file lacks 'title'; all.one lacks 'name', 'inner' (line 2); all.two.inner lacks 'text' "
        "(line 3); all.two.more lacks 'text' (line 4); all.two.each[1] lacks 'text' (line 4)"
    )
    assert "docs/matrix.md" in caught.value.hint


def test_a_misspelt_key_is_named_before_the_missing_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        loads(b"titel: x\nall: {one: {}}", Stanzas)
    assert (caught.value.what, caught.value.hint) == ("matrix.yaml:1: unknown key 'titel'", "did you mean 'title'?")


@pytest.mark.parametrize(
    ("text", "line", "what", "hint"),
    [
        (b"name: x\n\tcount: 1", 2, "a tab, with which YAML does not indent", "indent with blanks"),
        (b"parts:\n\tone: {text: t}", 2, "a tab, with which YAML does not indent", "indent with blanks"),
        (b"name: x\nlist: [a", 3, "did not find expected", "brackets of this line and of the one before"),
    ],
)
def test_bad_syntax_has_a_hint(text: bytes, line: int, what: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text, Document)
    assert caught.value.what.startswith(f"matrix.yaml:{line}: {what}")
    assert hint in caught.value.hint
