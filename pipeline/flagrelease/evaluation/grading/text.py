"""Reading an answer out of free text. Pure; every function takes text without thinking."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator

__all__ = ["bold", "boxed", "integer", "letter", "listed", "marked", "tagged"]

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
    """Where each complete box begins and what is in it, the last one first. In one pass: a model that repeats itself
    opens thousands."""
    spans: list[tuple[int, int, int]] = []
    open_: list[re.Match[str]] = []
    for found in _BRACE.finditer(text):
        if found[0] != "\\{" and found[0].endswith("{"):
            open_.append(found)
        elif found[0] == "}" and open_:
            begun = open_.pop()
            if len(begun[0]) > 1:
                spans.append((begun.start(), begun.end(), found.start()))
    for start, inner, end in sorted(spans, reverse=True):
        yield start, text[inner:end].strip()


def marked(text: str) -> str | None:
    """What follows the last "Answer:" or "the answer is", up to the end of its line."""
    return next((line or None for _, line in _marks(text)), None)


def _marks(text: str) -> Iterator[tuple[int, str]]:
    """Where each mark is and what follows it, the last one first."""
    for found in reversed(list(_MARK.finditer(text))):
        yield found.start(), text[found.end() :].strip().partition("\n")[0].strip()


def letter(text: str, choices: str) -> str | None:
    """The letter chosen, one of `choices` ("ABCD"): the last one boxed or marked, or alone on the last or first line.

    Two letters at once ("A or B") are no answer. Models repeat the form asked for ("Answer: LETTER") and change their
    mind, so the last mark that has a letter counts.
    """
    for _, said in heapq.merge(_boxes(text), _marks(text), reverse=True):
        found = _SINGLE.match(said)
        if found is not None and found[1] in choices:
            return None if _HEDGE.match(said, found.end()) else found[1]
    lines = [line for line in text.strip().splitlines() if line.strip()]
    for line in (*lines[-1:], *lines[:1]):
        found = _SINGLE.match(line)
        # "A good choice …" starts with a letter and chooses nothing.
        if found and found[1] in choices and re.fullmatch(r"[ )*_.:}$\]`'\"]*|[).:].*", line[found.end() :]):
            return found[1]
    return None


def integer(text: str) -> int | None:
    """The whole number answered: boxed, or after `####`, or marked, or the last number of the text."""
    _, hashes, tail = text.rpartition("####")
    for candidate in (boxed(text), tail if hashes else None, marked(text)):
        numbers = _NUMBER.findall(candidate.replace("\\!", "").replace("{,}", ",")) if candidate else []
        if numbers:
            return _whole(numbers[0])
    numbers = _NUMBER.findall(text)
    return _whole(numbers[-1]) if numbers else None


def _whole(number: str) -> int | None:
    value = float(number.replace(",", ""))
    return int(number.replace(",", "").partition(".")[0]) if value.is_integer() else None


def bold(text: str) -> str | None:
    """The last words between `**` and `**`."""
    found: list[str] = re.findall(r"\*\*\s*([^*\n]+?)\s*\*\*", text)
    return found[-1] if found else None


def tagged(text: str, tag: str) -> str | None:
    """The content of the last `<tag>…</tag>`."""
    found: list[str] = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return found[-1].strip() if found else None


def listed(text: str) -> list[str]:
    """The parts of a comma-separated list, lower-cased, without marks at their ends."""
    return [part.strip(" \t\n.*`'\"").lower() for part in text.split(",")]
