"""Whether two LaTeX expressions mean the same."""

from __future__ import annotations

import re

from flagrelease.errors import EnvironmentFault

__all__ = ["equal", "normal"]

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
    if normal(answer) == normal(reference):
        return True
    try:
        from math_verify import parse, verify
    except ImportError:
        raise EnvironmentFault("grading mathematics needs math-verify", hint="install flagrelease[eval]") from None
    # Its own timeouts are signals, which work in the main thread only; ours is the process around this one.
    given = parse(f"\\boxed{{{answer}}}", parsing_timeout=None)
    wanted = parse(f"\\boxed{{{reference}}}", parsing_timeout=None)
    return bool(verify(wanted, given, timeout_seconds=None))
