"""Maturity of a release: how much its evidence covers. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flagrelease.releases.facts import Facts
from flagrelease.verdict.types import Verdict

Level = Literal["experimental", "functional", "complete"]


@dataclass(frozen=True, kw_only=True)
class Maturity:
    """A level, and what is missing for the next one."""

    level: Level
    """`experimental`: not every gate passes. `functional`: all gates that were measured pass. `complete`: every gate
    was measured, on complete benchmarks."""
    missing: tuple[str, ...] = ()
    """What the next level needs; empty for `complete`."""


def maturity(facts: Facts) -> Maturity:
    """The maturity of a release."""
    if gaps := tuple(_to_function(facts)):
        return Maturity(level="experimental", missing=gaps)
    gaps = tuple(_to_complete(facts))
    return Maturity(level="functional" if gaps else "complete", missing=gaps)


def _to_function(facts: Facts) -> list[str]:
    gaps = [f"the smoke check {check.name} failed" for check in facts.smoke.checks if not check.passed]
    if facts.accuracy.verdict is not Verdict.PASS and facts.verdict is not Verdict.PASS:
        gaps.append(f"accuracy is {facts.accuracy.verdict.value}")
    if facts.speed is not None and facts.speed.verdict is not Verdict.PASS and facts.verdict is not Verdict.PASS:
        gaps.append(f"speed is {facts.speed.verdict.value}")
    gaps += [f"{stage} {why}" for stage, why in facts.unfinished.items()]
    if facts.image.runner != "docker":
        gaps.append("there is no image")
    return gaps


def _to_complete(facts: Facts) -> list[str]:
    gaps = [f"{waiver.gate} is waived until {waiver.until}" for waiver in facts.waivers]
    gaps += [f"{row.benchmark} was asked in part ({row.partial})" for row in facts.accuracy.benchmarks if row.partial]
    gaps += [f"{row.benchmark} is {row.verdict.value}" for row in facts.accuracy.benchmarks if row.verdict != "PASS"]
    gate = facts.accuracy.token_gate
    if gate is None or gate.verdict is None:
        gaps.append("the token gate was not measured")
    elif gate.verdict is not Verdict.PASS:
        gaps.append(f"the token gate is {gate.verdict.value}")
    if facts.speed is None:
        gaps.append("speed was not measured")
    gaps += [f"the smoke check {name} was not made" for name in facts.smoke.skipped]
    return gaps
