"""What a card says of its operators. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from flagrelease.contract.results import Kernels, Operator
from flagrelease.stages.card.markdown import Markdown, code, table

EFFECT_FIRST = "Operator in effect"
EXCLUDED_FIRST = "Operator left out"
"""The first columns of the two tables."""

POLICIES: Mapping[str, str] = {
    "coverage": "every operator that is correct",
    "express": "of the correct ones, at the sizes at which they are certainly faster, those with which the served "
    "model is fastest",
}

EXECUTIONS: Mapping[str, str] = {
    "compiled": "layers compiled and captured in a graph, logits and sampling as written",
    "captured": "layers captured in a graph, logits and sampling as written",
    "eager": "nothing compiled or captured",
}


GREEDY = (
    "Chosen for greedy answers, as the evaluation asks for them: what a request with a temperature calls beyond stays "
    "with the vendor's own kernels."
)


def view(kernels: Kernels, called: Mapping[str, int] | None = None) -> dict[str, Any]:
    """What the card's section on operators shows. `called`: how often each was while questions were asked."""
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
    return Markdown(f"called outside of graphs: {counts}" if counts else "called outside of graphs: none of them")


def effect_table(kernels: Kernels) -> Markdown:
    header = (EFFECT_FIRST, "Sizes measured", "Certainly faster", "Share of the chip's limit", "Vendor's kernel")
    return table(header, [tuple(map(Markdown, effect_cells(one))) for one in kernels.operators])


def effect_cells(one: Operator) -> tuple[str, ...]:
    """One line, exactly as it is printed."""
    return (code(one.name), str(one.classes), str(one.faster), _share(one.share), _share(one.native_share))


def excluded_table(kernels: Kernels) -> Markdown:
    rows = [(code(one.operator), one.verdict, one.reason or "no reason was given") for one in kernels.excluded]
    return table((EXCLUDED_FIRST, "Verdict", "Why"), rows)


def by_size(loads: Iterable[str]) -> list[str]:
    """`decode:8x512` before `decode:32x512`."""
    return sorted(loads, key=lambda load: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", load)])


def _most_first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1%}".replace("%", " %")


def _ratio(found: tuple[float, float, float]) -> str:
    return f"{found[0]:.3f} [{found[1]:.3f}, {found[2]:.3f}]"
