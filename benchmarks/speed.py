"""Simulate the comparison of speed, and print how often each verdict is given.

    python benchmarks/speed.py [--runs N] [--setting NAME]

A row is a machine, and a standard deviation of the ratio from start to start. A generator of this file's own draws the
logarithms of the times of alternating runs, run by run in the order of time, and shares no code with the product, which
sees two lists of speeds. The gate is 0.80; the columns have the true ratio. A simulation ends when the verdict is
decided, or undecided after `--starts` starts. ± is two Monte-Carlo standard errors at the nominal 5 %.

    iid       independent noise of 5 % for each run
    ar1       noise of 20 %, correlated with that of the run before: 0.9
    clocks    the machine has two clock rates, 25 % apart, and flips between them with 10 % a run
    slow      3 % of the runs take 3 times as long
    busy      other programs: noise of 28 %, heavy-tailed (Student's t, 4 degrees of freedom), correlated: 0.5
    wild      the same, of 50 % and with 2 degrees of freedom
    order     the second run of each pair is 5 % slower, beside noise of 5 %
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "pipeline"))

from flagrelease.verdict.speed import speed_so_far
from flagrelease.verdict.types import Verdict

Noise = Callable[[random.Random], Iterator[float]]
"""The logarithms of the factors by which successive runs are slower."""

GATE = 0.80


def iid(source: random.Random) -> Iterator[float]:
    while True:
        yield source.gauss(0, 0.05)


def ar1(source: random.Random, rho: float = 0.9, sd: float = 0.2) -> Iterator[float]:
    state = source.gauss(0, sd)
    while True:
        yield state
        state = rho * state + math.sqrt(1 - rho * rho) * source.gauss(0, sd)


def clocks(source: random.Random) -> Iterator[float]:
    slow = source.random() < 0.5
    while True:
        yield 0.25 * slow + source.gauss(0, 0.03)
        slow ^= source.random() < 0.1


def rare(source: random.Random) -> Iterator[float]:
    while True:
        yield (math.log(3) if source.random() < 0.03 else 0.0) + source.gauss(0, 0.03)


def heavy(source: random.Random, scale: float, freedom: int) -> Iterator[float]:
    state = 0.0
    while True:
        shock = source.gauss(0, 1) / math.sqrt(source.gammavariate(freedom / 2, 2 / freedom))  # Student's t
        state = 0.5 * state + math.sqrt(1 - 0.25) * scale * max(-20.0, min(20.0, shock))
        yield state


def busy(source: random.Random) -> Iterator[float]:
    return heavy(source, 0.2, 4)


def wild(source: random.Random) -> Iterator[float]:
    return heavy(source, 0.5, 2)


def order(source: random.Random) -> Iterator[float]:
    for second in itertools.cycle((False, True)):
        yield 0.05 * second + source.gauss(0, 0.05)


NOISES: dict[str, Noise] = {
    "iid": iid,
    "ar1": ar1,
    "clocks": clocks,
    "slow": rare,
    "busy": busy,
    "wild": wild,
    "order": order,
}


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Shares of the simulations, and the mean number of starts."""

    passed: float
    failed: float
    starts: float


def measured(
    source: random.Random, noise: Noise, ratio: float, start_sd: float, starts: int, pairs: int
) -> list[tuple[int, float, float]]:
    """Pairs as (start, baseline's speed, candidate's speed)."""
    slower = noise(source)
    rows = []
    for start in range(starts):
        # Each server has its own speed in each start, so each side has the half of the variance of the ratio.
        sides = [source.gauss(0, start_sd / math.sqrt(2)) for _ in range(2)]
        lot = source.random() < 0.5
        for pair in range(pairs):
            times = [0.0, 0.0]
            first = int(lot) ^ (pair % 2)
            if pair % 2:
                lot = source.random() < 0.5
            for side in (first, 1 - first):
                times[side] = next(slower) + sides[side] - (math.log(ratio) if side else 0.0)
            rows.append((start, math.exp(-times[0]), math.exp(-times[1])))
    return rows


def simulate(noise: Noise, ratio: float, start_sd: float, *, runs: int, most: int, pairs: int, seed: int) -> Tally:
    counts, used = dict.fromkeys(Verdict, 0), 0
    for number in range(runs):
        rows = measured(random.Random(f"{seed} {number}"), noise, ratio, start_sd, most, pairs)
        starts, baseline, candidate = (list(column) for column in zip(*rows, strict=True))
        judged = speed_so_far(baseline, candidate, starts=starts, gate=GATE)
        counts[judged.verdict] += 1
        used += judged.starts
    return Tally(passed=counts[Verdict.PASS] / runs, failed=counts[Verdict.FAIL] / runs, starts=used / runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--starts", type=int, default=27, help="the most starts")
    parser.add_argument("--pairs", type=int, default=4, help="pairs of each start")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--setting", choices=NOISES, action="append", default=[])
    arguments = parser.parse_args()
    shown = f"; ± {200 * math.sqrt(0.05 * 0.95 / arguments.runs):.1f} points"
    print(f"Shares in percent of {arguments.runs} measurements{shown}.\n")
    print("| machine | starts differ by, % | PASS at 0.75 | PASS at 0.80 | FAIL at 0.80 ", end="")
    print("| FAIL at 0.90 | FAIL at 1.00 | PASS at 0.90 | PASS at 1.00 | starts at 1.00 |")
    print("|---" * 10 + "|")
    for name, start_sd in itertools.product(arguments.setting or NOISES, (0.0, 0.02, 0.05)):
        tallies = {
            ratio: simulate(
                NOISES[name],
                ratio,
                start_sd,
                runs=arguments.runs,
                most=arguments.starts,
                pairs=arguments.pairs,
                seed=arguments.seed,
            )
            for ratio in (0.75, 0.80, 0.90, 1.00)
        }
        print(f"| {name} | {100 * start_sd:.0f} | {row(tallies)} |", flush=True)


def row(tallies: dict[float, Tally]) -> str:
    passed = {ratio: f"{100 * tally.passed:.1f}" for ratio, tally in tallies.items()}
    failed = {ratio: f"{100 * tally.failed:.1f}" for ratio, tally in tallies.items()}
    wrong = [passed[0.75], passed[0.80], failed[0.80], failed[0.90], failed[1.00]]
    return " | ".join([*wrong, passed[0.90], passed[1.00], f"{tallies[1.00].starts:.1f}"])


if __name__ == "__main__":
    main()
