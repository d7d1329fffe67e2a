"""Shared HTTP helpers: Retry-After parsing and loopback detection. Pure."""

from __future__ import annotations

import math


def retry_after(text: str) -> float | None:
    """The Retry-After header in seconds. A date, its other form, is ignored: clocks differ."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None


def is_loopback(host: str) -> bool:
    """Whether HOST or HOST:PORT is a loopback address."""
    name = host.rpartition(":")[0] or host
    return name in ("localhost", "[::1]") or name.startswith("127.")
