"""Reading an answer out of free text. Pure; every function takes text without thinking."""

from __future__ import annotations

import re

__all__ = ["bold", "boxed", "integer", "letter", "listed", "marked", "tagged"]

_MARK = re.compile(r"(?:\*\*)?\banswer\b(?:\*\*)?\s*(?:is|[:=])\s*:?", re.IGNORECASE)
_SINGLE = re.compile(r"^[\s*_($\[{\\]*(?:boxed\{|text\{)*([A-Z])(?![A-Za-z])")
_NUMBER = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|[-+]?\d+(?:\.\d+)?")


def boxed(text: str) -> str | None:
    r"""The content of the last complete `\boxed{…}` or `\fbox{…}`, braces balanced."""
    for start in reversed([found.end() for found in re.finditer(r"\\f?box(?:ed)?\s*\{", text)]):
        depth = 1
        for index in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[index], 0) if text[index - 1] != "\\" else 0
            if depth == 0:
                return text[start:index].strip()
    return None


def marked(text: str) -> str | None:
    """What follows the last "Answer:" or "the answer is", up to the end of its line."""
    found = list(_MARK.finditer(text))
    if not found:
        return None
    line, _, _ = text[found[-1].end() :].strip().partition("\n")
    return line.strip() or None


def letter(text: str, choices: str) -> str | None:
    """The letter chosen, one of `choices` ("ABCD"): boxed, or marked, or alone on the last line, or first of all."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    candidates = (boxed(text), marked(text), lines[-1] if lines else None, lines[0] if lines else None)
    for kind, candidate in enumerate(candidates):
        found = _SINGLE.match(candidate) if candidate else None
        if found is None or found[1] not in choices:
            continue
        # "A good choice …" starts with a letter and chooses nothing; only a mark makes more text acceptable.
        rest = (candidate or "")[found.end() :]
        if kind < 2 or not rest.strip(" )*_.:}$]") or re.match(r"[).:]", rest):
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
