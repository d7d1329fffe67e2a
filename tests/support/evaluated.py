"""A workspace, a ledger of baselines and loopback endpoints for both stacks, for tests of the accuracy stage."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flagrelease.config.matrix import Share
from flagrelease.contract.accuracy_results import Accuracy
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.contract.results import IMAGE, WEIGHTS
from flagrelease.evaluation.datasets import write_manifest
from flagrelease.ports.clock import SystemClock
from flagrelease.ports.meter import Meter
from flagrelease.serving.server import ServeRequest
from flagrelease.stages.accuracy.run import evaluate
from flagrelease.store.evidence import EvidenceStore
from flagrelease.store.workspace import Workspace
from support import finished_cell
from support.contexts import Remembered, Shown, after
from support.endpoints import Answer, Endpoint, Said, letters, serving

QUESTIONS = 72
CHOICES = ["one", "two", "three", "four"]


@dataclass
class World:
    """One workspace, one ledger of baselines, and what each stack's endpoint says."""

    root: Path
    stacks: dict[str, Answer]
    shared: Remembered = field(default_factory=Remembered)
    started: list[str] = field(default_factory=list)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    progress: Shown = field(default_factory=Shown)
    up: list[str] = field(default_factory=list)

    def job(self, *, gate_tokens: int = 0, **changes: Any) -> Job:
        """A job, by default without the token gate: these endpoints only chat."""
        job = replace(finished_cell.job(**changes), data_dir=self.root / "data")
        return replace(job, cell=replace(job.cell, profile=replace(job.cell.profile, gate_tokens=gate_tokens)))

    def context(self) -> Context:
        made = finished_cell.finished()
        empty = Context(
            run_id="run",
            workspace=Workspace(self.root),
            evidence=EvidenceStore(self.root / "evidence"),
            ports=None,  # type: ignore[arg-type]  nothing outside is needed: data is local, the server stands in
            progress=self.progress,
            meter=Meter(SystemClock()),
            shared=self.shared,
        )
        return after(empty, weights=made.result(WEIGHTS), image=made.result(IMAGE))

    @property
    def ledger(self) -> dict[str, Any]:
        """What cells share, by key."""
        return self.shared.values

    @contextmanager
    def serve(self, job: Job, context: Context, request: ServeRequest) -> Iterator[Any]:
        stack = request.stack
        assert job.cell.chip.vendor == "cpu" or not self.up, "two servers on a chip that holds one"
        assert bool(self.up) is request.colocated, context.run_id
        self.started.append(stack)
        self.up.append(stack)
        try:
            with serving(self.stacks[stack]) as endpoint:
                self.endpoints[stack] = endpoint
                yield Stood(endpoint.base_url)
        finally:
            self.up.remove(stack)

    def sampled(self, *, vendor: str = "cpu", repeats: int = 16, sequential: bool = True) -> Job:
        """A job that asks sampled questions several times."""
        sampling = replace(finished_cell.model().sampling, temperature=0.7)
        job = self.job(sampling=sampling)
        benchmark = replace(job.matrix.benchmarks["mmlu-sample"], task="integer", repeats=repeats, total=None)
        profile = replace(job.cell.profile, benchmarks={"mmlu-sample": Share()}, sequential=sequential)
        cell = replace(job.cell, profile=profile, chip=replace(job.cell.chip, vendor=vendor))
        return replace(job, cell=cell, matrix=replace(job.matrix, benchmarks={"mmlu-sample": benchmark}))

    def evaluate(self, job: Job, context: Context | None = None) -> Accuracy:
        return evaluate(job, context or self.context(), serve=self.serve)

    def run(self, **changes: Any) -> Accuracy:
        return self.evaluate(self.job(**changes))


def answering(right: Callable[[int], bool]) -> Answer:
    """Question N has the right answer B; it is given where `right(N)`."""

    def answer(request: dict[str, Any], _n: int) -> Said:
        number = int(request["messages"][0]["content"].partition("number ")[2].partition("?")[0])
        return letters({"B": -0.1, "A": -3.0} if right(number) else {"A": -0.1, "B": -3.0})

    return answer


def world_of(root: Path, questions: int = QUESTIONS) -> World:
    """Both stacks are right on two of three questions."""
    data = root / "data"
    data.mkdir()
    rows = [{"question": f"number {n}?", "choices": CHOICES, "answer": 1} for n in range(questions)]
    (data / "mmlu.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_manifest(data)
    return World(root, {"native": answering(lambda n: n % 3 > 0), "flagos": answering(lambda n: n % 3 > 0)})


@dataclass(frozen=True)
class Stood:
    base_url: str
    model: str = "SmolLM2-135M-Instruct"

    def check(self) -> None:
        pass

    def token_seconds(self, _concurrency: int) -> float:
        return 0.0
