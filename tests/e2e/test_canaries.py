"""A whole cell with a canary in every credential: none comes out, in any form, anywhere."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from support.canaries import Canaries
from support.login_registry import login_registry
from support.project import CELL, project

pytestmark = [pytest.mark.e2e, pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(2400)]

TRICKY = '/+%"\\'
"""Letters that JSON, URLs and forms write in other ways."""

HELPER = """#!/bin/sh
cat >/dev/null
printf '{"ServerURL": "x", "Username": "robot", "Secret": "%s"}' "$(cat "$(dirname "$0")/secret")"
"""


@pytest.fixture
def secrets() -> dict[str, str]:
    tokens = {name: f"canary-{number}-of-{name.lower()}" for number, name in enumerate(
        ("HF_TOKEN", "MODELSCOPE_API_TOKEN", "FLAGRELEASE_FLAGEVAL_TOKEN", "PREFECT_API_KEY"))}  # fmt: skip
    passwords = ("FLAGRELEASE_REGISTRY_PASSWORD", "GPQA_PASSWORD", "SOME_SERVICE_PASSWORD", "a login of Docker")
    return {**tokens, **{name: f"canary{TRICKY}{number}-of-it" for number, name in enumerate(passwords)}}


@pytest.mark.parametrize("way", ["environment", "helper"])
def test_a_release_shows_no_credential(tmp_path: Path, base: str, secrets: dict[str, str], way: str) -> None:
    password = secrets["FLAGRELEASE_REGISTRY_PASSWORD"] if way == "environment" else "canary-of-the-helper"
    canaries = Canaries({**secrets, "the helper's": "canary-of-the-helper"})
    root, config = tmp_path / "project", tmp_path / "docker"
    root.mkdir(), config.mkdir()
    with login_registry(tmp_path / "registry", "robot", password) as host:
        helper = config / "docker-credential-canary"
        helper.write_text(HELPER)
        helper.chmod(0o755)
        (config / "secret").write_text(password)
        login = base64.b64encode(f"canary:{secrets['a login of Docker']}".encode()).decode()
        helped = {"credHelpers": {host: "canary"}} if way == "helper" else {}
        logins = {"auths": {"other.example": {"auth": login}}, **helped}
        (config / "config.json").write_text(json.dumps(logins))
        env = {name: secret for name, secret in secrets.items() if name.isupper()}
        env |= {"SOME_URL": f"https://canary:{secrets['SOME_SERVICE_PASSWORD'].replace('/', '-')}@host.example/"}
        env |= {"DOCKER_CONFIG": str(config), "PATH": f"{config}{os.pathsep}{os.environ['PATH']}"}
        env |= {"FLAGRELEASE_REGISTRY_USER": "robot"} if way == "environment" else {}
        env |= {"HOME": str(root / "home"), "XDG_CACHE_HOME": str(root / "cache"), "FLAGRELEASE_ENGINE": "prefect"}
        (root / "home").mkdir()
        user = project(root, f"{host}/canary")
        only = () if way == "environment" else ("--only", "weights", "--only", "image")
        with canaries.watching_processes(allowed=b"flagrelease\0"):
            code, out, err = user.call("run", CELL, *only, "--json", seconds=2000, **env)
        assert code == 0, err
        for words in (["explain", CELL], ["history", CELL], ["status", "--json"], ["plan"], ["doctor"]):
            canaries.search(" ".join(words), "".join(user.call(*words, **env)[1:]).encode())
    canaries.search("output of run", (out + err).encode())
    canaries.search_folder(root)
    canaries.search_folder(tmp_path / "registry", but=frozenset({"htpasswd"}))
    assert canaries.searched > 1000
    assert canaries.seen == set()


def test_what_is_searched_for_would_be_found(tmp_path: Path) -> None:
    canaries = Canaries({"it": f"canary{TRICKY}of it"})
    (tmp_path / "plain").write_text(f"a canary{TRICKY}of it.")
    canaries.search_folder(tmp_path)
    canaries.search("json", json.dumps({"a": f"canary{TRICKY}of it"}).encode())
    canaries.search("login", base64.b64encode(f"robot:canary{TRICKY}of it".encode()))
    assert {line.partition(":")[0] for line in canaries.seen} == {"it, plain", "it, in JSON", "it, in base64"}
    canaries.seen.clear()
    secret = {**os.environ, "X": f"canary{TRICKY}of it"}
    with canaries.watching_processes(allowed=b"flagrelease\0"), subprocess.Popen(["sleep", "60"], env=secret) as other:
        while not canaries.seen:
            time.sleep(0.1)
        other.kill()
    assert [line for line in canaries.seen if r"environment of b'sleep\x0060" in line]
