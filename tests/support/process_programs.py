"""Programs that run as plain processes of this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from flagrelease.config.chip import Container
from flagrelease.ports.container_runner import Running, labels
from flagrelease.ports.processes.runner import ProcessRunner
from flagrelease.recipe import container

CELL = "cpu/smollm2-135m"

# Leaves a daemon of its own session that ignores SIGTERM, and hides what it is from its environment.
STUBBORN = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.execve(sys.executable, ["python3", "-c", "import time; time.sleep(600)"], {})
    os._exit(0)
print("up", flush=True)
time.sleep(600)
"""


def bare(runner: ProcessRunner, root: Path, program: str, **more: object) -> container.ContainerRun:
    """A program of the machine itself."""
    return container.ContainerRun(
        image=runner.machine.name,
        entrypoint=("python3", "-uc", program),
        command=(),
        mounts=(),
        env={},
        flags=Container(),
        placement=container.Placement(name="", port=None, labels=labels("r", CELL, root)),
        **more,  # type: ignore[arg-type]
    )


def wait_until(true: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def printed(running: Running, text: str) -> None:
    wait_until(lambda: text in running.logs(50))
