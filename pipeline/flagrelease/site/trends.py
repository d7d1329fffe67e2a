"""Plots of what was measured in the releases of a cell, over all of its releases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from flagrelease.releases.facts import Facts
from flagrelease.releases.matrix import Published
from flagrelease.site import plots
from flagrelease.site.plots import Dot
from flagrelease.verdict.types import Verdict

Known = Sequence[tuple[Published, Facts]]


def trends(releases: Sequence[Published]) -> list[tuple[str, Markup]]:
    """The plots with their titles. `releases` are given oldest first; those whose record is lost are left out."""
    known = [(each, each.facts) for each in releases if each.facts is not None]
    return [*_scores(known), *_speed(known), *_single(known)] if known else []


def _scores(known: Known) -> Iterator[tuple[str, Markup]]:
    for name in dict.fromkeys(row.benchmark for _, facts in known for row in facts.accuracy.benchmarks):
        dots, margin = [], 0.0
        for each, facts in known:
            for row in facts.accuracy.benchmarks:
                if row.benchmark == name and row.difference is not None and row.interval90 is not None:
                    bad, margin = bool(each.yanked) or row.verdict is not Verdict.PASS, row.margin
                    label = f"{_label(each)}: {row.candidate:.3f}, difference {row.difference:+.3f}"
                    low, high = row.interval90
                    dots.append(Dot(label=label, value=row.difference, low=low, high=high, bad=bad))
        if dots:
            title = f"{name}: difference to the baseline"
            yield title, plots.history(dots, title=title, limit=-margin)


def _speed(known: Known) -> Iterator[tuple[str, Markup]]:
    dots, gate = [], 0.0
    for each, facts in known:
        if facts.speed is not None and (slowest := facts.speed.slowest) is not None:
            bad, gate = bool(each.yanked) or facts.speed.verdict is not Verdict.PASS, slowest.gate
            label = f"{_label(each)}: {slowest.ratio:.3f} at {slowest.load}"
            low, high = slowest.interval95
            dots.append(Dot(label=label, value=slowest.ratio, low=low, high=high, bad=bad))
    if dots:
        title = "speed at the slowest load, relative to native"
        yield title, plots.history(dots, title=title, limit=gate)


def _single(known: Known) -> Iterator[tuple[str, Markup]]:
    """What is measured once, without an interval."""
    ready = [(each, facts.smoke.ready_seconds) for each, facts in known]
    size = [(each, facts.image.size / 1e6) for each, facts in known]
    for title, unit, values in (("start, seconds until ready", " s", ready), ("image size, MB", "", size)):
        dots = [Dot(label=f"{_label(each)}: {value:.1f}", value=value) for each, value in values]
        yield title, plots.history(dots, title=title, unit=unit)


def _label(release: Published) -> str:
    return f"{release.at[:10]} {release.tag[-12:]}".strip()
