"""Render Markdown templates; every value is escaped unless it is of type Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

_SPECIAL = re.compile(r"[\\`*\[\]{}~|]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_BLOCK = re.compile(r"^(?:[#=+-]|\d{1,9}(?=[.)](?:\s|$)))")
_BARE_LINK = re.compile(r"(?i)\b(https?|ftp|javascript|data|vbscript|file)(:)|\bwww(\.)")
_BACKTICKS = re.compile(r"`+")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


class Markdown(str):
    """Markdown text that is inserted into a page unescaped."""

    __slots__ = ()


def escape(value: object) -> Markdown:
    """One line of plain text: no markup, no link, no table border, no HTML, no control characters."""
    if isinstance(value, Markdown):
        return value
    line = " ".join(_CONTROL.sub("", str(value)).split())
    line = _SPECIAL.sub(lambda match: "\\" + match.group(), line)
    line = _BLOCK.sub(lambda match: f"{match.group()}\\" if match.group().isdigit() else f"\\{match.group()}", line)
    line = html.escape(line, quote=False)
    return Markdown(_BARE_LINK.sub(lambda m: m.group().replace(m.group(2) or m.group(3), f"&#{_code(m)};"), line))


def sentence(text: str) -> str:
    """The text with a full stop, unless it ends already."""
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."


def code(value: object) -> Markdown:
    """An inline code span that holds `value` on one line, also inside a table."""
    line = " ".join(_CONTROL.sub("", str(value)).split()).replace("|", r"\|")
    fence = "`" * (max((len(run) for run in _BACKTICKS.findall(line)), default=0) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return Markdown(f"{fence}{pad}{line}{pad}{fence}")


def fenced(value: object, language: str) -> Markdown:
    """A fenced code block that `value` cannot close."""
    body = _CONTROL.sub("", str(value)).strip("\n")
    fence = "`" * max(3, max((len(run) for run in _BACKTICKS.findall(body)), default=0) + 1)
    return Markdown(f"{fence}{language}\n{body}\n{fence}")


def table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> Markdown:
    """A table; cells are escaped, numeric columns are right-aligned."""
    cells = [[escape(cell) for cell in row] for row in rows]
    numeric = [
        bool(cells) and all(re.match(r"(\\?\[)?[-+−]?\d", row[at]) for row in cells) for at in range(len(header))
    ]
    rule = ["---:" if right else "---" for right in numeric]
    lines: list[Sequence[str]] = [[escape(cell) for cell in header], rule, *cells]
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def front_matter(fields: dict[str, Any]) -> Markdown:
    """YAML front matter between its two `---` lines."""
    import yaml

    body = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, default_flow_style=False, width=1000)
    return Markdown(f"---\n{body}---")


def environment(templates: Path) -> SandboxedEnvironment:
    """The environment of the templates in `templates`. Undefined names are errors, and every value is escaped."""
    from jinja2 import FileSystemLoader, StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    created = SandboxedEnvironment(
        loader=FileSystemLoader(templates),
        undefined=StrictUndefined,
        finalize=escape,
        autoescape=False,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    created.filters |= {"code": code, "fenced": fenced, "sentence": sentence}
    return created


def _code(match: re.Match[str]) -> int:
    return ord(match.group(2) or match.group(3))
