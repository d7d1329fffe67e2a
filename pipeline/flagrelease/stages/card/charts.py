"""Draw the card's charts: scores of both stacks with their difference, and throughput against latency.

Equal records give equal bytes: fonts come with matplotlib, and the PNG contains neither date nor version.
The panel has its own background, so that it is readable on light and dark pages.
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flagrelease.verdict.sensitivity import wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from flagrelease.contract.accuracy_results import BenchmarkScore
    from flagrelease.contract.speed_results import LoadFigures, Speed, SpeedPoint
    from flagrelease.stages.card.record import Record

SCORES = "scores.png"
SPEED = "speed.png"
NAMES = (SCORES, SPEED)

_PAPER, _INK, _FAINT, _RULE = "#fbfbfa", "#22262e", "#6b7280", "#dfe2e6"
_BASELINE, _CANDIDATE, _BAND = "#8b95a5", "#2563c9", "#e3edfb"
_VERDICTS = {"PASS": "#1a7f4b", "FAIL": "#c2352b", "INCONCLUSIVE": "#a86508"}
_WIDTH, _ROW, _HEAD, _FOOT = 8.6, 0.74, 0.86, 0.62  # inches
_PLOT, _COLUMNS, _DECADE = 2.9, 3, 10
_STYLE_LOCK = threading.Lock()  # matplotlib's style is global to the process
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a `$` in a title is a dollar
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": _INK,
    "axes.labelcolor": _FAINT,
    "axes.edgecolor": _RULE,
    "xtick.color": _FAINT,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
}


def points(difference: float) -> str:
    """A difference in percentage points with its sign, for example `+0.5`."""
    text = f"{difference * 100:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def scores(record: Record) -> bytes:
    """The chart as PNG, 1,720 pixels wide: one row per benchmark, scores on the left, differences on the right."""
    rows = record.accuracy.benchmarks
    height = _HEAD + _ROW * len(rows) + _FOOT
    target = io.BytesIO()
    with _figure(height, target) as figure:
        left = figure.add_axes((0.185, _FOOT / height, 0.37, _ROW * len(rows) / height))
        right = figure.add_axes((0.60, _FOOT / height, 0.30, _ROW * len(rows) / height))
        _draw_scores(left, rows)
        _draw_differences(right, rows)
        _head(figure, record, height, record.accuracy.verdict, record.accuracy.baseline_name)
    return target.getvalue()


def speed(record: Record, measured: Speed) -> bytes:
    """Throughput against latency as PNG, 1,720 pixels wide: one panel per load shape, one line per stack.

    Each point is one concurrency; right is more throughput, down is lower latency.
    """
    shapes = list(dict.fromkeys((point.input_tokens, point.output_tokens) for point in measured.points))
    columns = min(len(shapes), _COLUMNS)
    lines = math.ceil(len(shapes) / columns)
    height = _HEAD + lines * _PLOT
    target = io.BytesIO()
    with _figure(height, target) as figure:
        width = (0.965 - 0.035) / columns
        for index, shape in enumerate(shapes):
            row, column = divmod(index, columns)
            bottom = (height - _HEAD - (row + 1) * _PLOT + _FOOT) / height
            box = (0.035 + column * width + 0.06, bottom, width - 0.075, (_PLOT - _FOOT - 0.22) / height)
            axes = figure.add_axes(box)
            _draw_shape(
                axes, [point for point in measured.points if (point.input_tokens, point.output_tokens) == shape]
            )
        note = "labels: concurrent requests"
        figure.text(0.965, 1 - 0.63 / height, note, size=8.5, color=_FAINT, ha="right", va="center")
        _head(figure, record, height, measured.verdict, measured.baseline_name)
    return target.getvalue()


@contextmanager
def _figure(height: float, target: io.BytesIO) -> Iterator[Figure]:
    """A figure `height` inches high, written to `target` on exit."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with _STYLE_LOCK, mpl.rc_context({**mpl.rcParamsDefault, "backend": "agg", **_STYLE}):
        figure = Figure(figsize=(_WIDTH, height), facecolor="none")
        FigureCanvasAgg(figure)
        _panel(figure, height)
        yield figure
        figure.savefig(target, format="png", dpi=200, transparent=True, metadata={"Software": None})


def _panel(figure: Figure, height: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    edge = 0.02
    figure.add_artist(
        FancyBboxPatch(
            (edge, edge),
            _WIDTH - 2 * edge,
            height - 2 * edge,
            boxstyle="round,pad=0,rounding_size=0.12",
            facecolor=_PAPER,
            edgecolor=_RULE,
            linewidth=1.0,
            transform=figure.dpi_scale_trans,
            zorder=-1,
        )
    )


def _head(figure: Figure, record: Record, height: float, verdict: str, baseline_name: str) -> None:
    def at(inches: float) -> float:
        return 1 - inches / height

    colour = _VERDICTS[verdict]
    title = _shortened(f"{record.model.title} on {record.chip.device.name}", 64)
    figure.text(0.035, at(0.33), title, weight="bold", size=11.5, va="center")
    figure.text(0.965, at(0.33), verdict, weight="bold", size=10, color=colour, ha="right", va="center")
    x = 0.035
    for colour, label in ((_CANDIDATE, record.candidate_name), (_BASELINE, baseline_name)):
        figure.text(x, at(0.63), "●", color=colour, size=9, va="center")
        text = figure.text(x + 0.018, at(0.63), _shortened(label, 40), size=9, color=_FAINT, va="center")
        x = text.get_window_extent().transformed(figure.transFigure.inverted()).x1 + 0.03


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _draw_scores(axes: Axes, rows: tuple[BenchmarkScore, ...]) -> None:
    for index, row in enumerate(rows):
        for score, offset, colour in ((row.candidate, -0.17, _CANDIDATE), (row.baseline, 0.17, _BASELINE)):
            if score is not None:
                low, high = wilson(score, row.n)  # without repeats, which are not independent: it errs on the wide side
                _whisker(axes, index + offset, low, high, colour)
                axes.plot([score], [index + offset], "o", color=colour, markersize=6.5, zorder=3)
                _annotate(axes, f"{score:.3f}", (high, index + offset), (5, 0), size=8.5, path_effects=_halo())
        title, details = _label(row)
        edge = axes.get_yaxis_transform()
        axes.text(-0.04, index - 0.2, title, transform=edge, ha="right", va="center", weight="bold", size=9.5)
        small: dict[str, Any] = {"color": _FAINT, "size": 7.8, "linespacing": 1.35}
        axes.text(-0.04, index + 0.15, details, transform=edge, ha="right", va="center", **small)
    axes.set_yticks([])
    low, high = _limits(rows)
    axes.set_xlim(low, high)
    axes.set_xlabel("score, with 90 % interval", size=8.5)
    _rows(axes, len(rows))


def _draw_differences(axes: Axes, rows: tuple[BenchmarkScore, ...]) -> None:
    reach = max(max(row.margin, *(abs(end) for end in row.interval90 or (0.0,))) for row in rows) * 125
    for index, row in enumerate(rows):
        axes.fill_between(
            [-row.margin * 100, row.margin * 100], index - 0.42, index + 0.42, color=_BAND, linewidth=0, zorder=0
        )
        if row.difference is None or row.interval90 is None:
            missing = "no baseline" if row.baseline is None else "no interval"
            axes.text(0, index, missing, ha="center", va="center", color=_FAINT, size=8.5)
            continue
        colour = _VERDICTS[row.verdict]
        _whisker(axes, index, row.interval90[0] * 100, row.interval90[1] * 100, colour)
        axes.plot([row.difference * 100], [index], "D", color=colour, markersize=5.5, zorder=3)
        _annotate(axes, points(row.difference), (1.0, index), (6, 0), fraction=True, color=colour, weight="bold")
    axes.axvline(0, color=_FAINT, linewidth=0.8, zorder=1)
    axes.set_xlim(-reach, reach)
    axes.set_yticks([])
    axes.set_xlabel("difference in % points, 90 % interval; shaded: margin", size=8.5)
    _rows(axes, len(rows))


def _draw_shape(axes: Axes, points: Sequence[SpeedPoint]) -> None:
    ordered = sorted(points, key=lambda point: point.concurrency)
    first = ordered[0]
    for colour, side in ((_BASELINE, "baseline"), (_CANDIDATE, "candidate")):
        figures: list[LoadFigures] = [getattr(point, side) for point in ordered]
        throughput = [load.output_tokens_per_s for load in figures]
        latency = [load.tpot_s.median * 1000 for load in figures]
        axes.plot(throughput, latency, "o-", color=colour, linewidth=2.0, alpha=0.85, markersize=6, zorder=3)
    for point in ordered:
        at = (_ours(point), point.candidate.tpot_s.median * 1000)
        axes.annotate(
            str(point.concurrency), at, (0, 8), textcoords="offset points", ha="center", size=8.5, path_effects=_halo()
        )
    axes.set_title(
        f"{first.input_tokens:,} tokens in, {first.output_tokens:,} out", size=9.5, weight="bold", loc="left"
    )
    axes.set_xlabel("output tokens per second", size=8.5)
    axes.set_ylabel("ms per output token (TPOT)", size=8.5, color=_FAINT)
    axes.margins(0.12, 0.24)
    axes.set_ylim(bottom=0)
    axes.set_facecolor("none")
    axes.grid(visible=True, color=_RULE, linewidth=0.7)
    axes.tick_params(length=0, labelsize=8.5)
    axes.locator_params(axis="y", nbins=5)
    rates = [rate for point in ordered for rate in (point.baseline.output_tokens_per_s, _ours(point))]
    if max(rates) > _DECADE * min(rates):  # on a linear axis the lowest concurrencies would overlap
        from matplotlib.ticker import LogLocator

        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _at: f"{value:,.0f}")
        axes.tick_params(which="minor", length=0, labelbottom=False)
    else:
        axes.set_xlim(left=0)
        axes.locator_params(axis="x", nbins=5)


def _ours(point: SpeedPoint) -> float:
    return point.candidate.output_tokens_per_s


def _whisker(axes: Axes, y: float, low: float, high: float, colour: str) -> None:
    axes.plot([low, high], [y, y], color=colour, linewidth=2.2, alpha=0.55, solid_capstyle="round", zorder=2)


def _rows(axes: Axes, count: int) -> None:
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_facecolor("none")
    axes.grid(visible=True, axis="x", color=_RULE, linewidth=0.7)
    axes.tick_params(length=0, labelsize=8.5)
    axes.locator_params(axis="x", nbins=5)


def _limits(rows: tuple[BenchmarkScore, ...]) -> tuple[float, float]:
    drawn = [(score, row.n) for row in rows for score in (row.candidate, row.baseline) if score is not None]
    ends = [end for score, n in drawn for end in wilson(score, n)]
    low, high = min(ends), max(ends)
    pad = max(0.02, (high - low) * 0.12)
    return max(0.0, low - pad), min(1.0 + pad * 2, high + pad * 2.6)


def _label(row: BenchmarkScore) -> tuple[str, str]:
    title, _, how = row.metric.partition("_")
    return title, f"{how.replace('_', ', ')}\n{row.n:,} questions".strip()


def _annotate(
    axes: Axes, text: str, at: tuple[float, float], shift: tuple[float, float], *, fraction: bool = False, **style: Any
) -> None:
    x_coordinates = "axes fraction" if fraction else "data"
    axes.annotate(
        text,
        at,
        shift,
        xycoords=(x_coordinates, "data"),
        textcoords="offset points",
        va="center",
        annotation_clip=False,
        **style,
    )


def _halo() -> list[Any]:
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=3, foreground=_PAPER)]
