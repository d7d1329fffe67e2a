"""Parse a rendered card into lines, code blocks, headings, tables and prose."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it.token import Token

    from flagrelease.stages.card.record import Record


@dataclass(frozen=True)
class Block:
    """A fenced code block."""

    line: int
    """Line of the opening fence, from 1."""
    language: str
    body: str


@dataclass(frozen=True)
class Table:
    """A Markdown table."""

    line: int
    """Line of the header, from 1."""
    rows: tuple[tuple[str, ...], ...]
    """The source text of the cells, row by row, delimiter row included."""


@dataclass(frozen=True)
class Page:
    """A parsed card, with the record and the images that it is checked against."""

    text: str
    record: Record
    images: Mapping[str, bytes]
    """The files next to the card, by name."""

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @cached_property
    def body_starts(self) -> int:
        """Index of the first line after the front matter; 0 without front matter."""
        if self.lines[:1] != ["---"]:
            return 0
        return next((at + 1 for at, line in enumerate(self.lines[1:], 1) if line == "---"), 0)

    @cached_property
    def blocks(self) -> list[Block]:
        return [
            Block(line=_line(token), language=token.info.strip(), body=token.content.removesuffix("\n"))
            for token in self._tokens
            if token.type == "fence" and self._closed(token)
        ]

    @cached_property
    def unclosed(self) -> list[int]:
        """Lines of opening fences that are never closed."""
        return [_line(token) for token in self._tokens if token.type == "fence" and not self._closed(token)]

    @cached_property
    def headings(self) -> list[tuple[int, int, str]]:
        """(line number, level, text)."""
        return [
            (_line(token), int(token.tag[1:]), text.content)
            for token, text in pairwise(self._tokens)
            if token.type == "heading_open"
        ]

    @cached_property
    def tables(self) -> list[Table]:
        return [
            Table(_line(token), tuple(map(_cells, self.lines[slice(*token.map)])))
            for token in self._tokens
            if token.type == "table_open" and token.map
        ]

    @cached_property
    def torn_tables(self) -> list[int]:
        """Paragraph lines that start with `|`: tables that do not parse."""
        return [
            _line(token) + at
            for token, text in pairwise(self._tokens)
            if token.type == "paragraph_open"
            for at, line in enumerate(text.content.split("\n"))
            if line.startswith("|")
        ]

    @cached_property
    def inline(self) -> list[tuple[int, Token]]:
        """(line number, token) of every inline element of paragraphs, headings and cells, and of HTML blocks."""
        return [part for token in self._tokens for part in _parts(token)]

    @cached_property
    def prose(self) -> list[tuple[int, str]]:
        """(line number, text) of the prose; code spans are blanked out, escapes are kept as written."""
        texts: dict[int, str] = {}
        for token in self._tokens:
            if _line(token) in texts:
                texts[_line(token)] += " "  # separate the cells of a row
            for number, part in _parts(token):
                texts[number] = texts.get(number, "") + _written(part)
        return list(texts.items())

    @cached_property
    def _tokens(self) -> list[Token]:
        from markdown_it import MarkdownIt

        parser = MarkdownIt("commonmark").enable("table").disable("text_join")  # keep escapes separate from text
        # The lint checks links as written: a parser that rejects one would turn it into text.
        parser.validateLink = lambda _url: True  # type: ignore[assignment, method-assign]
        parser.normalizeLink = lambda url: url  # type: ignore[method-assign]
        return parser.parse("\n" * self.body_starts + "\n".join(self.lines[self.body_starts :]))

    def _closed(self, fence: Token) -> bool:
        first, end = fence.map or (0, 0)
        return end - first > 1 and re.fullmatch(rf"\s*{fence.markup}`*\s*", self.lines[end - 1]) is not None


def _line(token: Token) -> int:
    return token.map[0] + 1 if token.map else 1


def _parts(token: Token) -> Iterator[tuple[int, Token]]:
    """(line number, token) of the contents of a block."""
    number = _line(token)
    if token.type == "html_block":
        yield number, token
    for child in token.children or ():
        yield number, child
        number += child.type in ("softbreak", "hardbreak")


def _written(token: Token) -> str:
    match token.type:
        case "code_inline":
            return "`code`"
        case "text_special":
            return token.markup
        case _:
            return token.content


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|")))
