"""`flagrelease lock` reports what it could not pin this time, and repairs a damaged lock."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import support.served_cell as given
from flagrelease.cli.app import main
from flagrelease.config import lockfile as locks
from flagrelease.config.lockfile import Lock, LockedModel
from flagrelease.errors import CommandFailed, ConfigError, EnvironmentFault
from flagrelease.packaging.requirements import wanted
from flagrelease.ports.registry import MANIFEST_TYPES, OciRegistry, scratch
from support.hub_stand_in import HubStandIn, wheel_of
from support.listing_engine import listing
from support.model_files import gguf, safetensors_of

MATRIX = """\
version: 1
registry: localhost:5000/x
defaults: {baseline: {chip: same}, profile: quick}
chips:
  cpu:
    vendor: cpu
    device: {name: CPU, code: cpu}
    base: "base:1"
    components: {flagscale: 0.8.0, flaggems: none}
models:
  tiny: {title: Tiny, source: "file://FOLDER/tiny", upstream: me/t, license: mit, serve: {name: t, engine: llama_cpp}}
  big: {title: Big, source: "file://FOLDER/big", upstream: me/b, license: mit, serve: {name: b, engine: vllm}}
benchmarks:
  sums: {title: Sums, task: integer, data: data://sums.jsonl, license: MIT}
profiles:
  quick: {benchmarks: {sums: {}}}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two models, of which one exists, and no package index."""
    (tmp_path / "matrix.yaml").write_text(MATRIX.replace("FOLDER", str(tmp_path)))
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "model.gguf").write_bytes(gguf(b"tiny"))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_NO_CACHE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_was_not_tried_has_not_failed_now(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    locks.save(project / "matrix.lock", Lock(unresolved={"models.big": "was away"}))
    assert main(["lock", "cpu/tiny"]) == CommandFailed.exit_code
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in shown if line.startswith("! ")] == ["wheels.cpu-llama_cpp"]
    assert not [line for line in shown if "unresolved.wheels" in line], "a failure is shown once"
    assert shown[-1] == "still not pinned, and not selected: models.big"
    assert any(line.startswith("+ models.tiny ") for line in shown)
    assert main(["lock", "cpu/tiny", "--json"]) == CommandFailed.exit_code
    printed = json.loads(capsys.readouterr().out)
    assert printed["failed"] == ["wheels.cpu-llama_cpp"]
    assert set(printed["unresolved"]) == {"models.big", "wheels.cpu-llama_cpp"}


@pytest.mark.parametrize("content", [b"", b"<<<<<<< ours\n", b'{"version": "x"}', b'{"models": {"\xff": 1}}'])
def test_a_damaged_lock_is_repaired(content: bytes, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = project / "matrix.lock"
    path.write_bytes(content)
    assert main(["plan"]) == ConfigError.exit_code
    assert "matrix.lock is damaged" in (said := capsys.readouterr().err)
    assert "run `flagrelease lock`, which pins everything again" in said
    assert main(["lock", "cpu/tiny"]) == CommandFailed.exit_code
    assert "starting from an empty lock" in capsys.readouterr().err
    assert list(locks.load(path).models) == ["tiny"]
    assert (project / "matrix.lock.damaged").read_bytes() == content


def test_a_lock_of_a_newer_version_is_not_replaced(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = project / "matrix.lock"
    path.write_text('{"version": 2}')
    assert main(["lock"]) == ConfigError.exit_code
    assert "written by a newer flagrelease" in capsys.readouterr().err
    assert path.read_text() == '{"version": 2}'


def test_other_entries_stay(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    big = LockedModel(source="file:///b", revision="r", files=(), digest="sha256:0")
    locks.save(project / "matrix.lock", Lock(models={"big": big}))
    main(["lock", "cpu/tiny"])
    assert "models.big" not in capsys.readouterr().out
    assert locks.load(project / "matrix.lock").models["big"] == big


def test_a_base_image_that_is_nowhere_is_reported(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a registry in its name it is not pinned; mistyped, it would count as locked."""
    with listing(project, "base:1") as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        main(["lock", "cpu/tiny"])
    assert "chips.cpu is not pinned" not in capsys.readouterr().out
    with listing(project) as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        assert main(["lock", "cpu/tiny"]) == EnvironmentFault.exit_code
        shown = capsys.readouterr().out
        assert "! chips.cpu is not pinned: the base image base:1 is not on this machine: its name has no" in shown
        assert "build or load an image base:1" in shown
        main(["lock", "cpu/tiny", "--json"])
    assert "chips.cpu" in json.loads(capsys.readouterr().out)["failed"]
    assert "chips.cpu" not in locks.load(project / "matrix.lock").unresolved, "other machines may have it"


def test_the_seed_s_cell_is_pinned_and_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hub and registry are on loopback, packages in a folder; the base image brings FlagGems, which no index has."""
    hub, needed = HubStandIn(), wanted(given.cell("metax/qwen3-8b"))
    (tmp_path / "index").mkdir()
    hub.files = {
        "config.json": b'{"architectures": ["Qwen3ForCausalLM"]}',
        "model.safetensors": safetensors_of(bytes(2000)),
    }
    for requirement in needed[1:]:
        name, _, version = requirement.partition("==")
        file, content = wheel_of(name, version or "1.0", {f"{name.replace('-', '_')}.py": b""})
        (tmp_path / "index" / file).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UV_NO_CACHE", "1")
    with hub.running(), scratch.serving(tmp_path / "registry") as host:
        offline = {"UV_FIND_LINKS": str(tmp_path / "index"), "UV_NO_INDEX": "1", "UV_OFFLINE": "1"}
        for name, value in {"MODELSCOPE_ENDPOINT": hub.url, **offline}.items():
            monkeypatch.setenv(name, value)
        base = f"{host}/flagos-base/metax"
        body = json.dumps({"schemaVersion": 2, "config": {}, "layers": []}).encode()
        digest = OciRegistry().put_manifest(base, "2.1.2", body, MANIFEST_TYPES[0])
        text = (given.ROOT / "matrix.yaml").read_text()
        theirs = given.cell("metax/qwen3-8b").chip.base
        (tmp_path / "matrix.yaml").write_text(text.replace(theirs, f"{base}:2.1.2"))
        assert main(["lock", "metax/qwen3-8b", "--profile", "embedded"]) == 0, capsys.readouterr()
    locked = locks.load(tmp_path / "matrix.lock")
    assert locked.chips["metax"].digest == digest
    assert [file.path for file in locked.models["qwen3-8b"].files] == ["config.json", "model.safetensors"]
    pinned = {line.partition("==")[0] for line in locked.wheels["metax-vllm"].requirements}
    assert "flag-scale" in pinned
    assert "flag-gems" not in pinned
    capsys.readouterr()
    assert main(["plan", "metax/qwen3-8b", "--profile", "embedded", "--json"]) == 0
    (planned,) = json.loads(capsys.readouterr().out)["cells"]
    assert {step["action"] for step in planned["stages"]} == {"run"}
