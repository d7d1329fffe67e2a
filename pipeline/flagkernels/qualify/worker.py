"""The child process: one operator, case by case, each result sent before the next case begins.

It imports the operators, uses the chip, and may die of a signal or a device fault, or be killed by its parent. The
results sent by then are kept."""

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
"""How a process ends that could not import the operators: says nothing about the operator itself."""

# Torch and the vendors' runtimes word a broken device in their own ways; after any of these the process is lost.
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
    """One operator's work: plain values, since it travels to another process. memory in bytes, of the host."""

    operator: str
    source: str
    device: str
    cases: tuple[dict[str, Any], ...]
    repeats: int
    seed: int
    memory: int
    device_fraction: float | None
    configs: int | None
    log: str


def classify(error: BaseException) -> tuple[str, str]:
    """The verdict that an exception stands for, and its reason in one line."""
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
    """Entry point of the process. Sends {"start": case}, {"result": …}, {"dropped": case} and at last {"end": …}; a
    case that was dropped for lack of the chip's memory is `short` of it."""
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
    os._exit(0)  # a broken device makes the interpreter's own exit hang or abort


def sender(log: str, pipe: Connection) -> Send:
    """Sends messages through the pipe, as JSON; what the process prints from now on goes to the file `log`."""
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
    """Judges one case within `share` bytes of the chip; False when the process is not fit for another one."""
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
    """The bytes of the chip that cases may take; None on the CPU, where the kernel refuses what is too much.

    A chip's runtime reserves address space by the terabyte, so there the allocator is limited, and the parent watches
    the host memory."""
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
