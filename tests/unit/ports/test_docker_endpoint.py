"""Where Docker Engine is, and what is said if its address cannot be used."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from flagrelease.errors import DockerUnavailable
from flagrelease.ports.docker import config_file
from flagrelease.ports.docker.endpoint import endpoint
from flagrelease.ports.docker.engine import Engine


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The docker CLI's configuration; empty."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_without_settings_it_is_this_machines() -> None:
    assert str(endpoint()) == "unix:///var/run/docker.sock"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ssh://user@host", "not used over ssh"),
        ("tcp://host", "port is required"),
        ("tcp://host:port", "Port"),
        ("fd://", "fd protocol"),
        ("npipe:////./pipe/docker", "neither unix:// nor tcp://"),
        ("other://x", "other://x"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(address: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    with pytest.raises(DockerUnavailable) as caught:
        Engine().version()
    assert said in caught.value.line()
    assert "DOCKER_HOST" in caught.value.line()
    assert "set DOCKER_HOST=unix://PATH or tcp://HOST:PORT, or unset it" in caught.value.hint


def test_where_nothing_answers_the_hint_names_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    with pytest.raises(DockerUnavailable, match="does not answer") as caught:
        Engine().version()
    assert caught.value.hint.startswith("tried tcp://127.0.0.1:9, from DOCKER_HOST: start it, or unset DOCKER_HOST")
    assert caught.value.why == "Connection refused", "not the nested errors of three libraries"
    assert "--runner process" in caught.value.hint
    assert "finished stages" not in caught.value.hint, "none has begun"


def test_a_socket_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DockerUnavailable) as caught:
        Engine(f"unix://{tmp_path}/none").version()
    assert caught.value.why == "No such file or directory"
    assert "start it (`make setup` in a checkout, or `systemctl start docker`)" in caught.value.hint


def test_certificates_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    monkeypatch.setenv("DOCKER_CERT_PATH", "/nonexistent")
    with pytest.raises(DockerUnavailable, match="certificates") as caught:
        Engine().version()
    assert "DOCKER_CERT_PATH" in caught.value.hint


@pytest.mark.parametrize("name", ["gone", 5])
def test_a_context_that_is_not_there_is_refused_by_name(name: object, folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"currentContext": name}))
    with pytest.raises(DockerUnavailable, match=f"there is no docker context {name}") as caught:
        Engine().version()
    assert caught.value.why == f"{folder / 'config.json'} names it"
    assert "DOCKER_CONTEXT=default" in caught.value.hint


def test_docker_config_replaces_the_home_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".docker").mkdir()
    (folder / ".docker/config.json").write_text('{"currentContext": "gone"}')
    assert endpoint().named_by == ""
    monkeypatch.delenv("DOCKER_CONFIG")
    with pytest.raises(DockerUnavailable, match="there is no docker context gone"):
        endpoint()


def context(folder: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> Path:
    """The chosen context `there`, as the CLI stores it. Returns the folder of its certificates."""
    monkeypatch.setenv("DOCKER_CONTEXT", "there")
    digest = hashlib.sha256(b"there").hexdigest()
    meta, tls = folder / "contexts/meta" / digest, folder / "contexts/tls" / digest / "docker"
    for made in (meta, tls):
        made.mkdir(parents=True, exist_ok=True)
    (meta / "meta.json").write_text(content)
    return tls


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"Endpoints": {"docker": 5}}', '{"Endpoints": {"docker": {"Host": 5}}}']
)
def test_a_damaged_context_is_refused_by_name(content: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context(folder, monkeypatch, content)
    with pytest.raises(DockerUnavailable, match="docker context there cannot be read"):
        endpoint()


@pytest.mark.parametrize(("host", "said"), [("ssh://user@host", "not used over ssh"), ("", "it is empty")])
def test_a_context_that_cannot_be_used_is_refused_by_name(
    host: str, said: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context(folder, monkeypatch, json.dumps({"Endpoints": {"docker": {"Host": host}}}))
    with pytest.raises(DockerUnavailable, match=said) as caught:
        endpoint()
    assert "docker context there" in caught.value.line()


@pytest.mark.parametrize("skip", [False, True])
def test_a_contexts_certificates_are_used(skip: bool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"Host": "tcp://engine.example:2376", "SkipTLSVerify": skip}
    tls = context(folder, monkeypatch, json.dumps({"Endpoints": {"docker": given}}))
    assert endpoint().tls is None
    (tls / "ca.pem").touch()
    found = endpoint()
    assert (found.tls.ca_cert, found.tls.cert, found.tls.verify) == (str(tls / "ca.pem"), None, not skip)
    for name in ("cert.pem", "key.pem"):
        (tls / name).touch()
    assert endpoint().tls.cert == (str(tls / "cert.pem"), str(tls / "key.pem"))


def test_a_folder_that_cannot_be_looked_at_is_a_fault_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", "x" * 5000)
    assert "too long" in config_file.read().fault
