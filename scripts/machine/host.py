"""Shared helpers of the steps: logs, root privileges, apt, locks, and daemons that outlive `make`.

Standard library only: this runs before the virtual environment exists.
"""

import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"
LOGS = CACHE / "logs"
DAEMONS = CACHE / "daemons"

APT_WAIT_S = 300


class SetupError(Exception):
    """A step failed: `why`, what to do next (`todo`), and the complete `log`."""

    def __init__(self, why: str, todo: str, log: Path | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.todo = todo
        self.log = log


@dataclass(frozen=True)
class Done:
    """The result of a step."""

    state: str
    """One word: present, installed, started, made …"""
    detail: str = ""
    """Version, path or size."""


def relative(path: Path) -> str:
    """The path relative to the checkout, if it is inside."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def as_root(argv: Sequence[str]) -> list[str]:
    """argv, prefixed with sudo unless this process is root. Raises SetupError if sudo is missing."""
    if os.geteuid() == 0:
        return list(argv)
    if shutil.which("sudo") is None:
        raise SetupError(
            f"`{argv[0]}` needs root, and sudo is not installed",
            f"install sudo, or run as root: {shlex.join(argv)}",
        )
    # The environment contains proxies and certificates; sudo asks for its password on the terminal.
    return ["sudo", "--preserve-env", *argv]


def run(name: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None, todo: str) -> None:
    """Run argv with its output in .cache/logs/NAME.log. Raises SetupError with that log if it fails."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{name}.log"
    with log.open("ab") as out:
        out.write(f"$ {' '.join(argv)}\n".encode())
        out.flush()
        try:
            code = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **(env or {})}, check=False
            ).returncode
        except OSError as error:
            raise SetupError(f"`{argv[0]}`: {error.strerror}", todo, log) from error
    if code:
        raise SetupError(f"`{' '.join(argv[:4])} …` ended with {code}", todo, log)


def output(argv: Sequence[str]) -> str:
    """The output of argv; empty if it fails or does not exist."""
    try:
        return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Exclude other processes on this machine within the block; they wait."""
    shared = Path("/run/lock")
    path = (shared if shared.is_dir() else Path(tempfile.gettempdir())) / f"flagrelease-{name}.lock"
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        path.chmod(0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def apt_refresh() -> None:
    """Update the package lists, at most once a day on each machine."""
    lists = Path("/var/lib/apt/lists")
    fresh = [f for f in lists.glob("*_Packages*") if time.time() - f.stat().st_mtime < 86_400]
    stamp = CACHE / "apt-updated"
    if fresh or (stamp.exists() and time.time() - stamp.stat().st_mtime < 86_400 and any(lists.glob("*_Packages*"))):
        return
    update = as_root(["apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "update"])
    end = time.monotonic() + APT_WAIT_S
    while True:
        try:
            run("apt", update, todo="check the network and /etc/apt/sources.list*, then run again")
            break
        except SetupError as error:
            # New machines often run an update of their own at this time, and `apt-get update` does not wait for it.
            last = error.log.read_text(errors="replace")[-1000:] if error.log else ""
            if "Could not get lock" not in last or time.monotonic() > end:
                raise
            time.sleep(2)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.touch()


def apt_install(*packages: str) -> None:
    """Install Debian packages, waiting up to five minutes for apt's locks. Raises SetupError if that fails."""
    if shutil.which("apt-get") is None:
        raise SetupError(
            f"cannot install {', '.join(packages)}: this is not Debian or Ubuntu",
            f"install {', '.join(packages)} (names may differ on your system), then run again",
        )
    with locked("apt"):
        apt_refresh()
        run(
            "apt",
            as_root(
                [
                    "env",
                    "DEBIAN_FRONTEND=noninteractive",
                    "apt-get",
                    "-qy",
                    "-o",
                    f"DPkg::Lock::Timeout={APT_WAIT_S}",
                    "--no-install-recommends",
                    "install",
                    *packages,
                ]
            ),
            todo="wait for other programs that hold apt's locks, or check the network; then run again",
        )


def started_at(pid: int) -> str | None:
    """The start time of a running process, which distinguishes it from a later one with the same PID; else None."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def start_daemon(name: str, argv: Sequence[str]) -> Path:
    """Start argv in a new session, so that it outlives make, and record it for `down`. Returns its log."""
    LOGS.mkdir(parents=True, exist_ok=True)
    DAEMONS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{name}.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/", start_new_session=True
        )
    (DAEMONS / name).write_text(f"{process.pid} {started_at(process.pid)}\n")
    return log


def daemon_pid(name: str) -> int | None:
    """The PID of the process started by `start_daemon` for this checkout; None if it is not running."""
    try:
        pid, start = (DAEMONS / name).read_text().split()
    except (OSError, ValueError):
        return None
    return int(pid) if started_at(int(pid)) == start else None


def stop_daemon(name: str, patience_s: float = 20) -> bool:
    """Stop the process started by `start_daemon`; False if it is not running. Raises SetupError if it does not stop."""
    pid = daemon_pid(name)
    if pid is not None:
        if os.geteuid() == 0 or Path(f"/proc/{pid}").stat().st_uid == os.geteuid():
            os.kill(pid, signal.SIGTERM)
        else:
            # A minimal machine has no `kill` program, but the shell has a builtin; sudo gives it the privileges.
            run("down", as_root(["sh", "-c", f"kill {pid}"]), todo=f"stop process {pid} by hand")
        wait_until(lambda: daemon_pid(name) is None, patience_s)
        if daemon_pid(name) is not None:
            raise SetupError(f"{name} (process {pid}) does not stop", f"see `ps {pid}`, then `kill -9 {pid}`")
    (DAEMONS / name).unlink(missing_ok=True)
    return pid is not None


def wait_until(condition: Callable[[], bool], patience_s: float) -> bool:
    """Poll until the condition holds; False after `patience_s` seconds."""
    end = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
