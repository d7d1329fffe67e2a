"""Extract the answer from free text. Every function expects text without thinking."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator

__all__ = ["bold", "boxed", "integer", "letter", "listed", "marked", "plain", "tagged"]

_MARK = re.compile(
    r"(?:\*\*)?\b(?:answer|(?:correct|right|best) (?:option|choice))\b(?:\*\*)?\s*(?:is|[:=])\s*:?", re.IGNORECASE
)
_BRACE = re.compile(r"\\f?box(?:ed)?\s*\{|\\[{}]|[{}]")
_SINGLE = re.compile(r"^(?:[\s*_($\[{\\`'\"]|(?:f?box(?:ed)?|text(?:bf)?|math(?:bf|rm))\{)*([A-Z])(?![A-Za-z])")
_HEDGE = re.compile(r"[\s)*]*(?:,|/|&|or\b|and\b)\s*[(*]*[A-Z](?=[.,;:)*$\]}]|\s*$)")
_NUMBER = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|[-+]?\d+(?:\.\d+)?")


def boxed(text: str) -> str | None:
    r"""The content of the last complete `\boxed{…}` or `\fbox{…}`, braces balanced."""
    return next((content for _, content in _boxes(text)), None)


def _boxes(text: str) -> Iterator[tuple[int, str]]:
    """(start, content) of each complete box, the last first, in linear time: a looping model opens thousands."""
    spans: list[tuple[int, int, int]] = []
    open_: list[re.Match[str]] = []
    for match in _BRACE.finditer(text):
        if match[0] != "\\{" and match[0].endswith("{"):
            open_.append(match)
        elif match[0] == "}" and open_:
            opening = open_.pop()
            if len(opening[0]) > 1:
                spans.append((opening.start(), opening.end(), match.start()))
    for start, inner, end in sorted(spans, reverse=True):
        yield start, text[inner:end].strip()


def marked(text: str) -> str | None:
    """The text after the last "Answer:" or "the answer is", up to the end of its line."""
    return next((line or None for _, line in _marks(text)), None)


def _marks(text: str) -> Iterator[tuple[int, str]]:
    """(start, following text) of each mark, the last one first."""
    for match in reversed(list(_MARK.finditer(text))):
        yield match.start(), text[match.end() :].strip().partition("\n")[0].strip()


def letter(text: str, choices: str) -> str | None:
    """The letter chosen, one of `choices` ("ABCD"): the last one boxed or marked, or alone on the last or first line.

    Two letters at once ("A or B") are not an answer. Models repeat the requested form ("Answer: LETTER") and change
    their mind, so the last mark with a letter counts.
    """
    for _, candidate in heapq.merge(_boxes(text), _marks(text), reverse=True):
        match = _SINGLE.match(candidate)
        if match is not None and match[1] in choices:
            return None if _HEDGE.match(candidate, match.end()) else match[1]
    lines = [line for line in text.strip().splitlines() if line.strip()]
    for line in (*lines[-1:], *lines[:1]):
        match = _SINGLE.match(line)
        # "A good choice …" starts with a letter but does not choose one.
        if match and match[1] in choices and re.fullmatch(r"[ )*_.:}$\]`'\"]*|[).:].*", line[match.end() :]):
            return match[1]
    return None


def integer(text: str) -> int | None:
    """The integer answered: boxed, or after `####`, or marked, or the last number of the text."""
    _, hashes, tail = text.rpartition("####")
    for candidate in (boxed(text), tail if hashes else None, marked(text)):
        numbers = _NUMBER.findall(candidate.replace("\\!", "").replace("{,}", ",")) if candidate else []
        if numbers:
            return _to_integer(numbers[0])
    numbers = _NUMBER.findall(text)
    return _to_integer(numbers[-1]) if numbers else None


def _to_integer(number: str) -> int | None:
    value = float(number.replace(",", ""))
    return int(number.replace(",", "").partition(".")[0]) if value.is_integer() else None


def bold(text: str) -> str | None:
    """The last text between `**` and `**`."""
    spans: list[str] = re.findall(r"\*\*\s*([^*\n]+?)\s*\*\*", text)
    return spans[-1] if spans else None


def tagged(text: str, tag: str) -> str | None:
    """The content of the last `<tag>…</tag>`."""
    contents: list[str] = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return contents[-1].strip() if contents else None


def plain(text: str) -> str:
    """Lower case, single spaces, and no quotation marks, asterisks or sentence marks at either end."""
    return " ".join(text.lower().split()).strip(" \"'`*.,;:!?")


def listed(text: str) -> list[str]:
    """The parts of a comma-separated list, lower-cased, without punctuation at their ends."""
    return [part.strip(" \t\n.*`'\"").lower() for part in text.split(",")]
