"""The docker CLI is given a login that only this program has, without a trace of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from flagrelease.ports.credentials import Credentials
from flagrelease.ports.docker.engine import Engine
from support.login_registry import login_registry

pytestmark = [pytest.mark.integration]

PASSWORD = 'a"b\\c/+%$(x)'


def docker(*words: str, env: Mapping[str, str] | None = None, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["docker", *words], capture_output=True, input=stdin, env={**os.environ, **(env or {})})


def test_the_cli_pulls_with_the_login_of_this_program_and_keeps_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "docker"
    config.mkdir()
    (config / "config.json").write_text('{"auths": {"other.example": {"auth": "eDp5"}}, "psFormat": "json"}')
    monkeypatch.setenv("DOCKER_CONFIG", str(config))
    with login_registry(tmp_path / "registry", "robot", PASSWORD) as host:
        repository, engine = f"{host}/a/b", Engine(known=lambda _host: Credentials("robot", PASSWORD))
        assert docker("import", "-", f"{repository}:1", stdin=bytes(10240)).returncode == 0
        digest = engine.push(repository, "1", lambda *_: None).digest
        engine.untag(f"{repository}:1")
        reference = f"{repository}@{digest}"
        without = docker("pull", reference)
        with engine.logged_in(reference) as env:
            folder = Path(env["DOCKER_CONFIG"])
            with_it = docker("pull", reference, env=env)
            seen = "".join(path.read_text() for path in folder.iterdir()) + str(env)
    docker("rmi", reference)
    assert without.returncode == 1
    assert b"no basic auth credentials" in without.stderr
    assert with_it.returncode == 0, with_it.stderr
    assert PASSWORD not in seen
    assert "eDp5" not in seen
    assert "psFormat" in seen
    assert not folder.exists()


def test_a_login_that_the_cli_has_itself_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text('{"auths": {"registry.example": {"auth": "cm9ib3Q6cHc="}}}')
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    engine = Engine(known=lambda _host: Credentials("robot", "pw"))
    with engine.logged_in("registry.example/a/b@sha256:0") as env:
        assert env == {}
    with engine.logged_in("other.example/a/b@sha256:0") as env:
        assert set(env) == {"DOCKER_CONFIG", "PATH"}
