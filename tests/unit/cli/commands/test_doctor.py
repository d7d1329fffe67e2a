"""`flagrelease doctor` names the cells that cannot run."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from flagrelease.cli.app import main
from flagrelease.cli.commands.doctor import bases_found
from flagrelease.errors import EnvironmentFault

ROOT = Path(__file__).parents[4]


def cells(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, object]:
    (folder / "matrix.yaml").write_bytes((ROOT / "matrix.yaml").read_bytes())
    if not (folder / "matrix.lock").exists():
        (folder / "matrix.lock").write_bytes((ROOT / "matrix.lock").read_bytes())
    main(["doctor", "--json", "--runner", "process", "--matrix", str(folder / "matrix.yaml"), *flags])
    findings = json.loads(capsys.readouterr().out)["findings"]
    (found,) = [finding for finding in findings if finding["name"] == "cells"]
    assert isinstance(found, dict)
    return found


def test_blocked_cells_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = cells(tmp_path, capsys)
    assert found["ok"]
    blocked = str(found["found"]).partition("blocked: ")[2].partition(" (")[0]
    assert found["found"] == f"1 of 19 can run; blocked: {blocked} (`flagrelease plan` says why)"
    assert len(blocked.split(", ")) == 18
    assert {"nvidia-h100/smollm2-135m", "nvidia-h100/qwen3-8b", "metax/qwen3-8b"} <= set(blocked.split(", "))


def test_no_cell_can_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "matrix.lock").write_text("{}")
    found = cells(tmp_path, capsys)
    assert not found["ok"]
    assert found["hint"] == "cpu/smollm2-135m: run `flagrelease lock`"
    flags = ["--runner", "process", "--matrix", str(tmp_path / "matrix.yaml")]
    assert main(["doctor", *flags]) == EnvironmentFault.exit_code


def test_base_images_that_nothing_pulls_are_named() -> None:
    assert bases_found(["cpu", "metax", "gpu"], ["cpu"], ["cpu", "gpu"]) == (
        "local: cpu; pulled when needed: gpu; not pinned, so never pulled: metax (`flagrelease lock` pins)"
    )
    assert bases_found(["cpu"], [], ["cpu"]) == "local: none; pulled when needed: cpu"


def test_no_cell_can_run_without_docker(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--registry", "localhost:1/x"]) == EnvironmentFault.exit_code
    findings = {each["name"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
    assert not findings["cells"]["ok"]
    assert findings["cells"]["found"].startswith("none before Docker Engine answers; then 1 of 19 can run")
    assert findings["cells"]["hint"] == findings["base images"]["hint"] == "see `docker engine`"
    assert findings["registry"]["hint"].startswith("start it: ")
    assert findings["registry"]["hint"].endswith(", or choose another one with --registry HOST/NAME")
    assert findings["docker engine"]["hint"].startswith("tried unix:///nonexistent/docker.sock, from DOCKER_HOST: ")


def test_a_port_of_cells_that_cannot_run_may_be_in_use(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here only the cell of the CPU can run, which serves on any free port."""
    with socket.socket() as taken:
        taken.bind(("", 0))
        text, port = (here / "matrix.yaml").read_text(), taken.getsockname()[1]
        (here / "matrix.yaml").write_text(text.replace("\n    serve:\n", f"\n    serve:\n      port: {port}\n"))
        main(["doctor", "--json", "--runner", "process"])
    findings = {each["name"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
    assert findings["ports"]["ok"]
    assert findings["ports"]["found"] == "no cell that can run needs a fixed port"


def test_what_holds_for_some_cells_only_has_a_mark_of_its_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--runner", "process"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if " cells " in line] == ["–"]


def test_a_workspace_that_cannot_be_written_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "matrix.yaml").write_bytes((ROOT / "matrix.yaml").read_bytes())
    workspace = "/proc/sys/kernel"  # not even root writes there
    flags = ["--runner", "process", "--matrix", str(tmp_path / "matrix.yaml"), "--workspace", workspace]
    assert main(["doctor", "--json", *flags]) == EnvironmentFault.exit_code
    findings = {each["name"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
    assert not findings["disk"]["ok"]
    assert findings["disk"]["found"].startswith(f"{workspace} cannot be written: ")
    assert findings["disk"]["hint"].endswith("choose --workspace DIR")


@pytest.mark.parametrize(
    ("content", "name", "ok"),
    [
        ('{"auths": {"localhost:1": {"auth": "!!notbase64"}}}', "credentials", True),
        ('{"credsStore": "not-installed"}', "credentials", True),
        ("{", "docker config", False),
    ],
)
def test_a_damaged_docker_configuration_is_named(
    content: str,
    name: str,
    ok: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "matrix.yaml").write_bytes((ROOT / "matrix.yaml").read_bytes())
    main(["doctor", "--json", "--registry", "localhost:1/x", "--matrix", str(tmp_path / "matrix.yaml")])
    findings = {each["name"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
    assert findings[name]["ok"] is ok
    assert str(tmp_path / "config.json") in findings[name]["found"]
