"""What a rehearsal does before anything is served: pin, plan, ask for the right to publish, fetch the packages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from flagrelease.config.cell import Cell
from flagrelease.config.lockfile import Lock, LockedChip, LockedFile, LockedModel, LockedWheels, set_digest
from flagrelease.contract.context import Ports
from flagrelease.errors import ConfigError, FlagreleaseError, HubUnavailable, RegistryUnavailable
from flagrelease.evaluation import datasets
from flagrelease.packaging import wheelhouse
from flagrelease.packaging.requirements import wanted
from flagrelease.rehearsal.report import LeftOut
from flagrelease.rehearsal.steps import Steps
from flagrelease.run import preflight
from flagrelease.run.plan import Choice
from flagrelease.run.project import Project, check_registry
from flagrelease.run.relock import relock
from flagrelease.stages import STAGES
from flagrelease.stages.publish import deliver

_ZEROS = "0" * 64


def pinned(project: Project, cell: Cell, ports: Ports, steps: Steps) -> Lock:
    """matrix.lock as `flagrelease lock` would write it now; it is not written."""

    def work() -> tuple[Lock, str]:
        relocked = relock(project.matrix, project.lock, ports, [cell], steps.progress("lock"))
        for name, error in relocked.failed.items():
            if isinstance(error, HubUnavailable | RegistryUnavailable):
                kind, _, entry = name.partition(".")
                known = "; its entry in matrix.lock is used" if entry in getattr(project.lock, kind) else ""
                steps.leave_out(LeftOut(part="lock", what=f"asking for {name}{known}", why=error.why or error.what))
            else:
                why = relocked.lock.unresolved[name]  # without paths of this machine
                steps.fail("lock", _named(f"{name} cannot be pinned", error, why), here=False)
        names = [name for name in _entries(cell) if name not in relocked.failed]
        return relocked.lock, f"pinned now: {', '.join(names)}" if names else ""

    return steps.take("lock", "pinning what can change upstream", work) or project.lock


def lacking(project: Project, cell: Cell, lock: Lock) -> dict[str, str]:
    """The benchmarks of the cell without data here, with the reason."""
    without: dict[str, str] = {}
    for name in cell.profile.benchmarks:
        try:
            datasets.promised_digest(name, project.matrix.benchmarks[name], lock, project.data_dir)
        except ConfigError as error:
            without[name] = f"{error.line()}; the release needs them"
    return without


def planned(project: Project, cell: Cell, lock: Lock, without: Mapping[str, str], steps: Steps) -> None:
    """What `plan` would refuse, except for what is not pinned and for data that is not here: both are told already."""

    def work() -> tuple[bool, str]:
        benchmarks = {name: share for name, share in cell.profile.benchmarks.items() if name not in without}
        asked = replace(cell, profile=replace(cell.profile, benchmarks=benchmarks))
        whole = replace(project, lock=_whole(lock, cell))
        (plan,) = whole.plan([asked], STAGES, Choice(force=frozenset(stage.name for stage in STAGES)))
        refused = preflight.checked(plan, whole)
        if refused.blocked:
            raise ConfigError(f"`flagrelease plan` refuses {cell.id}", why=refused.blocked, hint=refused.hint)
        skipped = [step.stage for step in refused.steps if step.action == "skip"]
        return True, f"{len(refused.steps) - len(skipped)} stages would run" + (
            f", skipped: {', '.join(skipped)}" if skipped else ""
        )

    steps.take("plan", "planning", work)


def publishable(project: Project, steps: Steps) -> None:
    """The right to push and to publish to every target; nothing is written."""

    def work() -> tuple[bool, str]:
        allowed: list[str] = []
        try:
            check_registry(project.registry)
            allowed.append(project.registry)
        except FlagreleaseError as denied:
            steps.fail("publish", denied)
        if project.matrix.targets:
            refused = deliver.check(project.matrix.targets)
            for place, error in refused.items():
                steps.fail("publish", _named(f"{place}: {error.what}", error, error.why), here=False)
            places = [
                f"targets.{place.target} ({place.at})"
                for private in (False, True)
                for place in deliver.places(project.matrix.targets, private=private)
            ]
            allowed += [place for place in places if place not in refused]
        return True, f"may write to {', '.join(allowed)}" if allowed else ""

    steps.take("publish", "asking for the right to publish", work)


def fetched(project: Project, cell: Cell, lock: Lock, ports: Ports, steps: Steps) -> None:
    """The packages of the release's image, which the rehearsal's may not be able to install."""
    locked = lock.wheels.get(cell.wheels_entry)
    if locked is None or locked.inputs != wanted(cell):
        return  # told with the lock

    def work() -> tuple[bool, str]:
        house = wheelhouse.gather(locked, project.workspace.wheels, ports.command)
        return True, f"{len(house.installed)} packages for Python {cell.chip.python}, with the locked sha256"

    steps.take("packages", "fetching Python packages", work)


def _entries(cell: Cell) -> list[str]:
    return [f"models.{cell.model_name}", f"wheels.{cell.wheels_entry}", f"chips.{cell.chip_name}"]


def _named(what: str, error: FlagreleaseError, why: str) -> FlagreleaseError:
    """The error with what it concerns."""
    named = type(error)(what, why=why, hint=error.hint, detail=error.detail)
    named.exit_code = error.exit_code
    return named


def _whole(lock: Lock, cell: Cell) -> Lock:
    """`lock` with entries of no content for what is not pinned, so that everything else is planned."""
    files = tuple(LockedFile(path=path, size=1, sha256=_ZEROS) for path in ("config.json", "model.safetensors"))
    source = cell.model.source
    model = LockedModel(source=source, revision="unknown", files=files, digest=set_digest(files))
    chip = LockedChip(base=cell.chip.base, digest=f"sha256:{_ZEROS}")
    wheels = LockedWheels(inputs=wanted(cell), requirements=())
    return replace(
        lock,
        models={cell.model_name: model, **lock.models},
        chips={cell.chip_name: chip, **lock.chips},
        wheels={cell.wheels_entry: wheels, **lock.wheels},
    )
