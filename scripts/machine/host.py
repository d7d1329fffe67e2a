"""What every step needs of this machine: a place for logs, root's rights, apt, locks, daemons that outlive `make`.

Only the standard library: this runs before there is a virtual environment, where there is python3 and little else.
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
    """A step failed: `why`, what to do about it (`todo`), and the `log` that tells the whole story."""

    def __init__(self, why: str, todo: str, log: Path | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.todo = todo
        self.log = log


@dataclass(frozen=True)
class Done:
    """How a step ended: one word (present, installed, started, made …) and a version, place or size."""

    state: str
    detail: str = ""


def relative(path: Path) -> str:
    """The path as a user in the checkout would type it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def as_root(argv: Sequence[str]) -> list[str]:
    """argv, through sudo where this is not root already."""
    if os.geteuid() == 0:
        return list(argv)
    if shutil.which("sudo") is None:
        raise SetupError(
            f"`{argv[0]}` needs root, and there is no sudo",
            f"get sudo, or have root run: {shlex.join(argv)}",
        )
    # The environment is passed for proxies and certificates; sudo asks for its password on the terminal.
    return ["sudo", "--preserve-env", *argv]


def run(name: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None, todo: str) -> None:
    """Run argv with its output in .cache/logs/NAME.log; raises SetupError with the last lines' place on failure."""
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
    """What argv prints, or nothing when it fails or is not there."""
    try:
        return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """One process of this machine at a time; the others wait."""
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
    """Read the package lists, once for each machine and day."""
    lists = Path("/var/lib/apt/lists")
    fresh = [f for f in lists.glob("*_Packages*") if time.time() - f.stat().st_mtime < 86_400]
    stamp = CACHE / "apt-updated"
    if fresh or (stamp.exists() and time.time() - stamp.stat().st_mtime < 86_400 and any(lists.glob("*_Packages*"))):
        return
    update = as_root(["apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "update"])
    end = time.monotonic() + APT_WAIT_S
    while True:
        try:
            run("apt", update, todo="check the network and /etc/apt/sources.list*, then repeat")
            break
        except SetupError as error:
            # A new machine often updates itself at this moment, and `apt-get update` itself does not wait for that.
            last = error.log.read_text(errors="replace")[-1000:] if error.log else ""
            if "Could not get lock" not in last or time.monotonic() > end:
                raise
            time.sleep(2)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.touch()


def apt_install(*packages: str) -> None:
    """Install Debian packages; waits while another program holds apt's locks, for five minutes at most."""
    if shutil.which("apt-get") is None:
        raise SetupError(
            f"this is no Debian or Ubuntu: cannot install {', '.join(packages)}",
            f"install {', '.join(packages)} (or what your system calls them), then repeat",
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
            todo="let another program that holds apt's locks end, or check the network; then repeat",
        )


def started_at(pid: int) -> str | None:
    """The kernel's start time of a living process, which tells it from a later one with the same number."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def start_daemon(name: str, argv: Sequence[str]) -> Path:
    """Start argv in a session of its own, so that it outlives make, and note it for `down`. Returns its log."""
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
    """The process that `start_daemon` started for this checkout, while it lives."""
    try:
        pid, start = (DAEMONS / name).read_text().split()
    except (OSError, ValueError):
        return None
    return int(pid) if started_at(int(pid)) == start else None


def stop_daemon(name: str, patience_s: float = 20) -> bool:
    """Stop what start_daemon started; False when there is nothing of ours to stop."""
    pid = daemon_pid(name)
    if pid is not None:
        if os.geteuid() == 0 or Path(f"/proc/{pid}").stat().st_uid == os.geteuid():
            os.kill(pid, signal.SIGTERM)
        else:
            # A bare machine has no program `kill`, but the shell knows it; sudo hands the signal on.
            run("down", as_root(["sh", "-c", f"kill {pid}"]), todo=f"stop process {pid} by hand")
        wait_until(lambda: daemon_pid(name) is None, patience_s)
        if daemon_pid(name) is not None:
            raise SetupError(f"{name} (process {pid}) does not stop", f"see `ps {pid}`, then `kill -9 {pid}`")
    (DAEMONS / name).unlink(missing_ok=True)
    return pid is not None


def wait_until(condition: Callable[[], bool], patience_s: float) -> bool:
    """Poll until the condition holds; False when patience ran out."""
    end = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
