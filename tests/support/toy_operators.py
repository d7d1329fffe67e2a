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

from flagrelease.contract.context import Context
from flagrelease.contract.handles import ResultOf, VerdictName
from flagrelease.contract.job import Job
from flagrelease.contract.results import ATTRIBUTION, Attribution, Culprit
from flagrelease.contract.stage import Remedy, Stage
from flagrelease.errors import DiedBeforeReady, EnvironmentFault
from flagrelease.run.cell_run import CellRun
from flagrelease.run.plan import Choice
from flagrelease.run.remedy import resumed
from flagrelease.store.evidence import Evidence
from flagrelease.store.ledger import Ledger
from support import toys

OPERATORS = ("add", "mm", "mul", "silu")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    operators: tuple[str, ...]
    evidence: tuple[Evidence, ...] = ()

    @property
    def summary(self) -> str:
        return " ".join(self.operators)


@dataclass(frozen=True, kw_only=True)
class Judged:
    verdict: VerdictName
    text: str = ""
    evidence: tuple[Evidence, ...] = ()

    @property
    def summary(self) -> str:
        return f"{self.verdict} {self.text}".strip()


WEIGHTS = ResultOf("weights", Judged)
KERNELS = ResultOf("kernels", Prepared)
SMOKE = ResultOf("smoke", Judged)
ACCURACY = ResultOf("accuracy", Judged)
CARD = ResultOf("card", toys.Made)


def told(context: Context, name: str) -> set[str]:
    path = context.workspace.root / name
    return set(path.read_text().split()) if path.exists() else set()


def prepare(job: Job, context: Context) -> Prepared:
    toys._log(context, "kernels")
    return Prepared(operators=tuple(name for name in OPERATORS if name not in job.cell.kernels.exclude))


def smoke(_job: Job, context: Context) -> Judged:
    toys._log(context, "smoke")
    if deadly := told(context, "deadly") & set(context.result(KERNELS).operators):
        raise DiedBeforeReady("the server ended before it answered", why=f"illegal access in {min(deadly)}")
    return Judged(verdict="PASS")


def accuracy(_job: Job, context: Context) -> Judged:
    toys._log(context, "accuracy")
    on = set(context.result(KERNELS).operators)
    return Judged(verdict="FAIL" if told(context, "guilty") & on else "PASS", text=" ".join(sorted(on)))


def attribute(job: Job, context: Context) -> Attribution:
    toys._log(context, "attribute")
    if told(context, "kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    if told(context, "broken"):
        raise EnvironmentFault("the chip does not answer")
    on = context.result(KERNELS).operators
    found = [name for name in on if name in told(context, "findable")][:1]
    return Attribution(
        round=len(job.attributed) + 1,
        gate="accuracy" if ACCURACY in context.finished else "smoke",
        operators=len(on),
        together="excess 3.0" if found else "excess 1.0",
        culprits=tuple(Culprit(operator=name, finding="excess 3.0") for name in found),
        clean=True,
    )


def _inputs(job: Job) -> dict[str, Any]:
    return {"model": job.cell.model_name, "chip": job.cell.chip_name}


STAGES = (
    Stage(result=WEIGHTS, doing="fetching", inputs=_inputs, run=lambda *_: Judged(verdict="PASS")),
    Stage(
        result=KERNELS,
        doing="preparing",
        inputs=lambda job: {**_inputs(job), "kernels": job.cell.kernels},
        run=prepare,
        reads=(WEIGHTS,),
    ),
    Stage(result=SMOKE, doing="starting", inputs=_inputs, run=smoke, reads=(KERNELS,)),
    Stage(result=ACCURACY, doing="asking", inputs=_inputs, run=accuracy, reads=(KERNELS,)),
    Stage(result=CARD, doing="writing", inputs=_inputs, run=toys.first, reads=(ACCURACY,)),
)
REMEDY = Remedy(
    stage=Stage(result=ATTRIBUTION, doing="looking", inputs=_inputs, run=attribute, reads=(KERNELS,)),
    again=KERNELS,
    gates=(SMOKE, ACCURACY),
)


def run_cell(root: Path, cell: str = "cpu/tiny", rounds: int = 3, only: str = "") -> CellRun:
    """The cell, ready to be run as `flagrelease run` would: with what earlier runs found."""
    choice = Choice(only=frozenset(only.split()))
    session = replace(toys.session(root, choice), stages=STAGES, remedy=replace(REMEDY, rounds=rounds))
    return CellRun(session, job(root, cell))


def job(root: Path, cell: str = "cpu/tiny") -> Job:
    return resumed(toys.jobs(root)[cell], STAGES, REMEDY, Ledger(root / "ledger.jsonl"))
