"""Protocols for the objects of Triton and of torch's device modules that are used here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Candidate", "Target", "TimingEvent"]


class Target(Protocol):
    """What Triton compiles a kernel for: triton.backends.compiler.GPUTarget."""

    @property
    def backend(self) -> str: ...
    @property
    def warp_size(self) -> int: ...


class Candidate(Protocol):
    """A configuration that a tuner compares: triton.Config."""

    @property
    def kwargs(self) -> dict[str, Any]:
        """Constants of the kernel, such as block sizes."""

    @property
    def num_stages(self) -> int: ...
    @property
    def pre_hook(self) -> Callable[[dict[str, Any]], object] | None: ...
    def all_kwargs(self) -> dict[str, Any]:
        """`kwargs` and the options of the compiler."""


class TimingEvent(Protocol):
    """A device event that records times: torch.cuda.Event(enable_timing=True)."""

    def record(self) -> object: ...
    def elapsed_time(self, end: TimingEvent) -> float:
        """Milliseconds from this event to `end`."""
