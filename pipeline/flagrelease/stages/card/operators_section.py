"""The operator section of the card. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from flagrelease.contract.results import Kernels, Operator
from flagrelease.stages.card.markdown import Markdown, code, table

EFFECT_FIRST = "Operator in effect"
EXCLUDED_FIRST = "Operator left out"
"""Headers of the first columns of the two tables; the lint finds the tables by them."""

POLICIES: Mapping[str, str] = {
    "coverage": "every correct operator",
    "express": "among the correct operators, at the sizes where they are significantly faster, the set with which the "
    "served model is fastest",
}

EXECUTIONS: Mapping[str, str] = {
    "compiled": "layers compiled and captured in a graph, logits and sampling eager",
    "captured": "layers captured in a graph, logits and sampling eager",
    "eager": "nothing compiled or captured",
}


GREEDY = (
    "Chosen for greedy decoding, which the evaluation uses: additional operators called by requests with a temperature "
    "use the vendor's own kernels."
)


def view(kernels: Kernels, called: Mapping[str, int] | None = None) -> dict[str, Any]:
    """The template values of the operator section. `called` has the calls of each operator during the evaluation."""
    tuning, served = kernels.tuning, kernels.served
    chosen = [f"{POLICIES.get(kernels.policy, kernels.policy)}."]
    if kernels.requests == "greedy":
        chosen.append(GREEDY)
    return {
        "calls": len(kernels.operators) + len(kernels.excluded),
        "verdicts": ", ".join(f"{count} {verdict}" for verdict, count in _most_first(kernels.verdicts)),
        "chosen": " ".join(chosen),
        "execution": EXECUTIONS.get(kernels.execution, ""),
        "kernels": "1 kernel" if tuning.kernels == 1 else f"{tuning.kernels} kernels",
        "candidates": f"{tuning.candidates:,}",
        "time": f"{tuning.seconds:.0f} s" if tuning.seconds < 120 else f"{tuning.seconds / 60:.1f} min",
        "effective": f"{len(kernels.operators)} {'is' if len(kernels.operators) == 1 else 'are'} in effect",
        "served": Markdown("; ".join(f"{code(load)} {_ratio(served[load])}" for load in by_size(served))),
        "slower": Markdown(", ".join(code(load) for load in by_size(served) if served[load][2] < 1)),
        "called": _called(called),
        "in_effect": effect_table(kernels) if kernels.operators else None,
        "left_out": excluded_table(kernels) if kernels.excluded else None,
    }


def _called(called: Mapping[str, int] | None) -> Markdown:
    if called is None:
        return Markdown()
    counts = ", ".join(f"{code(name)} {count:,} times" for name, count in _most_first(called))
    return Markdown(f"called outside of graphs: {counts}" if counts else "called outside of graphs: none")


def effect_table(kernels: Kernels) -> Markdown:
    header = (EFFECT_FIRST, "Sizes measured", "Certainly faster", "Share of the chip's limit", "Vendor's kernel")
    return table(header, [tuple(map(Markdown, effect_cells(operator))) for operator in kernels.operators])


def effect_cells(operator: Operator) -> tuple[str, ...]:
    """The cells of one row, exactly as printed."""
    sizes = (str(operator.classes), str(operator.faster))
    return (code(operator.name), *sizes, _share(operator.share), _share(operator.native_share))


def excluded_table(kernels: Kernels) -> Markdown:
    rows = [(code(item.operator), item.verdict, item.reason or "no reason given") for item in kernels.excluded]
    return table((EXCLUDED_FIRST, "Verdict", "Why"), rows)


def by_size(loads: Iterable[str]) -> list[str]:
    """Sort loads by the numbers in their names: `decode:8x512` before `decode:32x512`."""
    return sorted(loads, key=lambda load: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", load)])


def _most_first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1%}".replace("%", " %")


def _ratio(interval: tuple[float, float, float]) -> str:
    ratio, low, high = interval
    return f"{ratio:.3f} [{low:.3f}, {high:.3f}]"
