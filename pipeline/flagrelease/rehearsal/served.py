"""The stages of a cell on a stand-in for the chip, and the container of the release as Docker Engine creates it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from packaging.version import InvalidVersion, Version

from flagrelease.config.cell import Cell
from flagrelease.contract import accuracy_results, results
from flagrelease.contract.context import Context, Ports
from flagrelease.contract.handles import Done, Finished, ResultOf, StageResult
from flagrelease.contract.job import Job
from flagrelease.contract.server_pool import ServerPool
from flagrelease.errors import ConfigError
from flagrelease.ports.meter import Meter
from flagrelease.recipe import user_commands
from flagrelease.recipe.container import ContainerRun, Placement, effective, for_serving
from flagrelease.recipe.devices import on_card
from flagrelease.rehearsal.report import LeftOut
from flagrelease.rehearsal.steps import Steps
from flagrelease.run.cell_run import new_run_id
from flagrelease.stages.accuracy import run as accuracy
from flagrelease.stages.card import run as card
from flagrelease.stages.card import stage as card_stage
from flagrelease.stages.image import stage as image_stage
from flagrelease.stages.kernels import stage as kernels_stage
from flagrelease.stages.smoke import run as smoke
from flagrelease.stages.smoke.card_commands import card_run
from flagrelease.stages.speed import run as speed
from flagrelease.stages.speed.alternate import Alternation
from flagrelease.stages.speed.points import load_points
from flagrelease.stages.weights import stage as weights_stage
from flagrelease.store.evidence import EvidenceStore
from flagrelease.store.ledger import Spent
from flagrelease.store.workspace import Workspace

R = TypeVar("R", bound=StageResult)

NO_VERDICT = "a rehearsal has no verdict"
_READS: tuple[ResultOf[StageResult], ...] = (
    *(results.WEIGHTS, results.KERNELS, results.IMAGE, results.SMOKE, results.ACCURACY, results.SPEED),
)
_DOCKER_SECONDS = 60.0
_TUNABLE = Version("4.2.1")
_NOT_CHECKED = {"answers": "random weights know no answer"}
"""Checks of smoke that only trained weights pass."""


@dataclass(kw_only=True)
class Stand:
    """What the stages of one rehearsal share."""

    workspace: Workspace
    ports: Ports
    steps: Steps
    pool: ServerPool = field(default_factory=ServerPool)
    done: dict[str, Done[StageResult]] = field(default_factory=dict)
    run_id: str = field(default_factory=new_run_id)

    def context(self, part: str) -> Context:
        """The context of a stage."""
        return Context(
            run_id=self.run_id,
            workspace=self.workspace,
            evidence=EvidenceStore(self.workspace.evidence),
            ports=self.ports,
            progress=self.steps.progress(part),
            meter=Meter(self.ports.clock),
            reads=_READS,
            finished=Finished(self.done.values()),
            server_pool=self.pool,
        )

    def keep(self, handle: ResultOf[R], result: R) -> R:
        """Keep a result for the stages that read it. No key is needed: nothing is ever reused."""
        self.done[handle.stage] = Done(stage=handle.stage, key="", result=result, spent=Spent(seconds=0.0))
        return result

    def stage(
        self, handle: ResultOf[R], doing: str, run: Callable[[Context], R], told: Callable[[R], str] | None = None
    ) -> R:
        """Run a stage that all later ones need; `told` says what was observed, by default its summary. Raises Stopped
        if it fails."""

        def work() -> tuple[R, str]:
            result = self.keep(handle, run(self.context(handle.stage)))
            return result, result.summary if told is None else told(result)

        return self.steps.need(handle.stage, doing, work)


def stages(stand: Stand, job: Job, real: Job) -> None:
    """Take `job`, which stands for `real`, through its stages. Raises Stopped at one that fails."""
    made = stand.stage(results.WEIGHTS, "copying and verifying the weights", partial(weights_stage.run, job))
    if not kernels_stage.skip(real):
        what = "qualifying, tuning and choosing FlagGems operators; the engine's own kernels are used"
        stand.steps.leave_out(LeftOut(part="kernels", what=what, why="they are built for the chip, and measured on it"))
        check_tunable(real.cell, stand.steps)
    image = stand.stage(results.IMAGE, "building the image and pushing it", partial(image_stage.run, job))
    folder = str(stand.workspace.weights / made.folder)
    stand.steps.take("container", "creating the container", lambda: created(stand, real.cell, image, folder))
    random = job.cell.model.source != real.cell.model.source
    unchecked = _NOT_CHECKED if random else {}
    stand.stage(results.SMOKE, "starting the pushed image", partial(_smoke, job, real.cell, image, unchecked))
    for check, why in unchecked.items():
        stand.steps.leave_out(LeftOut(part="smoke", what=f"the check {check}", why=why))
    if job.cell.profile.benchmarks:
        stand.stage(results.ACCURACY, "asking questions", partial(_accuracy, job), _answered)
    if job.cell.profile.speed:
        stand.steps.take("speed", "measuring two loads", lambda: _speed(job, stand.context("speed")))
    stand.pool.close()
    if job.cell.profile.benchmarks:
        model = replace(job.cell.model, source=real.cell.model.source)
        carded = replace(job, cell=replace(job.cell, chip=real.cell.chip, model=model))
        version = card_stage.STAGE.code_version(job.templates)
        stand.stage(results.CARD, "writing the card", lambda context: card.make(carded, context, version))
    else:
        stand.steps.leave_out(LeftOut(part="card", what="the card", why="no benchmark of the profile has data here"))


def check_tunable(cell: Cell, steps: Steps) -> None:
    """Note that the stage `kernels` would refuse a FlagGems that it cannot tune (flagkernels/operators/flaggems)."""
    version = cell.chip.components.flaggems
    with suppress(InvalidVersion):
        if Version(version) < _TUNABLE:
            error = ConfigError(
                f"the stage kernels tunes FlagGems {_TUNABLE} or newer, and this chip has {version}",
                hint=f"take a base image with a newer FlagGems, or write `flaggems: none` for {cell.chip_name}",
            )
            steps.fail("kernels", error)


def created(stand: Stand, cell: Cell, image: results.Image, folder: str) -> tuple[bool, str]:
    """Create, and remove, the container of the release with its flags: Docker Engine looks for devices only when it
    starts one, but for a runtime before. Raises CommandFailed if it refuses them."""
    mounts = tuple(mount for mount in cell.chip.container.mounts if _exists(mount))
    chip = replace(cell.chip, container=replace(cell.chip.container, mounts=mounts, runtime=""))
    named = f"flagrelease-{cell.slug}-rehearsal-{stand.run_id}"
    run: ContainerRun = for_serving(chip, cell.model, image.reference, folder, cell.stack, Placement(name=named))
    command = stand.ports.command
    identity = command(["docker", "create", *run.argv()[3:]], seconds=_DOCKER_SECONDS).stdout.strip()
    try:
        inspected = json.loads(command(["docker", "inspect", identity], seconds=_DOCKER_SECONDS).stdout)[0]
    finally:
        command(["docker", "rm", "--force", identity], seconds=_DOCKER_SECONDS)
    settings = [name for name, value in effective(inspected).items() if value]
    return True, f"`docker run` of the card: created with the flags of the chip, {len(settings)} settings"


def _exists(mount: str) -> bool:
    """Whether the mount's path is here; Docker would create one that is not."""
    return Path(mount.partition(":")[0]).exists()


def _smoke(job: Job, real: Cell, image: results.Image, unchecked: Mapping[str, str], context: Context) -> results.Smoke:
    made = smoke.check_image(job, context, unchecked)
    shown = replace(real, model=job.cell.model)
    devices = on_card(shown.chip, shown.model.serve.devices)
    made = replace(made, docker_run=card_run(shown, image, devices).argv())  # the chip's flags
    if job.cell.model.source == real.model.source:
        return made
    other = (user_commands.DOWNLOAD, user_commands.VERIFY)  # the card has those of the real weights
    return replace(
        made,
        commands={name: text for name, text in made.commands.items() if name not in other},
        not_run={**made.not_run, **dict.fromkeys(other, "a rehearsal draws its weights")},
    )


def _accuracy(job: Job, context: Context) -> accuracy_results.Accuracy:
    found = accuracy.evaluate(job, context)
    rows = tuple(replace(row, verdict="INCONCLUSIVE", reason=NO_VERDICT) for row in found.benchmarks)
    return replace(found, verdict="INCONCLUSIVE", reason=NO_VERDICT, benchmarks=rows)


def _answered(made: accuracy_results.Accuracy) -> str:
    """What was asked, without the verdict."""
    names = ", ".join(row.benchmark for row in made.benchmarks)
    return f"{sum(row.n for row in made.benchmarks)} questions of {names} asked and graded"


def _speed(job: Job, context: Context) -> tuple[bool, str]:
    """One start of both stacks at each load."""
    points = tuple(load_points(job))
    measured: dict[str, int] = {}

    def keep(tool: str, pairs: Mapping[object, list[object]]) -> None:
        measured[tool] = len([point for point, at in pairs.items() if at])

    alternation = Alternation(job, context, speed.choose, "rehearsal")
    alternation.start(0, points, keep, brief=True)  # type: ignore[arg-type]  # the mapping is only counted
    tool, count = next(iter(measured.items()))
    return True, f"{tool}: {count} load points on both stacks, native and {job.cell.stack}"
