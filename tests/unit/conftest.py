"""Unit tests give the same result on every machine."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Docker Engine answers, whose images would decide which cells can run; a test that wants one sets its own."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
