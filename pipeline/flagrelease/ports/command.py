"""The one door for subprocesses."""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flagrelease.errors import CommandFailed, EnvironmentFault
from flagrelease.redact import redact

_TERMINATE_SECONDS = 5.0
_running: set[subprocess.Popen[str]] = set()


@dataclass(frozen=True)
class Completed:
    """What a program did: its exit code and everything it printed (stdout and stderr, redacted)."""

    code: int
    stdout: str
    stderr: str


class Command(Protocol):
    """Runs programs. Injected where a test must not run one."""

    def __call__(
        self,
        argv: Sequence[str | Path],
        *,
        seconds: float,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        hint: str = "",
    ) -> Completed: ...


def run(
    argv: Sequence[str | Path],
    *,
    seconds: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    hint: str = "",
    inherit: bool = True,
) -> Completed:
    """Run `argv` (never a shell string) in a process group of its own, for at most `seconds`.

    `env` is laid over the current environment, or, unless `inherit`, is all of it. On a deadline or an interrupt the
    whole group is ended. Raises CommandFailed (with the last lines printed) for a non-zero exit when `check`, or on
    the deadline; EnvironmentFault where the program is not installed.
    """
    words = [str(word) for word in argv]
    try:
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env={**(os.environ if inherit else {}), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except FileNotFoundError:
        raise EnvironmentFault(f"{words[0]} is not installed", hint=hint or f"install {words[0]}") from None
    _running.add(process)
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _end(process)
        raise CommandFailed(f"`{_shown(words)}` took longer than {seconds:.0f} s", hint=hint) from None
    except BaseException:
        _end(process)
        raise
    finally:
        _running.discard(process)
    completed = Completed(process.returncode, redact(stdout), redact(stderr))
    if check and completed.code != 0:
        raise _failed(words, completed, hint)
    return completed


def end_all() -> None:
    """End every program that `run` waits for, so that the threads which wait come back."""
    for process in list(_running):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)


def spawn(argv: Sequence[str | Path], *, log: Path, env: Mapping[str, str], cwd: Path) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own with just this environment; what it prints is appended to `log`.

    The caller ends it. Raises OSError.
    """
    with log.open("ab") as stream:
        return subprocess.Popen(
            [str(word) for word in argv],
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@contextmanager
def service(
    argv: Sequence[str | Path], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program beside us for the length of the block; everything that it prints goes to `log`.

    It is ended on every way out, and by the kernel when we are killed (Linux parent-death signal).
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [str(word) for word in argv],
            env={**os.environ, **(env or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
    try:
        yield process
    finally:
        for signum in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signum)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_TERMINATE_SECONDS)
                break


_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    if hasattr(_LIBC, "prctl"):
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _failed(words: Sequence[str], completed: Completed, hint: str) -> CommandFailed:
    tail = (completed.stderr or completed.stdout).strip().splitlines()
    return CommandFailed(
        f"`{_shown(words)}` ended with {completed.code}",
        why=tail[-1] if tail else "it printed nothing",
        hint=hint,
        detail="\n".join(tail[-40:]),
    )


def _shown(words: Sequence[str]) -> str:
    text = redact(shlex.join(words))
    return text if len(text) <= 160 else text[:157] + "…"


def _end(process: subprocess.Popen[str]) -> None:
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signum)
        try:
            process.wait(_TERMINATE_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        break
    # Pipes may be held by a grandchild that left the group; do not wait for it.
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
