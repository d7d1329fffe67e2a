"""Judge one operator in a child process, sending each result before the next case begins.

The process imports the operators and uses the chip. It may die of a signal or a device fault, or be killed by its
parent; the results it sent before are kept."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

from flagkernels.errors import KernelsError
from flagkernels.operators.registry import Implementation, NotOffered, open_source
from flagkernels.qualify.cases import CONTEXT, Case, memory_for
from flagkernels.qualify.judge import CaseResult, Dropped, judge

__all__ = ["UNOPENED", "Job", "classify", "run", "sender"]

UNOPENED = "unopened"
"""End of a process that could not import the operators; implies nothing about the operator under test."""

# Messages of torch and the vendors' runtimes about a broken device, after which the process cannot continue.
DEVICE_FAULTS = (
    "cuda error",
    "cuda driver error",
    "illegal memory access",
    "device-side assert",
    "misaligned address",
    "unspecified launch failure",
    "error [cuda]",
    "hip error",
    "musa error",
    "acl error",
    "acceleratorerror",
)
REFUSALS = ("not support", "unsupported", "not implemented", "no kernel", "out of resource", "compilation")


@dataclass(frozen=True, kw_only=True)
class Job:
    """The job of judging one operator, as plain values that can be sent to another process."""

    operator: str
    source: str
    """See registry.open_source."""
    device: str
    """torch's device type."""
    cases: tuple[dict[str, Any], ...]
    """Case.to_json of each case."""
    repeats: int
    """Runs on the same input."""
    seed: int
    """Of the first case; the others follow."""
    memory: int
    """Limit of host memory, in bytes."""
    device_fraction: float | None
    """Share of chip memory; None: no limit."""
    configs: int | None
    """Number of LibTuner candidates to compare; None: all."""
    log: str
    """File for the process's output."""


def classify(error: BaseException) -> tuple[str, str]:
    """The verdict for an exception, and its reason in one line."""
    text = f"{type(error).__name__}: {error}".strip()
    line = next((part for part in text.splitlines() if part.strip()), text)[:300]
    low = text.lower()
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in low or "out of memory" in low:
        return "out-of-memory", line
    if any(word in low for word in DEVICE_FAULTS):
        return "crash", line
    if isinstance(error, NotImplementedError | AssertionError | NotOffered) or any(word in low for word in REFUSALS):
        return "unsupported", line
    return "crash", line


Send = Callable[[dict[str, Any]], None]


def run(job: Job, pipe: Connection) -> None:
    """Entry point of the process. Sends {"start": case}, {"result": …}, {"dropped": case} and finally {"end": …}; a
    case dropped for lack of chip memory has `"short": true`."""
    send = sender(job.log, pipe)
    device = torch.device(job.device)
    torch.set_num_threads(1)
    try:
        share = _limit(job, device)
        try:
            source = open_source(job.source, configs=job.configs)
        except KernelsError as error:
            send({"end": UNOPENED, "reason": f"{error.what}: {error.why}"[:1000]})
            return
        implementations = source.implementations(job.operator)
        if device.type != "cpu":
            torch.get_device_module(device).set_device(device.index or 0)
            torch.ones(1, device=device)
        send({"ready": True})
    except BaseException as error:
        verdict, reason = classify(error)
        send({"end": verdict, "reason": reason})
        return
    for index, data in enumerate(job.cases):
        if not _judge_case(job, Case.from_json(data), implementations, device, job.seed + index, share, send):
            break
    send({"end": "done"})
    pipe.close()
    os._exit(0)  # with a broken device the interpreter's regular exit hangs or aborts


def sender(log: str, pipe: Connection) -> Send:
    """Redirect the process's output to the file `log`, and return a function that sends JSON through the pipe."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    return lambda message: pipe.send_bytes(json.dumps(message).encode())


def _judge_case(
    job: Job,
    case: Case,
    implementations: Mapping[str, Implementation],
    device: torch.device,
    seed: int,
    share: int | None,
    send: Send,
) -> bool:
    """Judge one case within `share` bytes of chip memory; False if the process cannot judge another."""
    if share is not None and memory_for(case.call) > share:
        reason = f"float64 needs more than this process's {share >> 20} MiB"
        send({"dropped": str(case), "reason": reason, "short": True})
        return True
    send({"start": str(case)})
    began = time.monotonic()
    try:
        result = judge(case, implementations, device, repeats=job.repeats, seed=seed)
    except Dropped as error:
        short = isinstance(error.__cause__, torch.OutOfMemoryError)
        send({"dropped": str(case), "reason": str(error)[:200], "short": short})
        return True
    except BaseException as error:
        verdict, reason = classify(error)
        send({"result": CaseResult(case=str(case), verdict=verdict, reason=reason).to_json()})
        return verdict == "unsupported"
    send({"result": {**result.to_json(), "seconds": round(time.monotonic() - began, 3)}})
    return True


def _limit(job: Job, device: torch.device) -> int | None:
    """Limit the process's memory. Returns the bytes of chip memory for a case; None if there is no such limit.

    On the CPU the address space is limited. A chip's runtime reserves terabytes of address space, so there the
    allocator is limited instead, and the parent watches the host memory."""
    if device.type == "cpu":
        with open("/proc/self/statm") as stream:  # noqa: PTH123
            present = int(stream.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (present + job.memory, resource.RLIM_INFINITY))
        return None
    module = torch.get_device_module(device)
    if job.device_fraction is None or not hasattr(module, "set_per_process_memory_fraction"):
        return None
    module.set_per_process_memory_fraction(job.device_fraction, device.index or 0)
    return int(module.mem_get_info()[1] * job.device_fraction) - (CONTEXT >> 2)
