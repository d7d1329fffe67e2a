"""Unit tests give the same result on every machine."""

from __future__ import annotations

import pytest

from flagrelease import redact


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Docker Engine answers, whose images would decide which cells can run; a test that wants one sets its own."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")


@pytest.fixture(autouse=True)
def no_secret_of_an_earlier_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test gave as a password, such as a common word, is redacted in no other."""
    monkeypatch.setattr(redact, "_remembered", {})
