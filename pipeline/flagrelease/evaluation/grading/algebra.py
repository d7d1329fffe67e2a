"""Compare LaTeX expressions for mathematical equality."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from typing import Any

from flagrelease.errors import EnvironmentFault

__all__ = ["equal", "normal", "says"]

_THIN = r"(?:(?<!\\)\\[,;:! ]|\\thinspace(?![A-Za-z])\s?|~|[\u00a0\u2000-\u200a\u202f\u205f])"
_NOISE = re.compile(
    rf"\\(?:left|right|displaystyle|quad)(?![A-Za-z])|\\[,;:!]|{_THIN}|\\text\{{\s*\}}|(?<!\\)\\(?=\$)|\$|\s+"
)
_THOUSANDS = re.compile(rf"(?<![\d.,])\d{{1,3}}(?:(?:{_THIN}+|\{{,\}})\d{{3}})+(?!\d)")
"""Groups of three digits with thin spaces between: `10\\,080`."""
_DEGREES = re.compile(r"\^\s?\{?\s?(?:\\(?:circ|degree)(?![A-Za-z])|°)\s?\}?|\\degree(?![A-Za-z])|°|º")
_PERCENT = re.compile(r"\\%|%")

_END = r"[^\[\](),\\]*(?:\\[A-Za-z]+(?![A-Za-z])(?:\{[^{}]*\})*[^\[\](),\\]*)*"
_INTERVAL = re.compile(rf"(?:[A-Za-z]\\in)?[\[(]{_END},{_END}[\])](?:\\cup[\[(]{_END},{_END}[\])])*")
_ASKS_FOR_INTERVAL = re.compile(r"\b(?:intervals?|domain|range|inequalit(?:y|ies))\b", re.IGNORECASE)
_OR = re.compile(r"\\text\w*\{\s*or\s*\}|\\mathrm\{\s*or\s*\}|\bor\b|\\(?:lor|vee|cup)(?![A-Za-z])|[∨∪]")

_NO_NUMBER = re.compile(r"(?<![A-Za-z])nan(?![A-Za-z])", re.IGNORECASE)
_INFINITE = re.compile(r"(?<![A-Za-z\\])[+-]?inf(?:inity)?(?![A-Za-z])", re.IGNORECASE)
_INFINITY = re.compile(r"\\infty|∞|(?<![A-Za-z\\])inf(?:inity)?(?![A-Za-z])", re.IGNORECASE)


def normal(expression: str) -> str:
    """Normalize an expression: drop spaces, sizes, dollar signs, degrees and percent signs; `\\dfrac` is `\\frac`."""
    text = _PERCENT.sub("", _NOISE.sub("", _DEGREES.sub("", expression)))
    return text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").strip().rstrip(".")


def equal(answer: str, reference: str, *, asked: str = "") -> bool:
    """Whether two expressions are equal as text or by math-verify; `asked` is the question, which may tell an interval
    from a point. An inequality equals the interval that it describes.

    May run for long, so call it in a process that can be killed.
    Raises EnvironmentFault if math-verify is needed and not installed.
    """
    if not _is_value(answer, reference):
        return False
    if normal(answer) == normal(reference):
        return True
    interval = _is_interval(reference, asked)
    answer, reference = _plain(answer), _plain(reference)
    return _verified(f"\\boxed{{{answer}}}", reference, interval=interval) or (
        interval and _in_parts(answer, reference)
    )


def says(text: str, reference: str) -> bool:
    """Whether the expression that math-verify finds in free text without a marked answer equals the reference."""
    return _verified(text, reference, interval=_is_interval(reference, ""))


def _is_value(answer: str, reference: str) -> bool:
    """Not the text of a float that is no number, or infinite where the reference is not. Math-verify reads letters."""
    if _NO_NUMBER.search(answer) and not _NO_NUMBER.search(reference):
        return False
    return not _INFINITE.search(answer) or _INFINITY.search(reference) is not None


def _plain(expression: str) -> str:
    """Without degrees, and without thin spaces between thousands: math-verify would read the last group only."""
    return _DEGREES.sub("", _THOUSANDS.sub(lambda match: re.sub(r"\D", "", match[0]), expression))


def _is_interval(reference: str, asked: str) -> bool:
    """Whether the reference is one interval or several. `(1, 2)` may be a point, unless the question says otherwise."""
    text = normal(reference)
    if _INTERVAL.fullmatch(text) is None:
        return False
    closed = "[" in text or "]" in text
    return closed or "\\infty" in text or "\\cup" in text or _ASKS_FOR_INTERVAL.search(asked) is not None


def _verified(text: str, reference: str, *, interval: bool = False) -> bool:
    parse, verify = _math_verify()
    wanted = parse(f"\\boxed{{{reference}}}", parsing_timeout=None)
    given = parse(text, parsing_timeout=None)
    return bool(verify(wanted, given, timeout_seconds=None, allow_set_relation_comp=interval))


def _in_parts(answer: str, reference: str) -> bool:
    """Whether inequalities of one variable and intervals, with commas, `or` or `∪` between them, describe the intervals
    of the reference."""
    variables: set[Any] = set()
    given = _union(_conjunction(part, variables) for part in _OR.split(answer))
    if given is None or len(variables) > 1:
        return False
    parse, verify = _math_verify()
    return bool(verify(parse(f"\\boxed{{{reference}}}", parsing_timeout=None), [given], timeout_seconds=None))


def _conjunction(text: str, variables: set[Any]) -> Any:
    """The set of numbers that inequalities or intervals with commas between them describe; None if they are others.
    Their variables are added to `variables`.

    All inequalities hold at once, if they can: `x > 1, x < 3` is `1 < x < 3`, and `x < 1, x > 3` is a list.
    """
    from sympy import EmptySet, Intersection, Set
    from sympy.logic.boolalg import Boolean

    parse, _ = _math_verify()
    parts = _at_commas(text)
    read: list[Any] = [next(iter(parse(f"\\boxed{{{part}}}", parsing_timeout=None)), None) for part in parts]
    if all(isinstance(part, Set) for part in read):
        return _union(read)
    sets = []
    for relation in read:
        symbols: frozenset[Any] = getattr(relation, "free_symbols", frozenset())
        if not isinstance(relation, Boolean) or len(symbols) != 1:
            return None
        variables |= symbols
        try:
            sets.append(relation.as_set())
        except (AttributeError, NotImplementedError, TypeError, ValueError):
            return None
    together = Intersection(*sets)
    return _union(sets) if together is EmptySet and len(sets) > 1 else together


def _union(sets: Iterable[Any]) -> Any:
    """The union; None if one of the sets is."""
    from sympy import Union

    known = list(sets)
    return None if any(part is None for part in known) else Union(*known)


def _at_commas(text: str) -> list[str]:
    """The parts of `text` between commas that are in no bracket."""
    parts, depth = [""], 0
    for character in _NOISE.sub("", text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _math_verify() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Its `parse` and `verify`."""
    try:
        from math_verify import parse, verify
    except ImportError:
        raise EnvironmentFault("grading mathematics needs math-verify", hint="install flagrelease[eval]") from None
    # It warns at each call that its own timeouts are off. They use signals, which work in the main thread only; the
    # timeout here is that of the grading process.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    return parse, verify
