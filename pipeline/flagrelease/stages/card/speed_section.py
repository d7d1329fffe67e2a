"""The speed section of the card. Pure."""

from __future__ import annotations

from flagrelease.contract.speed_results import LoadFigures, Speed, SpeedPoint
from flagrelease.stages.card.markdown import Markdown, table
from flagrelease.stages.card.record import Record

SPEED_FIRST = "Tokens in / out"
"""Header of the first column of the speed table; the lint finds the table by it."""


def speed_cells(point: SpeedPoint) -> tuple[str, ...]:
    """The cells of one row of the speed table, exactly as printed. Latencies are the candidate's medians."""
    low, high = point.interval95
    candidate = point.candidate
    return (
        f"{point.input_tokens:,} / {point.output_tokens:,}",
        str(point.concurrency),
        _rate(point.baseline.output_tokens_per_s),
        _rate(candidate.output_tokens_per_s),
        f"{point.ratio:.2f}",
        f"[{low:.2f}, {high:.2f}]",
        f"{candidate.ttft_s.median * 1000:.0f}",
        f"{candidate.tpot_s.median * 1000:.1f}",
        _rate(candidate.goodput_per_s),
        point.verdict,
    )


def speed_table(measured: Speed, candidate_name: str) -> Markdown:
    """The speed table: one row per load point."""
    header = (
        SPEED_FIRST,
        "At once",
        f"{measured.baseline_name}, tokens/s",
        f"{candidate_name}, tokens/s",
        "Ratio",
        "95 % interval",
        "TTFT, ms",
        "TPOT, ms",
        "Goodput, requests/s",
        "Verdict",
    )
    return table(header, [tuple(map(Markdown, speed_cells(point))) for point in measured.points])


def speed_texts(record: Record, measured: Speed) -> dict[str, str]:
    """How speed was measured, in words."""
    runs, starts = (min(getattr(point, name) for point in measured.points) for name in ("rounds", "starts"))
    by_start = "the ratio is the centre of the pairs' ratios (Hodges-Lehmann in each start, then the mean over starts)"
    return {
        "slo": _slo(measured),
        "runs": f"at least {runs} pairs of runs in {starts} starts of both servers" if starts else f"{runs} rounds",
        "ratio": by_start if starts else "the ratio is that of the two rates",
        "processors": _processors(record, measured),
    }


def _processors(record: Record, measured: Speed) -> str:
    """The processor time of both servers, and of other programs, where it is known."""
    texts = []
    for point in measured.points:
        sides = [_cpu_per_thousand(side, point.output_tokens) for side in (point.baseline, point.candidate)]
        if all(sides):
            texts.append(f"{sides[0]} and {sides[1]} ({point.input_tokens:,} in, {point.concurrency} at once)")
    text = ""
    if texts:
        text = f" Processor seconds per 1,000 output tokens, native and {record.stack}: {'; '.join(texts)}."
    if (other := measured.other_work) is not None:
        text += (
            f" Meanwhile other programs used {other.others:.1f} of {other.cores} cores on average, and the hypervisor "
            f"withheld {other.stolen:.1f}."
        )
    return text


def _cpu_per_thousand(side: LoadFigures, output_tokens: int) -> str:
    tokens = (side.requests - side.failed) * output_tokens
    return "" if side.cpu_s is None or not tokens else f"{1000 * side.cpu_s / tokens:.3g}"


def _slo(measured: Speed) -> str:
    limits = dict.fromkeys((point.ttft_slo, point.tpot_slo) for point in measured.points)
    return " or ".join(f"TTFT ≤ {ttft:g} s and TPOT ≤ {tpot * 1000:g} ms" for ttft, tpot in limits)


def _rate(value: float) -> str:
    """A rate, rounded to about three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
