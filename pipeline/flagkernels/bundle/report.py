"""Build the report of all steps for one model on one chip, as shown on the model card. No I/O."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from flagkernels.bundle.compat import Compat
from flagkernels.measure.figures import Figure
from flagkernels.model.trace import Trace
from flagkernels.qualify.rows import Row

__all__ = ["EXCLUDED", "build"]

FORMAT = 1
EXCLUDED = "excluded"
"""The verdict on an operator that was excluded by hand, without qualification."""


def build(
    found: Trace,
    rows: Sequence[Row],
    *,
    tuned: Mapping[str, Any],
    figures: Sequence[Figure],
    ceilings: Mapping[str, Any],
    choice: Mapping[str, Any],
    by_hand: Mapping[str, str],
    compat: Compat,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The report as JSON.

    `tuned`: tune.json; `choice`: the report of `select`; `by_hand`: operator → reason for excluding it; `seconds`: by
    step. In the result, `excluded` lists every operator that the model calls and that is not in effect; `served` is,
    by load, the speed with all chosen operators over native speed (median and 95 % interval)."""
    operators = list(choice["operators"])
    return {
        "format": FORMAT,
        "model": found.model,
        "config_sha256": found.config_sha256,
        "versions": found.versions,
        "compat": asdict(compat),
        "points": [str(point) for point in found.points],
        "policy": choice["policy"],
        "execution": found.execution,
        "requests": found.requests,
        "share": asdict(found.share),
        "operators": operators,
        "verdicts": dict(Counter(row.verdict for row in rows)),
        "excluded": _excluded(rows, operators, choice, by_hand),
        "tuning": {**_tuning(tuned), "seconds": seconds["tune"]},
        "limits": {**ceilings, "operators": _shares(figures)},
        "served": _served(choice),
        "seconds": dict(seconds),
    }


def _excluded(
    rows: Sequence[Row], operators: Sequence[str], choice: Mapping[str, Any], by_hand: Mapping[str, str]
) -> list[dict[str, str]]:
    out = [{"operator": name, "verdict": EXCLUDED, "reason": reason} for name, reason in by_hand.items()]
    for row in rows:
        if row.verdict != "correct":
            reason = f"{row.reason} at {row.at}" if row.at else row.reason
            out.append({"operator": row.operator, "verdict": row.verdict, "reason": reason})
        elif row.operator not in operators:
            reason = _why_not(row.operator, choice)
            out.append({"operator": row.operator, "verdict": row.verdict, "reason": reason})
    return sorted(out, key=lambda row: row["operator"])


def _why_not(operator: str, choice: Mapping[str, Any]) -> str:
    """Why a correct operator was not chosen: the decision of the search."""
    for step in choice["steps"]:
        if step["out"] == operator:
            return str(step["decision"]) + (" with the others" if len(step["operators"]) > 1 else "")
    return "certainly faster than the vendor's kernel at no shape class"


def _tuning(tuned: Mapping[str, Any]) -> dict[str, Any]:
    rows = tuned["tuned"]
    return {
        "kernels": len({row["kernel"] for row in rows}),
        "keys": len(rows),
        "states": dict(Counter(row["state"] for row in rows)),
        "candidates": sum(row["screened"] for row in rows),
        "missing": tuned["missing"],
        "untunable": tuned["untunable"],
        "failed": tuned["failed"],
        "tuning_events": tuned["tuning_events"],
    }


def _shares(figures: Sequence[Figure]) -> dict[str, Any]:
    """By operator: the number of shape classes measured, the number at which its interval lies above one, and its
    share of the roofline."""
    by_operator: dict[str, list[Figure]] = {}
    for figure in figures:
        by_operator.setdefault(figure.operator, []).append(figure)
    return {
        operator: {
            "classes": len(some),
            "faster": sum(figure.low > 1 for figure in some),
            "share": _spread([figure.share for figure in some if figure.share is not None]),
            "native_share": _spread([figure.native_share for figure in some if figure.native_share is not None]),
        }
        for operator, some in sorted(by_operator.items())
    }


def _spread(values: Sequence[float]) -> list[float]:
    """Lowest, median, highest."""
    return [round(value, 4) for value in (min(values), statistics.median(values), max(values))] if values else []


def _served(choice: Mapping[str, Any]) -> dict[str, list[float]]:
    if not choice["steps"]:
        return {}
    return {
        load: [round(ratio[name], 4) for name in ("median", "low", "high")]
        for load, ratio in choice["steps"][-1]["ratios"].items()
    }
