"""Where evalscope is found: the variable that names its program."""

from __future__ import annotations

__all__ = ["PROGRAM"]

PROGRAM = "FLAGRELEASE_EVALSCOPE"
"""Names evalscope's program, in a Python environment of its own. It asks questions and puts load on a server."""
