"""Run subprocesses. Nothing else in the pipeline starts one."""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flagrelease.errors import CommandFailed, EnvironmentFault
from flagrelease.redact import redact, without_secrets

_TERMINATE_SECONDS = 5.0
_running: set[subprocess.Popen[str]] = set()


@dataclass(frozen=True)
class Completed:
    """The result of a program that has exited."""

    code: int
    """The exit code; negative for a signal, as in subprocess."""
    stdout: str
    """Redacted."""
    stderr: str
    """Redacted."""


class Command(Protocol):
    """The signature of `run`, so that tests can pass a stand-in."""

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
    during: Callable[[int], AbstractContextManager[None]] = lambda _pid: nullcontext(),
) -> Completed:
    """Run `argv` (never a shell string) in a new process group, for at most `seconds`.

    `env` is merged into the current environment without its secrets or, if `inherit` is false, is all of it. A program
    that needs a secret gets it in `env`, from `redact.secrets_for`. The process group is killed
    on a timeout or an interrupt; if this process is killed, the kernel kills the program. `during` is entered with its
    process id while it runs. Raises CommandFailed (with
    the last lines printed) on a timeout and, if `check`, on a non-zero exit code; EnvironmentFault if the program is
    not installed.
    """
    arguments = [str(argument) for argument in argv]
    try:
        process = subprocess.Popen(
            arguments,
            cwd=cwd,
            env={**(without_secrets(os.environ) if inherit else {}), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
    except FileNotFoundError:
        raise EnvironmentFault(f"{arguments[0]} is not installed", hint=hint or f"install {arguments[0]}") from None
    _running.add(process)
    try:
        with during(process.pid):
            stdout, stderr = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _end(process)
        raise CommandFailed(f"`{_shown(arguments)}` took longer than {seconds:.0f} s", hint=hint) from None
    except BaseException:
        _end(process)
        raise
    finally:
        _running.discard(process)
    completed = Completed(process.returncode, redact(stdout), redact(stderr))
    if check and completed.code != 0:
        raise _failed(arguments, completed, hint)
    return completed


def end_all() -> None:
    """Terminate every program that `run` is waiting for, so that the waiting threads return."""
    for process in list(_running):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)


def kill_all() -> None:
    """Kill every program that `run` is waiting for, with its process group. Takes no lock."""
    for process in list(_running):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def spawn(argv: Sequence[str | Path], *, log: Path, env: Mapping[str, str], cwd: Path) -> subprocess.Popen[bytes]:
    """Start a program in a new session with exactly this environment; append its output to `log`.

    The caller must terminate it. Raises OSError.
    """
    with log.open("ab") as stream:
        return subprocess.Popen(
            [str(argument) for argument in argv],
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
    """Run a program in the background while the block runs; append its output to `log`. `env` is merged into the
    current environment without its secrets.

    It is terminated however the block exits, and by the kernel if this process is killed (parent-death signal).
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [str(argument) for argument in argv],
            env={**without_secrets(os.environ), **(env or {})},
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


def _failed(argv: Sequence[str], completed: Completed, hint: str) -> CommandFailed:
    tail = (completed.stderr or completed.stdout).strip().splitlines()
    return CommandFailed(
        f"`{_shown(argv)}` ended with {completed.code}",
        why=tail[-1] if tail else "it printed nothing",
        hint=hint,
        detail="\n".join(tail[-40:]),
    )


def _shown(argv: Sequence[str]) -> str:
    text = redact(shlex.join(argv))
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
    # A grandchild that left the group may hold the pipes open; do not wait for it.
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
