"""The installed FlagGems for tuning: its operators, tuner and database. Importing flag_gems needs a chip."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from flagkernels.errors import ChipFault, UsageError, did_you_mean
from flagkernels.operators.backend import Target

__all__ = ["FlagGems", "device_module", "load"]


class FlagGems:
    """FlagGems' operators, tuner and database. Implements tuning.capture.Library."""

    def __init__(self, package: Any, libentry: Any) -> None:
        self.package = package
        self.tuner_class = libentry.LibTuner
        self.entry_class = libentry.LibEntry
        self.model = libentry.libcache.model
        self.device = str(package.device)
        self.vendor = str(package.vendor_name)
        entries = [entry for entry in package._FULL_CONFIG if len(entry) < 3 or entry[2]()]
        self.functions: dict[str, Callable[..., Any]] = {entry[0]: entry[1] for entry in entries}

    def function(self, overload: str) -> Callable[..., Any]:
        function = self.functions.get(overload)
        if function is None:
            raise UsageError(
                f"FlagGems {self.package.__version__} has no operator {overload!r}",
                hint=did_you_mean(overload, self.functions) or "see `python -m flagkernels trace` for those in use",
            )
        return function

    def target(self) -> Target:
        from triton.runtime.driver import driver

        target: Target = driver.active.get_current_target()
        return target

    def shared_memory(self) -> int:
        from triton.runtime.driver import driver

        device = driver.active.get_current_device()
        return int(driver.active.utils.get_device_properties(device)["max_shared_mem"])


def load() -> FlagGems:
    """Import FlagGems. Raises ChipFault if that fails: it needs a chip and a Triton backend for it."""
    try:
        package = importlib.import_module("flag_gems")
        # The attribute `flag_gems.utils.libentry` is a decorator of the same name, which hides the module.
        libentry = importlib.import_module("flag_gems.utils.libentry")
    except Exception as error:
        raise ChipFault(
            "FlagGems cannot be imported",
            why=f"{type(error).__name__}: {error}",
            hint="run in the chip's base image with the chip visible; without a Triton backend, serve natively",
        ) from error
    _check_layout(package, libentry)
    return FlagGems(package, libentry)


def _check_layout(package: Any, libentry: Any) -> None:
    """Raise ChipFault if this FlagGems cannot be tuned: before 4.2 its database holds texts without SQLAlchemy, and
    before 4.2.1 it does not offer its operator list."""
    version = getattr(package, "__version__", "unknown")
    if not hasattr(getattr(libentry, "libcache", None), "model"):
        why = "its tuned configurations are in a table of texts for each kernel, which only FlagGems before 4.2 reads"
    elif not hasattr(package, "_FULL_CONFIG"):
        why = "it does not offer its operator list (FlagGems before 4.2.1)"
    else:
        return
    raise ChipFault(
        f"FlagGems {version} cannot be tuned ahead of serving",
        why=why,
        hint="take a base image with FlagGems 4.2.1 or newer, or serve natively with `flaggems: none`",
    )


def device_module(device: str) -> Any:
    """torch's module for a device type: torch.cuda, torch.musa, torch.npu …"""
    import torch

    return getattr(torch, device)
