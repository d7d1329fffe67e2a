"""A cell that was killed at random moments and resumed has the release of a cell that was not.

`KILL_SEEDS=FIRST-LAST` chooses the seeds, each a kill at another moment; without it there is one.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from support.project import CELL, UserProject, project

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(14400)]

FIRST, _, LAST = os.environ.get("KILL_SEEDS", "0-0").partition("-")
SEEDS = range(int(FIRST), int(LAST or FIRST) + 1)


def released(user: UserProject) -> dict[str, Any]:
    """What a release says that does not depend on when and how fast it was made."""
    folder = user.root / ".flagrelease/releases" / CELL / "latest"
    record = json.loads((folder / "release.json").read_text())
    accuracy, smoke = record["accuracy"], record["smoke"]
    evidence = {each["name"]: each["sha256"] for each in accuracy["evidence"]}
    return {
        "weights": record["weights"]["digest"],
        "packages": {each["name"]: each["sha256"] for each in record["image"]["evidence"]}["packages.json"],
        "checks": [(each["name"], each["passed"]) for each in smoke["checks"]],
        "verdicts": (accuracy["verdict"], record["speed"]["verdict"]),
        "scores": [(each["baseline"], each["candidate"], each["interval90"]) for each in accuracy["benchmarks"]],
        "attempts": [len(each["attempts"]) for each in accuracy["benchmarks"]],
        "replies": [evidence[f"accuracy/{name}"] for name in ("replies.jsonl", "baseline.replies.jsonl")],
        "tokens": evidence["accuracy/tokens.json"],
    }


def test_it_is_the_same_release(tmp_path: Path, base: str, own_registry: str) -> None:
    (tmp_path / "whole").mkdir()
    whole = project(tmp_path / "whole", f"{own_registry}/whole")
    start = time.monotonic()
    code, out, err = whole.call("run", CELL)
    assert code == 0, err + out
    lasted, expected = time.monotonic() - start, released(whole)
    for seed in SEEDS:
        root = tmp_path / f"killed-{seed}"
        root.mkdir()
        user, after = project(root, f"{own_registry}/killed-{seed}"), random.Random(seed).uniform(1, lasted)
        with user.start("run", CELL) as process:
            try:
                process.communicate(timeout=after)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                _, said = process.communicate()
                last = said.strip().splitlines()[-1:]
                print(f"\nseed {seed}: killed after {after:.0f} of {lasted:.0f} s: {' '.join(last)}")
        code, out, err = user.call("run", CELL)
        assert code == 0, err + out
        assert released(user) == expected, f"seed {seed}"
        assert user.leftovers() == []
