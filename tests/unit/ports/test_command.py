"""Programs that the pipeline starts end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flagrelease.ports import command
from flagrelease.redact import PIP, UV, secrets_for

SOURCE = Path(__file__).parents[3] / "pipeline"

KILLED = """
import sys
from flagrelease.ports import command
command.run(["sh", "-c", "echo $$ > " + sys.argv[1] + "; exec sleep 60"], seconds=60)
"""


def test_a_program_is_killed_with_the_process_that_waits_for_it(tmp_path: Path) -> None:
    """Else it goes on writing to a folder that the next run removes."""
    pid = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(pid)], cwd=SOURCE) as waiting:
        deadline = time.monotonic() + 30
        while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        program = int(pid.read_text())
        waiting.send_signal(signal.SIGKILL)
    while _runs(program) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(program)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


SECRETS = {
    "HF_TOKEN": "hf_abcdefghijklmnop",
    "MODELSCOPE_API_TOKEN": "ms-0123456789",
    "FLAGRELEASE_REGISTRY_PASSWORD": "registry-pass",
    "GITHUB_TOKEN": "ghp_abcdefghijkl",
    "AWS_SECRET_ACCESS_KEY": "aws-secret-key",
    "PIP_INDEX_URL": "https://me:index-pass@pypi.example/simple",
    "UV_INDEX_URL": "https://me:index-pass@pypi.example/simple",
    "HTTPS_PROXY": "http://me:proxy-pass@proxy.example:3128",
    "PREFECT_API_KEY": "pnu_abcdefghijkl",
}
PLAIN = {"PIP_TIMEOUT": "60", "LANG": "C.UTF-8", "NO_PROXY": "localhost"}


@pytest.fixture
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (SECRETS | PLAIN).items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("_secrets")
def test_a_program_gets_no_secret_but_those_that_it_is_given(tmp_path: Path) -> None:
    def seen(printed: str) -> set[str]:
        return {name for name in SECRETS | PLAIN if f"{name}=" in printed}

    assert seen(command.run(["env"], seconds=60).stdout) == set(PLAIN)
    log = tmp_path / "log"
    with command.service(["env"], log=log) as process:
        process.wait(60)
    assert seen(log.read_text()) == set(PLAIN)
    for group, own in ((PIP, "PIP_INDEX_URL"), (UV, "UV_INDEX_URL"), (("HF_TOKEN",), "HF_TOKEN")):
        given = secrets_for(*group)
        assert set(given) - {"HTTPS_PROXY"} == {own}
        assert seen(command.run(["env"], seconds=60, env=given).stdout) == set(PLAIN) | set(given)
