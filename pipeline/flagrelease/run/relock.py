"""What `flagrelease lock` does: pin everything that can move, as far as it can be reached from here."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from flagrelease.config.cell import Cell, expand
from flagrelease.config.lockfile import Lock, LockedChip, LockedData, LockedModel, LockedWheels, merged, set_digest
from flagrelease.config.matrix import Matrix
from flagrelease.contract.context import Ports
from flagrelease.errors import CommandFailed, FlagreleaseError, HubRefused
from flagrelease.evaluation.datasets import is_own
from flagrelease.packaging import wheelhouse
from flagrelease.ports.hub import Hubs
from flagrelease.ports.meter import Meter
from flagrelease.ports.progress import Progress
from flagrelease.ports.registry import Registry

T = TypeVar("T")

_LOCAL_BASE = "made on the machine that builds; the record of each image names what it was built on"


def relock(matrix: Matrix, old: Lock, ports: Ports, cells: Sequence[Cell], progress: Progress) -> Lock:
    """The lock for `cells` as the world is now, laid over `old`; what the matrix no longer has is dropped.

    What cannot be reached keeps its old entry, if it has one, is named in `unresolved` with the reason, and does
    not keep the rest from being locked.
    """
    trying = _Trying(progress)
    for name in dict.fromkeys(cell.model_name for cell in cells):
        trying(f"models.{name}", partial(_model, matrix.models[name].source, ports.hubs, progress))
    for name in dict.fromkeys(name for cell in cells for name in cell.profile.benchmarks):
        benchmark = matrix.benchmarks[name]
        if not is_own(benchmark):  # those are pinned by the data folder's own manifest
            trying(f"benchmarks.{name}", partial(_data, benchmark.data, ports, progress))
    for name, inputs in {cell.wheels_entry: wheelhouse.wanted(cell) for cell in cells}.items():
        trying(f"wheels.{name}", partial(wheelhouse.resolve, inputs, ports.command))
    for name in dict.fromkeys(cell.chip_name for cell in cells):
        trying(f"chips.{name}", partial(_chip, matrix.chips[name].base, ports.registry))
    new = Lock(
        models=trying.found(LockedModel),
        chips=trying.found(LockedChip),
        wheels=trying.found(LockedWheels),
        benchmarks=trying.found(LockedData),
        unresolved=trying.unresolved,
    )
    return _pruned(replace(merged(old, new), unresolved=trying.laid_over(old.unresolved)), matrix)


class _Trying:
    """Runs each piece of work, and remembers what came of it under its name."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._results: dict[str, object] = {}
        self.unresolved: dict[str, str] = {}

    def __call__(self, name: str, work: Callable[[], object]) -> None:
        self._progress.doing(name)
        try:
            self._results[name] = work()
        except FlagreleaseError as error:
            # A command line names paths of this machine, which have no place in a file that is committed.
            reason = error.why if isinstance(error, CommandFailed) else error.line()
            self.unresolved[name] = " ".join(reason.split())

    def found(self, kind: type[T]) -> dict[str, T]:
        """The results of one kind, by their name within it."""
        return {name.partition(".")[2]: value for name, value in self._results.items() if isinstance(value, kind)}

    def laid_over(self, unresolved: Mapping[str, str]) -> dict[str, str]:
        untried = {name: why for name, why in unresolved.items() if name not in self._results}
        return {**untried, **self.unresolved}


def _model(source: str, hubs: Hubs, progress: Progress) -> LockedModel:
    listing = hubs.resolve(source, progress)
    if listing.unverified:
        progress.note(f"{source}: no sha256 in the listing of {', '.join(listing.unverified)}; trusted as fetched now")
    return LockedModel(
        source=source,
        revision=listing.revision,
        files=listing.files,
        digest=set_digest(listing.files),
        archive=listing.archive,
        unverified=listing.unverified,
    )


def _data(source: str, ports: Ports, progress: Progress) -> LockedData:
    from flagrelease.evaluation.datasets import DataFile

    listing = ports.hubs.resolve(source, progress)
    if len(listing.files) != 1:
        raise HubRefused(
            f"{source} is no single file", why=f"it holds {len(listing.files)}", hint="name one file of it in `data`"
        )
    (file,) = listing.files
    locked = LockedData(source=source, rows=0, file=file, archive=listing.archive, revision=listing.revision)
    with tempfile.TemporaryDirectory(prefix="flagrelease-lock-") as folder:
        path = ports.hubs.file(locked, Path(folder) / "data", progress, Meter(ports.clock))
        return replace(locked, rows=len(DataFile(name=file.path, path=path).rows()))


def _chip(base: str, registry: Registry) -> LockedChip:
    repository, tag = base.rsplit(":", 1) if ":" in base.rpartition("/")[2] else (base, "latest")
    host = repository.partition("/")[0]
    if "/" not in repository or not ("." in host or ":" in host or host == "localhost"):
        return LockedChip(base=base, why=_LOCAL_BASE)
    digest = registry.digest(repository, tag)
    if digest is None:
        raise HubRefused(f"{base} is not in its registry", hint="check `base` in matrix.yaml")
    return LockedChip(base=base, digest=digest)


def _pruned(lock: Lock, matrix: Matrix) -> Lock:
    known: dict[str, Mapping[str, object] | set[str]] = {
        "models": matrix.models,
        "chips": matrix.chips,
        "benchmarks": matrix.benchmarks,
        "wheels": {cell.wheels_entry for cell in expand(matrix) if not cell.excluded},
    }

    def kept(kind: str, entries: Mapping[str, T]) -> dict[str, T]:
        return {name: entry for name, entry in entries.items() if name in known[kind]}

    unresolved = {}
    for full, why in lock.unresolved.items():
        kind, _, name = full.partition(".")
        if name in known.get(kind, ()):
            unresolved[full] = why
    return Lock(
        models=kept("models", lock.models),
        chips=kept("chips", lock.chips),
        wheels=kept("wheels", lock.wheels),
        benchmarks=kept("benchmarks", lock.benchmarks),
        unresolved=unresolved,
    )
