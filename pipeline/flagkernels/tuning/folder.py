"""The folder of a tuning run: database, compiled kernels, journal and report."""

from __future__ import annotations

import os
from pathlib import Path

from flagkernels.errors import UsageError

__all__ = ["Layout"]


class Layout:
    """The files of a tuning run."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.flaggems = out / "flaggems"
        self.triton = out / "triton-cache"
        self.journal = out / "tune.jsonl"
        self.report = out / "tune.json"

    @property
    def database(self) -> Path:
        """FlagGems names it after device and Triton. Raises UsageError where there is not exactly one."""
        found = sorted((self.flaggems / "config_cache").glob("TunedConfig_*.db"))
        if len(found) != 1:
            raise UsageError(
                f"{self.flaggems / 'config_cache'} holds {len(found)} tuned databases instead of one",
                hint="tune into a folder of its own for each chip and Triton",
            )
        return found[0]

    def environment(self) -> dict[str, str]:
        places = {"FLAGGEMS_CACHE_DIR": str(self.flaggems.resolve()), "TRITON_CACHE_DIR": str(self.triton.resolve())}
        others = {name: value for name, value in os.environ.items() if name != "FLAGGEMS_DB_URL"}
        return {**others, **places}
