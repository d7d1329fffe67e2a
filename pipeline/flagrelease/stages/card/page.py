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
    """A fenced code block; `line` is that of its first fence."""

    line: int
    language: str
    body: str


@dataclass(frozen=True)
class Table:
    """A table: its first line, and the cells of every line as they are written, delimiter row included."""

    line: int
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Page:
    """A card, taken apart."""

    text: str
    record: Record
    images: Mapping[str, bytes]

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @cached_property
    def body_starts(self) -> int:
        """Index of the first line after the front matter; 0 when there is none."""
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
        """The first lines of fences that never end."""
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
        """Lines of paragraphs that were meant as tables."""
        return [
            _line(token) + at
            for token, text in pairwise(self._tokens)
            if token.type == "paragraph_open"
            for at, line in enumerate(text.content.split("\n"))
            if line.startswith("|")
        ]

    @cached_property
    def inline(self) -> list[tuple[int, Token]]:
        """(line number, token) of all that is in paragraphs, headings and cells, and blocks of HTML."""
        return [one for token in self._tokens for one in _parts(token)]

    @cached_property
    def prose(self) -> list[tuple[int, str]]:
        """(line number, text) of what is read as text; code spans are blanked out, escapes stay as they are written."""
        found: dict[int, str] = {}
        for token in self._tokens:
            if _line(token) in found:
                found[_line(token)] += " "  # cells of one line are apart
            for number, part in _parts(token):
                found[number] = found.get(number, "") + _written(part)
        return list(found.items())

    @cached_property
    def _tokens(self) -> list[Token]:
        from markdown_it import MarkdownIt

        parser = MarkdownIt("commonmark").enable("table").disable("text_join")  # escapes stay apart from text
        # Links are judged here, as they are written: a parser that refuses one would show it as text.
        parser.validateLink = lambda _url: True  # type: ignore[assignment, method-assign]
        parser.normalizeLink = lambda url: url  # type: ignore[method-assign]
        return parser.parse("\n" * self.body_starts + "\n".join(self.lines[self.body_starts :]))

    def _closed(self, fence: Token) -> bool:
        first, end = fence.map or (0, 0)
        return end - first > 1 and re.fullmatch(rf"\s*{fence.markup}`*\s*", self.lines[end - 1]) is not None


def _line(token: Token) -> int:
    return token.map[0] + 1 if token.map else 1


def _parts(token: Token) -> Iterator[tuple[int, Token]]:
    """(line number, token) of what a block holds."""
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
