"""Pin everything that can change upstream: models, base images, wheels and benchmark data."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from flagrelease.config import lockfile as locks
from flagrelease.config.cell import Cell, expand
from flagrelease.config.chip import Chip
from flagrelease.config.lockfile import Lock, LockedChip, LockedData, LockedModel, LockedWheels, merged, set_digest
from flagrelease.config.matrix import Matrix
from flagrelease.contract.context import Ports
from flagrelease.errors import CommandFailed, DockerUnavailable, FlagreleaseError, HubRefused
from flagrelease.evaluation.datasets import is_fetched
from flagrelease.packaging import base_components, wheelhouse
from flagrelease.packaging.base_image import check_known, registry_name
from flagrelease.packaging.requirements import wanted
from flagrelease.ports.hub import Hubs, Listing
from flagrelease.ports.meter import Meter
from flagrelease.ports.progress import Progress
from flagrelease.ports.registry import Registry

T = TypeVar("T")

_LOCAL_BASE = "not pinned, since its name has no registry; each release records the id of the one it was built on"


@dataclass(frozen=True, kw_only=True)
class Relocked:
    """The outcome of `relock`."""

    lock: Lock
    """The new lock; its `unresolved` includes failures of earlier calls."""
    failed: Mapping[str, FlagreleaseError]
    """By KIND.NAME, why an entry could not be pinned this time."""


def relock(matrix: Matrix, old: Lock, ports: Ports, cells: Sequence[Cell], progress: Progress) -> Relocked:
    """The current lock for `cells`, merged into `old`. Entries that the matrix no longer has are dropped.

    An entry that cannot be resolved keeps its old value, if any, and is listed in `unresolved` with the reason; the
    others are locked all the same.
    """
    attempts = _Attempts(progress)
    for name in dict.fromkeys(cell.model_name for cell in cells):
        attempts(f"models.{name}", partial(_model, matrix, name, ports.hubs, progress))
    for name in dict.fromkeys(name for cell in cells for name in cell.profile.benchmarks):
        benchmark = matrix.benchmarks[name]
        if is_fetched(benchmark):  # the user's own data is pinned by the manifest of its folder
            attempts(f"benchmarks.{name}", partial(_data, matrix, benchmark.data, ports, progress))
    for name, inputs in {cell.wheels_entry: wanted(cell) for cell in cells}.items():
        attempts(f"wheels.{name}", partial(wheelhouse.resolve, inputs, ports.command))
    for name in dict.fromkeys(cell.chip_name for cell in cells):
        attempts(f"chips.{name}", partial(_chip, name, matrix.chips[name], ports))
    new = Lock(
        models=attempts.results(LockedModel),
        chips=attempts.results(LockedChip),
        wheels=attempts.results(LockedWheels),
        benchmarks=attempts.results(LockedData),
        unresolved=attempts.unresolved,
    )
    lock = replace(merged(old, new), unresolved=attempts.merged_reasons(old.unresolved))
    # Redacted as matrix.lock is, so that a failure with the same reason is no change.
    return Relocked(lock=locks.redacted(_pruned(lock, matrix)), failed=attempts.failed)


class _Attempts:
    """Calls resolvers and collects their results and failures by entry name."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._results: dict[str, object] = {}
        self.unresolved: dict[str, str] = {}
        self.failed: dict[str, FlagreleaseError] = {}

    def __call__(self, name: str, work: Callable[[], object]) -> None:
        self._progress.doing(name)
        try:
            self._results[name] = work()
        except FlagreleaseError as error:
            self.unresolved[name] = _reason(error)
            self.failed[name] = error

    def results(self, kind: type[T]) -> dict[str, T]:
        """The results of type `kind`, by name without the prefix (`models.`, `chips.`, …)."""
        return {name.partition(".")[2]: value for name, value in self._results.items() if isinstance(value, kind)}

    def merged_reasons(self, unresolved: Mapping[str, str]) -> dict[str, str]:
        """The new failures, and those earlier ones that were not resolved now."""
        untried = {name: why for name, why in unresolved.items() if name not in self._results}
        return {**untried, **self.unresolved}


def _reason(error: FlagreleaseError) -> str:
    """One line for matrix.lock. A command line contains paths of this machine, which do not belong in a committed
    file."""
    reason = error.why if isinstance(error, CommandFailed) else error.line()
    return " ".join(reason.split()).removeprefix("cause: ").removesuffix(".")


def _resolve(matrix: Matrix, source: str, hubs: Hubs, progress: Progress) -> Listing:
    """The listing of `source`. Raises ConfigError if the matrix refuses files for which the hub lists no checksum."""
    listing = hubs.resolve(source, progress)
    if listing.unverified:
        if matrix.defaults.unverified_files == "refuse":
            raise locks.unverified(source, listing.unverified)
        names = ", ".join(listing.unverified)
        progress.note(f"{source}: the hub lists no checksum of {names}; the download is trusted")
    return listing


def _model(matrix: Matrix, name: str, hubs: Hubs, progress: Progress) -> LockedModel:
    source = matrix.models[name].source
    listing = _resolve(matrix, source, hubs, progress)
    return LockedModel(
        source=source,
        revision=listing.revision,
        files=listing.files,
        digest=set_digest(listing.files),
        archive=listing.archive,
        unverified=listing.unverified,
    )


def _data(matrix: Matrix, source: str, ports: Ports, progress: Progress) -> LockedData:
    from flagrelease.evaluation.datasets import DataFile

    listing = _resolve(matrix, source, ports.hubs, progress)
    if len(listing.files) != 1:
        raise HubRefused(
            f"{source} is not a single file",
            why=f"it has {len(listing.files)} files",
            hint="name one of them in `data`",
        )
    (file,) = listing.files
    locked = LockedData(source=source, rows=0, file=file, archive=listing.archive, revision=listing.revision)
    with tempfile.TemporaryDirectory(prefix="flagrelease-lock-") as folder:
        path = ports.hubs.file(locked, Path(folder) / "data", progress, Meter(ports.clock))
        return replace(locked, rows=len(DataFile(name=file.path, path=path).rows()))


def _chip(name: str, chip: Chip, ports: Ports) -> LockedChip:
    """The base image of a chip, and what it brings if this machine has it. Raises EnvironmentFault if that is not what
    matrix.yaml expects."""
    check_known(name, chip.base)
    locked = _base(chip.base, ports.registry)
    reference = f"{chip.base.rpartition(':')[0]}@{locked.digest}" if locked.digest else chip.base
    if not chip.brought or not _is_here(reference, ports):
        return locked
    found = base_components.in_image(ports.runner, reference, {})
    base_components.check(name, chip, found)
    return replace(locked, components=found)


def _is_here(reference: str, ports: Ports) -> bool:
    try:
        return ports.runner.image(reference) is not None
    except DockerUnavailable:  # what the base brings is then read when the image is built
        return False


def _base(base: str, registry: Registry) -> LockedChip:
    named = registry_name(base)
    if named is None:
        return LockedChip(base=base, why=_LOCAL_BASE)
    repository, tag = named
    digest = registry.digest(repository, tag)
    if digest is None:
        raise HubRefused(f"{base} is not in its registry", hint="check `base` in matrix.yaml")
    # What is pinned is read once, so that no answer that only claims a digest is.
    return LockedChip(base=base, digest=registry.manifest(repository, digest).digest)


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
