"""Toy stages of a cell with operators: the gate FAILs as long as a guilty one is on. Guilt is told by files.

ROOT/guilty names what makes `accuracy` FAIL, ROOT/deadly what makes `smoke` die; the remedy finds those that
ROOT/findable names.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import toys
from flagrelease.attribution import resumed
from flagrelease.context import Context
from flagrelease.errors import DiedBeforeReady, EnvironmentFault
from flagrelease.job import Job
from flagrelease.ledger import Ledger
from flagrelease.plan import Choice
from flagrelease.results import Attribution, Culprit
from flagrelease.runner import CellRun
from flagrelease.stage import Remedy, Stage

OPERATORS = ("add", "mm", "mul", "silu")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    operators: tuple[str, ...]

    @property
    def summary(self) -> str:
        return " ".join(self.operators)


@dataclass(frozen=True, kw_only=True)
class Judged:
    verdict: str
    text: str = ""

    @property
    def summary(self) -> str:
        return f"{self.verdict} {self.text}".strip()


def told(context: Context, name: str) -> set[str]:
    path = context.workspace.root / name
    return set(path.read_text().split()) if path.exists() else set()


def prepare(job: Job, context: Context) -> Prepared:
    toys._log(context, "kernels")
    return Prepared(operators=tuple(name for name in OPERATORS if name not in job.cell.kernels.exclude))


def smoke(_job: Job, context: Context) -> Judged:
    toys._log(context, "smoke")
    if deadly := told(context, "deadly") & set(context.upstream["kernels"].operators):
        raise DiedBeforeReady("the server ended before it answered", why=f"illegal access in {min(deadly)}")
    return Judged(verdict="PASS")


def accuracy(_job: Job, context: Context) -> Judged:
    toys._log(context, "accuracy")
    on = set(context.upstream["kernels"].operators)
    return Judged(verdict="FAIL" if told(context, "guilty") & on else "PASS", text=" ".join(sorted(on)))


def attribute(job: Job, context: Context) -> Attribution:
    toys._log(context, "attribute")
    if told(context, "kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    if told(context, "broken"):
        raise EnvironmentFault("the chip does not answer")
    on = context.upstream["kernels"].operators
    found = [name for name in on if name in told(context, "findable")][:1]
    return Attribution(
        round=len(job.attributed) + 1,
        gate="accuracy" if "accuracy" in context.finished else "smoke",
        operators=len(on),
        together="excess 3.0" if found else "excess 1.0",
        culprits=tuple(Culprit(operator=name, finding="excess 3.0") for name in found),
        clean=True,
    )


def _inputs(job: Job) -> dict[str, Any]:
    return {"model": job.cell.model_name, "chip": job.cell.chip_name}


STAGES = (
    Stage(name="weights", doing="fetching", result=Judged, inputs=_inputs, run=lambda *_: Judged(verdict="PASS")),
    Stage(
        name="kernels",
        doing="preparing",
        result=Prepared,
        inputs=lambda job: {**_inputs(job), "kernels": job.cell.kernels},
        run=prepare,
        reads=("weights",),
    ),
    Stage(name="smoke", doing="starting", result=Judged, inputs=_inputs, run=smoke, reads=("kernels",)),
    Stage(name="accuracy", doing="asking", result=Judged, inputs=_inputs, run=accuracy, reads=("kernels",)),
    Stage(name="card", doing="writing", result=toys.Made, inputs=_inputs, run=toys.first, reads=("accuracy",)),
)
REMEDY = Remedy(
    stage=Stage(
        name="attribute", doing="looking", result=Attribution, inputs=_inputs, run=attribute, reads=("kernels",)
    )
)


def run_cell(root: Path, cell: str = "cpu/tiny", rounds: int = 3, only: str = "") -> CellRun:
    """The cell, ready to be run as `flagrelease run` would: with what earlier runs found."""
    choice = Choice(only=frozenset(only.split()))
    session = replace(toys.session(root, choice), stages=STAGES, remedy=replace(REMEDY, rounds=rounds))
    return CellRun(session, job(root, cell))


def job(root: Path, cell: str = "cpu/tiny") -> Job:
    return resumed(toys.jobs(root)[cell], STAGES, REMEDY, Ledger(root / "ledger.jsonl"))
