"""Paths in the folder of a tuning run: database, compiled kernels, journal and report."""

from __future__ import annotations

import os
from pathlib import Path

from flagkernels.errors import UsageError

__all__ = ["Layout"]


class Layout:
    """The paths of a tuning run."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.flaggems = out / "flaggems"
        self.triton = out / "triton-cache"
        self.journal = out / "tune.jsonl"
        self.report = out / "tune.json"

    @property
    def database(self) -> Path:
        """The tuned database, which FlagGems names by device and Triton. Raises UsageError if there is not exactly
        one."""
        databases = sorted((self.flaggems / "config_cache").glob("TunedConfig_*.db"))
        if len(databases) != 1:
            raise UsageError(
                f"{self.flaggems / 'config_cache'} contains {len(databases)} tuned databases instead of one",
                hint="use a separate tuning folder for each chip and Triton version",
            )
        return databases[0]

    def environment(self) -> dict[str, str]:
        """This process's environment, changed so that FlagGems and Triton use the folder."""
        caches = {"FLAGGEMS_CACHE_DIR": str(self.flaggems.resolve()), "TRITON_CACHE_DIR": str(self.triton.resolve())}
        others = {name: value for name, value in os.environ.items() if name != "FLAGGEMS_DB_URL"}
        return {**others, **caches}
