"""Amounts and times as text. Pure."""

from __future__ import annotations


def size_text(size: float) -> str:
    """A number of bytes with an SI prefix."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def minute(at: str) -> str:
    """The minute of an ISO 8601 time in UTC, for a column whose heading names the zone: `2026-11-29 15:16`."""
    return at[:16].replace("T", " ")


def time_text(at: str) -> str:
    """An ISO 8601 time in UTC, in a sentence: `2026-11-29 15:16 UTC`."""
    return f"{minute(at)} UTC"
