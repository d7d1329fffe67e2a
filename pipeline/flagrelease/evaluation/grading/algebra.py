"""Compare LaTeX expressions for mathematical equality."""

from __future__ import annotations

import logging
import re

from flagrelease.errors import EnvironmentFault

__all__ = ["equal", "normal", "says"]

_NOISE = re.compile(r"\\(?:left|right|,|!|;|:|displaystyle|quad)(?![A-Za-z])|\\text\{\s*\}|\$|\s+")
_UNITS = re.compile(r"\^\{?\\circ\}?|\\%|%")


def normal(expression: str) -> str:
    """Normalize an expression: drop spaces, sizes, dollar signs, degrees and percent signs; `\\dfrac` is `\\frac`."""
    text = _UNITS.sub("", _NOISE.sub("", expression)).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return text.strip().rstrip(".")


def equal(answer: str, reference: str) -> bool:
    """Whether two expressions are equal as text or by math-verify.

    May run for long, so call it in a process that can be killed.
    Raises EnvironmentFault if math-verify is needed and not installed.
    """
    return normal(answer) == normal(reference) or _verified(f"\\boxed{{{answer}}}", reference)


def says(text: str, reference: str) -> bool:
    """Whether the expression that math-verify finds in free text without a marked answer equals the reference."""
    return _verified(text, reference)


def _verified(text: str, reference: str) -> bool:
    try:
        from math_verify import parse, verify
    except ImportError:
        raise EnvironmentFault("grading mathematics needs math-verify", hint="install flagrelease[eval]") from None
    # It warns at each call that its own timeouts are off. They use signals, which work in the main thread only; the
    # timeout here is that of the grading process.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    wanted = parse(f"\\boxed{{{reference}}}", parsing_timeout=None)
    return bool(verify(wanted, parse(text, parsing_timeout=None), timeout_seconds=None))
