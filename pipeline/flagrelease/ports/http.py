"""What our HTTP clients read alike in what servers and addresses say. Pure."""

from __future__ import annotations

import math


def retry_after(text: str) -> float | None:
    """The header Retry-After in seconds. Its other form, a date, is as good as none: clocks differ."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None


def is_loopback(host: str) -> bool:
    """Whether HOST or HOST:PORT is this machine by its loopback address."""
    name = host.rpartition(":")[0] or host
    return name in ("localhost", "[::1]") or name.startswith("127.")
