"""Measure the distribution of FlagGems' `exponential_`, with which vLLM samples tokens (argmax of odds / exponential).

    python benchmarks/h100/drawn.py --out RESULTS

Compares the vendor's kernel and FlagGems' on one chip with the exact odds; in RESULTS: drawn.json and drawn.md. The
odds fall as 1/rank over a vocabulary of 151,936 tokens. Needs torch, Triton and flag_gems.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

VOCABULARY = 151_936
REQUESTS, STEPS = 64, 320
HEADS = (1, 10, 100, 1000)
BELOW = 0.1

Draw = Callable[[torch.Tensor], torch.Tensor]


def values(draw: Draw) -> dict[str, float]:
    """For one row of the vocabulary: the smallest value, the share below 0.1, and the number of distinct values."""
    drawn = draw(torch.empty(1, VOCABULARY, device="cuda")).double()
    return {
        "least": float(drawn.min()),
        "share_below": float((drawn < BELOW).double().mean()),
        "different": len(set(drawn.flatten().tolist())),
    }


def heads(draw: Draw, odds: torch.Tensor) -> dict[int, float]:
    """The share of sampled tokens among the likeliest 1, 10, 100, 1000."""
    rows = odds.expand(REQUESTS, -1)
    tokens = [(rows / draw(torch.empty_like(rows))).argmax(-1) for _ in range(STEPS)]
    ranks = torch.cat(tokens)
    return {head: float((ranks < head).double().mean()) for head in HEADS}


def measured() -> dict[str, Any]:
    import flag_gems

    torch.manual_seed(0)
    odds = 1 / torch.arange(1, VOCABULARY + 1, device="cuda", dtype=torch.float64)
    odds /= odds.sum()
    kernels: dict[str, Draw] = {"native": torch.Tensor.exponential_, "flag_gems": flag_gems.ops.exponential_}
    exact = 1 - torch.exp(torch.tensor(-BELOW, dtype=torch.float64))
    return {
        "device": torch.cuda.get_device_name(),
        "version": flag_gems.__version__,
        "draws": REQUESTS * STEPS,
        "exact": {"share_below": float(exact), "heads": {head: float(odds[:head].sum()) for head in HEADS}},
        **{name: {**values(draw), "heads": heads(draw, odds.float())} for name, draw in kernels.items()},
    }


def table(data: dict[str, Any]) -> str:
    columns = [data["exact"], data["native"], data["flag_gems"]]
    lines = [
        f"{data['device']}, flag_gems {data['version']}; {data['draws']:,} draws.",
        "",
        "| | exact | native | FlagGems |",
        "|---|---|---|---|",
        f"| least of {VOCABULARY:,} values | | {columns[1]['least']:.2g} | {columns[2]['least']:.2g} |",
        f"| of them different | | {columns[1]['different']:,} | {columns[2]['different']:,} |",
        f"| share below {BELOW} | " + " | ".join(f"{one['share_below']:.4f}" for one in columns) + " |",
    ]
    for head in HEADS:
        cells = " | ".join(f"{one['heads'][head]:.3f}" for one in columns)
        lines.append(f"| tokens drawn of the likeliest {head} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    data = measured()
    (args.out / "drawn.json").write_text(json.dumps(data, indent=1) + "\n")
    (args.out / "drawn.md").write_text(table(data))
    print(table(data))


if __name__ == "__main__":
    main()
