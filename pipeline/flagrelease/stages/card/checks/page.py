"""Parse a card into lines, code blocks, commands, headings, tables and prose."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from flagrelease.stages.card.checks import shell

if TYPE_CHECKING:
    from markdown_it.token import Token

    from flagrelease.stages.card.record import Record


CHINESE = re.compile(r"[\u3000-\u303f\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]")
_IMPORT = re.compile(r"(?m)^(import \w+|from [\w.]+ import )")


@dataclass(frozen=True)
class Block:
    """A fenced code block."""

    line: int
    """Line of the opening fence, from 1."""
    language: str
    """As the fence names it."""
    body: str
    """The code, without a final newline."""

    @property
    def kind(self) -> str:
        """What the code is: Python in a block of another language is Python."""
        if self.language in ("sh", "shell", "bash", "console", "") and _IMPORT.search(self.body) and _parses(self.body):
            return "python"
        return {"sh": "bash", "shell": "bash", "py": "python"}.get(self.language, self.language)


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
    """The card as Markdown."""
    record: Record | None
    """The record that it was rendered from; None for a card from elsewhere."""
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
    def front_matter(self) -> dict[str, object] | str:
        """The fields of the front matter, or what is wrong with it."""
        import yaml

        if not self.body_starts:
            return "no front matter between two lines of ---"
        try:
            fields = yaml.safe_load("\n".join(self.lines[1 : self.body_starts - 1]))
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2026-13-45
            return f"the front matter is not YAML: {str(error).splitlines()[0]}"
        return fields if isinstance(fields, dict) else "the front matter is not a mapping"

    @cached_property
    def blocks(self) -> list[Block]:
        return [
            Block(line=_line(token), language=token.info.strip(), body=token.content.removesuffix("\n"))
            for token in self._tokens
            if token.type == "fence" and self._closed(token)
        ]

    @cached_property
    def unclosed(self) -> list[int]:
        """Lines of opening fences that are never closed, or only by the end of another block."""
        return [
            _line(token)
            for token in self._tokens
            if token.type == "fence" and not (self._closed(token) and not _opens_another(token))
        ]

    @cached_property
    def commands(self) -> list[shell.Command]:
        """The commands of all shell blocks that can be split into words."""
        found: list[shell.Command] = []
        for block in self.blocks:
            if block.kind == "bash":
                try:
                    found += shell.commands(block.body, block.line + 1)
                except ValueError:
                    continue  # the check of code blocks reports it
        return found

    @cached_property
    def chinese(self) -> bool:
        """Whether the card is written in Chinese."""
        text = "".join(line for _, line in self.prose)
        return 10 * len(CHINESE.findall(text)) > sum(character.isalpha() for character in text)

    @cached_property
    def paragraphs(self) -> list[tuple[int, bool, str]]:
        """(number of the last line, whether it is the item of a list, text) of every paragraph."""
        depth, found = 0, []
        for token, text in pairwise(self._tokens):
            depth += {"list_item_open": 1, "list_item_close": -1}.get(token.type, 0)
            if token.type == "paragraph_open" and token.map:
                words = "".join(
                    _written(child) or " " * (child.type == "softbreak")
                    for child in text.children or ()
                    if child.type != "image"
                )
                found.append((token.map[1], depth > 0, words.strip()))
        return found

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
    def targets(self) -> list[str]:
        """The targets of all links and pictures."""
        found = [token.attrGet("src") or token.attrGet("href") for _, token in self.inline]
        return [str(target) for target in found if target]

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


def _opens_another(fence: Token) -> bool:
    return any(re.fullmatch(rf"\s*{fence.markup}[a-z]+\s*", line) for line in fence.content.splitlines())


def syntax_tree(text: str) -> ast.Module:
    """The syntax tree of Python code. Raises SyntaxError whatever is wrong with it."""
    try:
        return ast.parse(text)
    except (ValueError, RecursionError, MemoryError) as error:  # a null byte, or brackets nested too deeply
        raise SyntaxError(str(error) or type(error).__name__) from None


def _parses(text: str) -> bool:
    try:
        syntax_tree(text)
    except SyntaxError:
        return False
    return True


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
