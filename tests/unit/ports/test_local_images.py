"""The quick question for an image is answered by this machine's engine only, or not at all."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from flagrelease.ports.docker import local_images
from flagrelease.ports.docker.local_images import LocalImages
from support.listing_engine import listing


def test_an_engine_that_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with listing(tmp_path, "base:1", "host.example/a/b:2") as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        images = LocalImages()
        assert [images.has(name) for name in ("base:1", "host.example/a/b:2", "base:2")] == [True, True, False]


@pytest.mark.parametrize("host", ["unix:///nonexistent/docker.sock", "tcp://127.0.0.1:1", "http://[", "nonsense"])
def test_an_engine_that_is_away_or_behind_a_network(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    assert LocalImages().has("base:1") is None


def test_an_engine_that_hangs_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_images, "_SECONDS", 0.1)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent"))
        silent.listen()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path / 'silent'}")
        images = LocalImages()
        assert images.has("base:1") is None
        with listing(tmp_path, "base:1") as host:
            monkeypatch.setenv("DOCKER_HOST", host)
            assert images.has("base:1") is None
            assert images.has("base:2") is None
            assert LocalImages().has("base:1") is True
