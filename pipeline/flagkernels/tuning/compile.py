"""Compile candidates ahead of time in forked processes, one per core, without using the chip.

Triton compiles on the CPU, but serially under Python's interpreter lock, and asks the driver only for the target and
the current device. In a forked child a stand-in answers both; the kernel's `run` with `warmup=True` then stores in
TRITON_CACHE_DIR exactly what a real launch looks up. A child that crashes or hangs loses one candidate.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flagkernels.operators.backend import Target
from flagkernels.tuning.candidates import Compilation

__all__ = ["Compiled", "compile_all", "without_chip"]

HANG_S = 300.0
"""Seconds after which a compilation counts as hung; ptxas needs minutes for the worst real kernels."""


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """The result of one compilation."""

    index: int
    """Of the job."""
    error: str = ""
    """Why there is no kernel; empty if it was compiled."""
    key: str = ""
    """Triton's hash of the kernel, from which the name of its cache folder is derived."""
    shared: int = 0
    """Bytes of shared memory that a block needs."""
    seconds: float = 0.0

    @property
    def left_to_chip(self) -> bool:
        """True if a hook queries the chip, which a forked process cannot do: the kernel compiles at first launch."""
        return "forked subprocess" in self.error


class _NoChip:
    """The part of a Triton driver that compiling uses."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def get_current_target(self) -> Target:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return device


@contextlib.contextmanager
def without_chip(target: Target) -> Iterator[None]:
    """Within the block, replace Triton's driver by a stand-in for `target`, so that compiling opens no device
    context."""
    from triton.runtime.driver import driver

    before = driver._active
    driver.set_active(_NoChip(target))
    try:
        yield
    finally:
        driver._active = before


def compile_one(job: Compilation) -> tuple[str, int]:
    """Compile into TRITON_CACHE_DIR. Returns Triton's hash and the bytes of shared memory of the kernel."""
    launch, config = job.launch, job.config
    kwargs = {name: value for name, value in launch.kwargs.items() if name not in ("grid", "warmup")}
    if config is not None:
        kwargs |= config.all_kwargs()
        if config.pre_hook is not None:
            # The candidate's hook sets the block shape of tensor descriptors.
            config.pre_hook({**dict(zip(launch.tuner.arg_names, launch.args, strict=False)), **kwargs})
    kernel = launch.fn.run(*launch.args, grid=(1, 1, 1), warmup=True, **kwargs)
    return str(kernel.hash), int(getattr(kernel.metadata, "shared", 0))


def compile_all(
    jobs: Sequence[Compilation],
    target: Target,
    *,
    width: int | None = None,
    deadline: float = float("inf"),
    done: Callable[[Compiled], None] = lambda _: None,
) -> list[Compiled]:
    """Compile the jobs in parallel; returns those that finished before `deadline` (time.monotonic), in that order.

    `width`: number of processes, by default the cores available to this process. `done` is called with each result."""
    if not jobs:
        return []
    _prepare(target)
    width = min(width or len(os.sched_getaffinity(0)), len(jobs))
    results: list[Compiled] = []
    waiting = list(range(len(jobs)))[::-1]
    children = [_Child(jobs, target) for _ in range(width)]
    try:
        for child in children:
            child.give(waiting)
        while any(child.busy for child in children) and time.monotonic() < deadline:
            ready = multiprocessing.connection.wait(
                [handle for child in children if child.busy for handle in (child.pipe, child.process.sentinel)],
                timeout=max(0.0, min(1.0, deadline - time.monotonic())),
            )
            for position, child in enumerate(children):
                result = child.collect(ready)
                if result is None:
                    continue
                results.append(result)
                done(result)
                if not child.process.is_alive() or result.error == "hang":
                    child.end()
                    children[position] = child = _Child(jobs, target)
                child.give(waiting)
    finally:
        for child in children:
            child.end()
    return results


def _prepare(target: Target) -> None:
    """Compute what every child would otherwise compute: hashes of Triton's files, and the assembler's version."""
    from triton.compiler.compiler import make_backend
    from triton.runtime.cache import triton_key

    triton_key()
    make_backend(target).hash()


class _Child:
    """A compiling process and its current job."""

    def __init__(self, jobs: Sequence[Compilation], target: Target) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(jobs, target, theirs, os.getpid()), daemon=True)
        self.process.start()
        theirs.close()
        self.index: int | None = None
        self.began = 0.0

    @property
    def busy(self) -> bool:
        return self.index is not None

    def give(self, waiting: list[int]) -> None:
        if waiting:
            self.index, self.began = waiting.pop(), time.monotonic()
            self.pipe.send(self.index)

    def collect(self, ready: Sequence[object]) -> Compiled | None:
        """The result of the current job if it has finished, failed or hung; otherwise None."""
        if self.index is None:
            return None
        spent = time.monotonic() - self.began
        result = None
        if self.pipe in ready or self.pipe.poll():
            try:
                result = self.pipe.recv()
            except EOFError:
                self.process.join(timeout=10)
        if result is None and not self.process.is_alive():
            code = self.process.exitcode or 0
            ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            result = Compiled(index=self.index, error=f"the compiler died: {ended}", seconds=spent)
        if result is None and spent > HANG_S:
            result = Compiled(index=self.index, error="hang", seconds=spent)
        if result is not None:
            self.index = None
        return result

    def end(self) -> None:
        self.process.kill()
        self.process.join(timeout=10)
        self.pipe.close()


def _work(jobs: Sequence[Compilation], target: Target, pipe: Any, parent: int) -> None:
    _die_with(parent)
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno() if hasattr(sys.stdout, "fileno") else 1)
    with without_chip(target):
        while True:
            try:
                index = pipe.recv()
            except EOFError:
                os._exit(0)
            began = time.monotonic()
            try:
                key, shared = compile_one(jobs[index])
                result = Compiled(index=index, key=key, shared=shared, seconds=time.monotonic() - began)
            except Exception as error:  # any exception counts against the candidate
                text = f"{type(error).__name__}: {error}"[:2000]
                result = Compiled(index=index, error=text, seconds=time.monotonic() - began)
            pipe.send(result)


def _die_with(parent: int) -> None:
    """Make the kernel kill this process when its parent dies. EOF on the pipe does not show that, since siblings hold
    copies of it."""
    pr_set_pdeathsig = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.getppid() != parent:
        os._exit(0)
