"""Small real stages for tests of the spine: they write files, wait and fail; nothing in them is mocked."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flagrelease.cli.display import PlainBoard
from flagrelease.config import strict_yaml
from flagrelease.config.cell import expand
from flagrelease.config.lockfile import Lock
from flagrelease.config.matrix import Matrix
from flagrelease.contract.context import Context, Ports
from flagrelease.contract.handles import ResultOf
from flagrelease.contract.job import Job
from flagrelease.contract.stage import Stage
from flagrelease.errors import SmokeFailed
from flagrelease.ports.clock import SystemClock
from flagrelease.run.cell_run import CellRun, Session
from flagrelease.run.interrupt import Workers
from flagrelease.run.plan import Choice
from flagrelease.store.evidence import Evidence, EvidenceStore
from flagrelease.store.ledger import Ledger
from flagrelease.store.workspace import Workspace

MATRIX = """\
version: 1
registry: localhost:5000/x
defaults: {baseline: {chip: cpu}, profile: quick}
chips:
  cpu: &NONE
    vendor: cpu
    device: {name: CPU, code: cpu, query: lscpu}
    base: "base:1"
    components: {flagscale: "0.8", flaggems: none}
  gpu:
    vendor: nvidia
    device: {name: GPU, code: gpu}
    base: "base:2"
    components: {flagscale: "0.8", flaggems: none}
    hosts: ["ssh://gpu"]
models:
  tiny: {title: Tiny, source: "file:///t", upstream: me/t, license: mit, serve: {name: t, engine: llama_cpp}}
  big: {title: Big, source: "file:///b", upstream: me/b, license: mit, serve: {name: b, engine: vllm}}
benchmarks:
  sums: {title: Sums, task: integer, data: data://sums.jsonl, license: MIT}
profiles:
  quick: {benchmarks: {sums: {limit: 3}}}
exclude:
  - {chip: cpu, model: big, reason: does not fit}
""".replace(" &NONE", "")


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a toy stage gives."""

    text: str
    evidence: tuple[Evidence, ...] = ()

    @property
    def summary(self) -> str:
        return self.text


FIRST = ResultOf("first", Made)
SECOND = ResultOf("second", Made)
IDLE = ResultOf("idle", Made)
THIRD = ResultOf("third", Made)


class NoRegistry:
    """The toys publish nothing."""


def first(_job: Job, context: Context) -> Made:
    """Appends a line to `ran` each time that it runs, and keeps evidence."""
    _log(context, "first")
    return Made(text="one", evidence=(context.evidence.put("one.txt", b"one"),))


def second(job: Job, context: Context) -> Made:
    """Reads the first; does what TOY tells it: fail, hang, or die."""
    _log(context, "second")
    command = os.environ.get(f"TOY_{job.cell.model_name.upper()}", "")
    if command == "fail":
        raise SmokeFailed("the toy broke", why="it was told to", hint="tell it otherwise", detail="line 1\nline 2")
    if command == "defect":
        raise ZeroDivisionError("a defect")
    if command == "hang":
        (context.workspace.root / "hanging").touch()
        time.sleep(0.1)
        while True:
            context.ports.clock.sleep(0.05)
    if command == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return Made(text=context.result(FIRST).text + " two")


def third(_job: Job, context: Context) -> Made:
    _log(context, "third")
    return Made(text=context.result(SECOND).text + " three")


def _log(context: Context, name: str) -> None:
    path = context.workspace.root / "ran"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        stream.write(f"{name}\n")


def _inputs(job: Job) -> dict[str, Any]:
    return {"model": job.cell.model_name, "chip": job.cell.chip_name}


STAGES = (
    Stage(result=FIRST, doing="making one", inputs=_inputs, run=first),
    Stage(result=SECOND, doing="making two", inputs=_inputs, run=second, reads=(FIRST,), on_chip=True),
    Stage(result=IDLE, doing="", inputs=_inputs, run=third, skip=lambda _job: "nothing to do here"),
    Stage(result=THIRD, doing="making three", inputs=_inputs, run=third, reads=(SECOND,)),
)


def matrix() -> Matrix:
    return strict_yaml.loads(MATRIX.encode(), Matrix)


def jobs(root: Path) -> dict[str, Job]:
    """The jobs of all cells by id."""
    loaded = matrix()
    return {
        cell.id: Job(cell=cell, matrix=loaded, lock=Lock(), registry="localhost:5000/x", templates=root)
        for cell in expand(loaded)
    }


def session(root: Path, choice: Choice | None = None, run_id: str = "testrun", **more: Any) -> Session:
    nothing: Any = NoRegistry()
    return Session(
        run_id=run_id,
        workspace=Workspace(root),
        ledger=Ledger(root / "ledger.jsonl"),
        evidence=EvidenceStore(root / "evidence"),
        ports=Ports(
            clock=SystemClock(), command=nothing, docker=nothing, runner=nothing, registry=nothing, hubs=nothing
        ),
        stages=STAGES,
        choice=choice or Choice(),
        board=more.pop("board", None) or PlainBoard(),
        workers=more.pop("workers", None) or Workers(),
    )


def run_cells(root: Path, *ids: str, choice: Choice | None = None) -> list[CellRun]:
    """Fresh CellRuns of one new session."""
    shared = session(root, choice)
    return [CellRun(shared, jobs(root)[one]) for one in ids]


def ran(root: Path) -> list[str]:
    """Which stages really ran, in order."""
    path = root / "ran"
    return path.read_text().split() if path.exists() else []
