"""What all runs on this machine share, of any user and workspace: locks of chips, and which runs are alive.

A run registers in a file that it keeps locked, and removes it when nothing of it is left. So a file that nobody locks
is that of a dead run, and a run without a file is one that this machine cannot judge.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flagrelease.errors import EnvironmentFault, FlagreleaseError
from flagrelease.store import locks

_DEFAULT = Path("/tmp/flagrelease-locks")  # noqa: S108 - the same for all users; see _folder and _open
_FOR_ALL = 0o1777
_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
"""Others may have put a link or a pipe there."""
_RUN_FILE = re.compile(r"run-([0-9a-zA-Z]{1,40})")
_READ_BYTES = 65536
_TRIES = 20


@dataclass(frozen=True, kw_only=True)
class DeadRun:
    """A run that ended without taking away everything of its own."""

    id: str
    mine: bool
    """Whether it was this user's: only then is anything else in here to be trusted."""
    cells: tuple[str, ...]
    workspace: Path
    here: bool
    """Whether it ran on this machine; a folder may be shared over the network."""
    executor: str
    """Where its programs ran, as Runner.address."""


@dataclass
class Registration:
    """A run's entry in the list of those that are alive."""

    gone: bool = False
    """Whether nothing of the run is left, so that the entry is removed at the end."""


@dataclass(frozen=True, kw_only=True)
class SharedMachine:
    """The shared folder."""

    folder: Path

    @classmethod
    def here(cls) -> SharedMachine:
        return cls(folder=Path(os.environ.get("FLAGRELEASE_LOCKS") or _DEFAULT))

    @contextmanager
    def chip(
        self,
        host: str,
        run_id: str,
        names: Mapping[str, str],
        waiting: Callable[[str], None],
        sleep: Callable[[float], None],
    ) -> Iterator[None]:
        """Hold the chip of `host` with all its devices for the block, waiting without a limit; `waiting` is called with
        the holder.

        Raises EnvironmentFault if the folder cannot be used.
        """

        def held(holder: str) -> None:
            waiting("; ".join(self._device_holders(host)) or holder)

        with locks.wait_for(self.chip_path(host), run_id, held, sleep, names=names, opened=self._opened):
            yield

    @contextmanager
    def devices(
        self,
        host: str,
        count: int,
        of: int,
        run_id: str,
        names: Mapping[str, str],
        waiting: Callable[[str], None],
        sleep: Callable[[float], None],
    ) -> Iterator[tuple[int, ...]]:
        """Hold `count` of the `of` devices of `host` for the block, and yield their numbers. Waits without a limit;
        `waiting` is called with the holders of the devices that are taken. Those who ask first get theirs first: a cell
        that needs all devices is not overtaken for ever by cells that need one.

        Raises EnvironmentFault if the folder cannot be used.
        """
        chip, queue = self.chip_path(host), self._lock_path(host, ".queue")
        with ExitStack() as held:
            # Shared with other holders of devices, so that nobody holds the chip as a whole.
            held.enter_context(locks.wait_for(chip, run_id, waiting, sleep, opened=self._opened, shared=True))
            got: list[int] = []
            with locks.wait_for(queue, run_id, waiting, sleep, names=names, opened=self._opened):
                while True:
                    for number in range(of):
                        wanted = len(got) < count and number not in got
                        if wanted and self._take(held, host, number, run_id, names):
                            got.append(number)
                    if len(got) == count:
                        break
                    waiting("; ".join(self._device_holders(host, but=got)))
                    sleep(locks.POLL_SECONDS)
            yield tuple(sorted(got))

    def _take(self, held: ExitStack, host: str, number: int, run_id: str, names: Mapping[str, str]) -> bool:
        """Hold a device until `held` ends, if it is free."""
        with ExitStack() as attempt:
            path = self._lock_path(host, f".device-{number}")
            free = attempt.enter_context(locks.taken(path, run_id, names, self._opened))
            if free:
                held.enter_context(attempt.pop_all())
            return free

    def _device_holders(self, host: str, but: Collection[int] = ()) -> list[str]:
        """A text for each device that is held, by its number."""
        found: dict[int, str] = {}
        prefix = self._lock_path(host, ".device-").name.removesuffix(".lock")
        for path in self.folder.glob(f"{prefix}*.lock"):
            number = path.name.removeprefix(prefix).removesuffix(".lock")
            if not number.isdecimal() or int(number) in but:
                continue
            with suppress(FlagreleaseError), self._opened(path) as handle:
                if not locks.locked(handle, path, shared=True):
                    found[int(number)] = f"device {number} is {locks.holder(path)}"
        return [found[number] for number in sorted(found)]

    def chip_path(self, host: str) -> Path:
        """The lock of the chip of `host`, which is the name that the matrix gives this machine."""
        return self._lock_path(host, "")

    def _lock_path(self, host: str, part: str) -> Path:
        return self.folder / f"chip-{re.sub('[^A-Za-z0-9.-]', '_', host)}{part}.lock"

    @contextmanager
    def running(self, run_id: str, names: Mapping[str, str]) -> Iterator[Registration]:
        """Be known as alive for the block. `names` has `executor`, `workspace` and `cells`, separated by blanks."""
        path, entry = self.folder / f"run-{run_id}", Registration()
        with self._folder() as folder:
            # Locked before it has its name: no other run finds it unlocked.
            new = f".new-{run_id}"
            with self._told(path):
                handle = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFE, 0o644, dir_fd=folder)
        try:
            with self._told(path), self._folder() as folder:
                locks.locked(handle, path)
                os.write(handle, locks.signature(run_id, {**names, "machine": host_id(), "boot": boot_id()}))
                os.rename(new, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            yield entry
        finally:
            if entry.gone:
                path.unlink(missing_ok=True)
            os.close(handle)

    def bury(self, take_away: Callable[[DeadRun], bool]) -> None:
        """Call `take_away` with each dead run; it returns whether nothing of the run is left. No other run does so at
        the same time."""
        for path in sorted(self.folder.glob("run-*")):
            name = _RUN_FILE.fullmatch(path.name)
            if name is None:
                continue
            try:
                handle = os.open(path, os.O_RDONLY | _SAFE)
            except OSError:
                continue
            try:
                found = os.fstat(handle)
                if not stat.S_ISREG(found.st_mode) or not _free(handle, path):
                    continue
                if take_away(_dead(name[1], found.st_uid == os.geteuid(), os.read(handle, _READ_BYTES))):
                    with suppress(OSError):  # another user's, in a folder where only its owner may remove it
                        path.unlink()
            finally:
                os.close(handle)

    def alone(self) -> bool:
        """Whether no run is alive, as far as the list tells."""
        for path in self.folder.glob("run-*"):
            try:
                handle = os.open(path, os.O_RDONLY | _SAFE)
            except OSError:
                continue
            try:
                if not _free(handle, path) and locks.current(handle, path):
                    return False
            finally:
                os.close(handle)
        return True

    @contextmanager
    def _opened(self, path: Path) -> Iterator[int]:
        """Open a lock that all users may hold."""
        with self._folder() as folder, self._told(path):
            handle = _open(path.name, folder)
        if handle is None:
            raise self._unusable(f"{path} is not a plain file of its own")
        try:
            yield handle
        finally:
            os.close(handle)

    @contextmanager
    def _folder(self) -> Iterator[int]:
        """The opened folder, made for all users if it does not exist."""
        with self._told(self.folder):
            with suppress(FileExistsError):
                self.folder.parent.mkdir(parents=True, exist_ok=True)
                self.folder.mkdir()
                self.folder.chmod(_FOR_ALL)  # the umask does not apply
            handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | _SAFE)
        try:
            yield handle
        finally:
            os.close(handle)

    @contextmanager
    def _told(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._unusable(f"{path}: {error.strerror}") from error

    def _unusable(self, why: str) -> EnvironmentFault:
        return EnvironmentFault(
            "the folder of this machine's locks cannot be used",
            why=why,
            hint=f"`chmod 1777 {self.folder}`, or set FLAGRELEASE_LOCKS to a folder that all users of the chip share",
        )


def _open(name: str, folder: int) -> int | None:
    """Open a file for all users, made if it does not exist; None for what may be a trap: a link, or a second name of
    another file, which would be overwritten."""
    for _ in range(_TRIES):
        try:
            # Without O_CREAT: in a sticky folder, Linux refuses that for another user's file (fs.protected_regular).
            handle = os.open(name, os.O_RDWR | _SAFE, dir_fd=folder)
        except FileNotFoundError:
            try:
                handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFE, 0o666, dir_fd=folder)
                os.fchmod(handle, 0o666)
            except FileExistsError:
                continue
        except PermissionError:
            handle = os.open(name, os.O_RDONLY | _SAFE, dir_fd=folder)  # to be locked, if not to be signed
        found = os.fstat(handle)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            return handle
        os.close(handle)
        if found.st_nlink:
            return None
    return None


def _free(handle: int, path: Path) -> bool:
    """Lock the file of a run, unless that is alive or another run looks at it."""
    try:
        return locks.locked(handle, path) and locks.current(handle, path)
    except (OSError, FlagreleaseError):  # a network's file system may not lock what is only read
        return False


def _dead(run_id: str, mine: bool, said: bytes) -> DeadRun:
    try:
        names = {name: str(text) for name, text in json.loads(said).items()}
    except (ValueError, AttributeError, RecursionError):
        names = {}
    return DeadRun(
        id=run_id,
        mine=mine,
        cells=tuple(names.get("cells", "").split()),
        workspace=Path(names.get("workspace", "")),
        here=names.get("machine") == host_id() or (bool(boot_id()) and names.get("boot") == boot_id()),
        executor=names.get("executor", ""),
    )


@cache
def host_id() -> str:
    """An identity of this machine that outlasts its boots; of a container, while that exists."""
    text = socket.gethostname()
    with suppress(OSError):
        text += Path("/etc/machine-id").read_text()
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def boot_id() -> str:
    """The identity of this boot; empty if the kernel does not show it."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
