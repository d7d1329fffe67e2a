"""A whole cell while every call of Docker and of the registry may be delayed, lost, cut, repeated or reordered.

`UNRELIABLE_SEEDS=FIRST-LAST` chooses the seeds; without it there is one. Each prints a line with what happened.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from flagrelease.ports.docker.engine import Engine
from support.project import CELL, project
from support.unreliable_proxy import Proxy, at_random

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(3000)]

FIRST, _, LAST = os.environ.get("UNRELIABLE_SEEDS", "0-0").partition("-")
SPEED = re.compile(r" {4}speed:.*\n {6}- \{input: 16, output: 8.*\n")
ENGINE = Path("/var/run/docker.sock")
SHARE = 0.04
"""Of the calls that go wrong. A run makes some hundreds."""
SILENCE = 90.0
LONGEST = 15 * 60
TRUE_REASONS = (0, 4, 6, 7)
"""Exit codes of a released cell, of a check that failed, and of a fault of Docker or of the registry."""


@pytest.mark.parametrize("seed", range(int(FIRST), int(LAST or FIRST) + 1))
def test_a_run_ends_green_or_with_the_true_reason_and_a_plain_run_is_green(
    seed: int, tmp_path: Path, own_registry: str, engine: Engine, base: str
) -> None:
    host, _, port = own_registry.partition(":")
    registry, docker = Proxy((host, int(port))), Proxy(ENGINE)
    with registry.running(), docker.running(tmp_path / "d.sock"):
        registry.plan = at_random(2 * seed, SHARE, silence=SILENCE)
        docker.plan = at_random(2 * seed + 1, SHARE, silence=SILENCE)
        user = project(tmp_path, f"{registry.url}/unreliable-{seed}")
        matrix = (tmp_path / "matrix.yaml").read_text()
        matrix, left_out = SPEED.subn("", matrix)  # its calls are those of the other stages
        assert left_out == 1
        (tmp_path / "matrix.yaml").write_text(matrix)
        start = time.monotonic()
        code, out, err = user.call("run", CELL, seconds=1.5 * LONGEST, DOCKER_HOST=docker.url)
        seconds = time.monotonic() - start
        wrong = [call for proxy in (docker, registry) for call in proxy.calls if "→" in call]
        (tmp_path / "calls.txt").write_text("\n".join((*docker.calls, "", *registry.calls, "", out, err)))
        reason = next((line for line in err.splitlines() if line.startswith("flagrelease:")), "")
        calls = len(docker.calls) + len(registry.calls)
        print(f"\nseed {seed}: exit {code} after {seconds:.0f} s, {len(wrong)} of {calls} calls wrong; {reason}")
        registry.plan = docker.plan = lambda _number, _method, _path: None
        assert seconds < LONGEST
        assert code in TRUE_REASONS, err + out
        assert "defect of flagrelease" not in err
        again, out, err = user.call("run", CELL)
        print(f"plain run: exit {again}")
        assert again == 0, err + out
    assert user.leftovers() == []
