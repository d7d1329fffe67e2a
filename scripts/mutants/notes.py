"""A plugin of pytest that writes down what each test took, and what the tests import."""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from pathlib import Path

import pytest

_seconds: defaultdict[str, float] = defaultdict(float)
_failed: set[str] = set()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _seconds[report.nodeid] += report.duration
    if report.failed or report.skipped:
        _failed.add(report.nodeid)


def pytest_sessionfinish() -> None:
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None:
        return  # the process that only distributes the tests
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    here = str(Path.cwd())
    note = {
        "seconds": _seconds,
        "failed": sorted(_failed),
        "libraries": [name for name, file in files.items() if file and not file.startswith(here) and name[0] != "_"],
    }
    folder = Path(os.environ["FLAGRELEASE_MUTANTS_NOTES"])
    (folder / f"{worker}.json").write_text(json.dumps(note))
