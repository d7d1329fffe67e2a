"""Lines about the complete run."""

import time

import pytest

from flagrelease.cli.display import announced


def test_a_long_start_is_reported_until_it_ends() -> None:
    lines: list[str] = []
    with announced(lines.append, "starting Prefect", "or not", every=0.02):
        deadline = time.monotonic() + 10
        while len(lines) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert lines[0] == "starting Prefect (or not)"
    assert lines[1].startswith("still starting Prefect after ")
    assert lines[-1].startswith("starting Prefect: done in ")
    count = len(lines)
    time.sleep(0.1)
    assert len(lines) == count


def test_a_start_that_fails_is_not_done() -> None:
    lines: list[str] = []
    with pytest.raises(ValueError, match="no"), announced(lines.append, "starting", "or not"):
        raise ValueError("no")
    assert lines == ["starting (or not)"]
