"""Tables of simulated rates: what to simulate, over how many processes, and the counts."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from simulated import Setting

BATCH = 100
"""Evaluations that one process simulates together; each batch has a random stream of its own."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is asked for on the command line."""

    runs: int = 1000
    seed: int = 1
    only: str = ""
    jobs: int = 1
    out: Path | None = None

    def settings(self, settings: Iterable[Setting]) -> list[Setting]:
        return [setting for setting in settings if self.only in f"{setting.name} {setting.kind}"]

    def parts(self) -> list[tuple[int, int]]:
        """The number and the size of each batch."""
        return [(part, min(BATCH, self.runs - start)) for part, start in enumerate(range(0, self.runs, BATCH))]

    def spread(self, work: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        """`work` on each of the tasks, in their order, over processes with one thread each."""
        if self.jobs == 1:
            yield from (work(*task) for task in tasks)
            return
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[name] = "1"  # read by the processes' numpy
        with get_context("spawn").Pool(self.jobs) as pool:
            yield from pool.imap(_unpacked, [(work, task) for task in tasks])

    def keep(self, **row: object) -> None:
        if self.out:
            with self.out.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row, ensure_ascii=False) + "\n")


def _unpacked(work_and_task: tuple[Callable[..., Any], tuple[Any, ...]]) -> Any:
    work, task = work_and_task
    return work(*task)


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Counts over the evaluations of a setting."""

    runs: int
    passed: int
    failed: int
    answers: float
    """Of the candidate, in all of them."""

    @staticmethod
    def of(counts: Iterable[Mapping[str, float]]) -> Tally:
        counts = list(counts)
        return Tally(**{name: sum(each[name] for each in counts) for name in counts[0]})  # type: ignore[arg-type]

    def rate(self, which: str = "passed") -> str:
        return percent(getattr(self, which) / self.runs, self.runs)


def percent(share: float, runs: int) -> str:
    return f"{100 * share:.1f} ± {100 * np.sqrt(max(share, 1 / runs) * (1 - share) / runs):.1f}"


def head(*names: str) -> list[str]:
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def print_tables(text: str | None, tables: Mapping[str, Callable[[Order], list[str]]], *, runs: int) -> None:
    """Print the tables that the command line names; `runs` simulations by default."""
    arguments = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(tables)}; default: all")
    arguments.add_argument("--runs", type=int, default=runs, help="simulations of each setting")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--only", default="", help="only settings whose name and difficulty contain this")
    arguments.add_argument("--jobs", type=int, default=1, help="processes")
    arguments.add_argument("--out", type=Path, help="a file for every rate, one line of JSON each")
    chosen = arguments.parse_args()
    order = Order(runs=chosen.runs, seed=chosen.seed, only=chosen.only, jobs=chosen.jobs, out=chosen.out)
    for name in chosen.tables or tables:
        print(f"\n{name}\n")
        print("\n".join(tables[name](order)), flush=True)
