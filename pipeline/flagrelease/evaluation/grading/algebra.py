"""Whether two LaTeX expressions mean the same."""

from __future__ import annotations

import logging
import re

from flagrelease.errors import EnvironmentFault

__all__ = ["equal", "normal", "says"]

_NOISE = re.compile(r"\\(?:left|right|,|!|;|:|displaystyle|quad)(?![A-Za-z])|\\text\{\s*\}|\$|\s+")
_UNITS = re.compile(r"\^\{?\\circ\}?|\\%|%")


def normal(expression: str) -> str:
    """The expression without what changes nothing: spaces, sizes, dollar signs, degrees, `\\dfrac`."""
    text = _UNITS.sub("", _NOISE.sub("", expression)).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return text.strip().rstrip(".")


def equal(answer: str, reference: str) -> bool:
    """Equal as written, or proved equal by math-verify. May take long: call it where it can be stopped.

    Raises EnvironmentFault where math-verify is not installed and the texts alone do not decide.
    """
    return normal(answer) == normal(reference) or _verified(f"\\boxed{{{answer}}}", reference)


def says(text: str, reference: str) -> bool:
    """Whether the expression that math-verify finds in free text, which marks no answer, equals the reference."""
    return _verified(text, reference)


def _verified(text: str, reference: str) -> bool:
    try:
        from math_verify import parse, verify
    except ImportError:
        raise EnvironmentFault("grading mathematics needs math-verify", hint="install flagrelease[eval]") from None
    # It warns each time that its own timeouts are off. They are signals, which work in a main thread only; ours
    # is the process around this one.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    wanted = parse(f"\\boxed{{{reference}}}", parsing_timeout=None)
    return bool(verify(wanted, parse(text, parsing_timeout=None), timeout_seconds=None))
