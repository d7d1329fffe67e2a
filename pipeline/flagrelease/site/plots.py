"""Small plots as inline SVG. Colours come from the style sheet, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 340, 130, 44, 10, 18
_BAR_WIDTH, _BAR_HEIGHT = 150, 18


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One release in a plot."""

    label: str
    """Shown when the pointer is on it."""
    value: float
    """Its height."""
    low: float | None = None
    """Lower end of its interval; none without one."""
    high: float | None = None
    """Upper end of its interval."""
    bad: bool = False
    """Whether it does not pass, or is yanked."""


def history(dots: Sequence[Dot], *, title: str, unit: str = "", limit: float | None = None) -> Markup:
    """Values over the releases, oldest on the left, with their intervals and a line at `limit`."""
    ends = [end for dot in dots for end in (dot.value, dot.low, dot.high) if end is not None]
    ends += [limit] if limit is not None else []
    low, high = _range(ends)
    body = [_tick(value, low, high, unit) for value in (low, (low + high) / 2, high)]
    if limit is not None:
        y = _y(limit, low, high)
        body.append(f'<line class="limit" x1="{_LEFT}" x2="{_WIDTH - 6}" y1="{y}" y2="{y}"/>')
    places = [(_x(n, len(dots)), _y(dot.value, low, high)) for n, dot in enumerate(dots)]
    body.append(f'<polyline class="line" points="{" ".join(f"{x},{y}" for x, y in places)}"/>')
    for (x, y), dot in zip(places, dots, strict=True):
        if dot.low is not None and dot.high is not None:
            y1, y2 = _y(dot.low, low, high), _y(dot.high, low, high)
            body.append(f'<line class="whisker" x1="{x}" x2="{x}" y1="{y1}" y2="{y2}"/>')
        kind = "dot bad" if dot.bad else "dot"
        body.append(f'<circle class="{kind}" cx="{x}" cy="{y}" r="3.5"><title>{escape(dot.label)}</title></circle>')
    return _svg("plot", _WIDTH, _HEIGHT, title, body)


def interval(value: float, low: float, high: float, *, zero: float, limit: float, title: str, bad: bool) -> Markup:
    """One value with its interval, a line at `zero`, where there is no difference, and one at the `limit` that the
    interval has to stay above."""
    start, end = _range([value, low, high, zero, limit])

    def x(place: float) -> float:
        return round(4 + (place - start) / (end - start) * (_BAR_WIDTH - 8), 1)

    middle, kind = _BAR_HEIGHT / 2, "dot bad" if bad else "dot"
    body = [
        f'<line class="zero" x1="{x(zero)}" x2="{x(zero)}" y1="1" y2="{_BAR_HEIGHT - 1}"/>',
        f'<line class="limit" x1="{x(limit)}" x2="{x(limit)}" y1="1" y2="{_BAR_HEIGHT - 1}"/>',
        f'<line class="whisker" x1="{x(low)}" x2="{x(high)}" y1="{middle}" y2="{middle}"/>',
        f'<circle class="{kind}" cx="{x(value)}" cy="{middle}" r="3.5"/>',
    ]
    return _svg("bar", _BAR_WIDTH, _BAR_HEIGHT, title, body)


def _svg(kind: str, width: int, height: int, title: str, body: Sequence[str]) -> Markup:
    name = escape(title)
    head = f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{name}"><title>{name}</title>'
    return Markup(f"{head}{''.join(body)}</svg>")  # noqa: S704 - all text in it is escaped above


def _range(ends: Sequence[float]) -> tuple[float, float]:
    """A range around all of `ends`, wider than nothing."""
    low, high = min(ends), max(ends)
    space = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return low - space, high + space


def _x(number: int, count: int) -> float:
    inside = _WIDTH - _LEFT - 16
    return round(_LEFT + 6 + (inside * number / (count - 1) if count > 1 else inside / 2), 1)


def _y(value: float, low: float, high: float) -> float:
    return round(_TOP + (high - value) / (high - low) * (_HEIGHT - _TOP - _BOTTOM), 1)


def _tick(value: float, low: float, high: float, unit: str) -> str:
    y = _y(value, low, high)
    text = f"{value:.{max(0, 2 - math.floor(math.log10(high - low)) - 1)}f}".replace("-", "−")
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - 6}" y1="{y}" y2="{y}"/>'
        f'<text x="{_LEFT - 5}" y="{y + 3}" text-anchor="end">{text}{escape(unit)}</text>'
    )
