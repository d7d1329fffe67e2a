"""The build context: rendered from the matrix alone, with the same bytes each time."""

import io
import json
import shlex
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import support.served_cell as given
from flagrelease.config.lockfile import Lock, LockedModel
from flagrelease.contract.job import Job
from flagrelease.packaging.wheelhouse import Wheel, Wheelhouse
from flagrelease.recipe import engine_config
from flagrelease.recipe.image_paths import DOCKER, under
from flagrelease.stages.image import build_context

WEIGHTS = LockedModel(source="s", revision="r", files=(), digest="sha256:" + "2" * 64)

LLAMA_SERVER = "/opt/flagos/lib/flag_scale/third_party/llama.cpp/build/bin/llama-server"


def drawn(tmp_path: Path, name: str = "cpu/smollm2-135m", **title: str) -> build_context.Plan:
    for file in ("one-1.0-py3-none-any.whl", "pip-26.3-py3-none-any.whl"):
        (tmp_path / file).write_bytes(b"wheel")
    wheels = (
        Wheel(file="one-1.0-py3-none-any.whl", name="one", version="1.0", sha256="0" * 64, built_from="1" * 64),
        Wheel(file="pip-26.3-py3-none-any.whl", name="pip", version="26.3", sha256="0" * 64),
    )
    cell = given.cell(name)
    cell = replace(cell, model=replace(cell.model, **title))  # type: ignore[arg-type]
    job: Job = replace(given.job(cell), lock=Lock(models={cell.model_name: WEIGHTS}))
    return build_context.draw(job, Wheelhouse(folder=tmp_path, wheels=wheels), "base:tag", "sha256:base")


def serve_yaml(plan: build_context.Plan) -> Any:
    return yaml.safe_load(plan.files["config/serve.yaml"][0])


def test_flagscale_and_native_get_the_same_arguments(tmp_path: Path) -> None:
    serve = serve_yaml(drawn(tmp_path))["serve"][0]
    native = engine_config.native(given.cell(), DOCKER)
    assert serve["serve_id"] == "vllm_model"
    assert serve["engine"] == "llama_cpp"
    options = dict(zip(native[1::2], native[2::2], strict=True))
    arguments = serve["engine_args"]
    assert options == {
        "--model": arguments["model"],
        "--alias": arguments["served_model_name"],
        "--host": arguments["host"],
        "--ctx-size": str(arguments["max_model_len"]),
        "--parallel": str(arguments["max_num_seqs"]),
        "--threads": str(serve["engine_args_specific"]["llama_cpp"]["threads"]),
    }


def test_vllm_gets_the_matrix_arguments(tmp_path: Path) -> None:
    plan = drawn(tmp_path, "nvidia-h100/qwen3-8b")
    arguments = serve_yaml(plan)["serve"][0]["engine_args"]
    assert arguments["gpu_memory_utilization"] == 0.9
    native = json.loads(plan.manifest)["serve"]["native"]
    assert native[:3] == ["vllm", "serve", "/nfs/models/Qwen3-8B"]
    assert "--no-enable-prefix-caching" in native, "a boolean option has no value"
    assert not any("llama" in path for path in build_context.programs(given.cell("nvidia-h100/qwen3-8b")))


def test_only_the_flagos_stack_switches_flaggems_on(tmp_path: Path) -> None:
    env = json.loads(drawn(tmp_path, "nvidia-h100/qwen3-8b").manifest)["serve"]["env"]
    assert (env["flagos"]["USE_FLAGGEMS"], env["native"]["USE_FLAGGEMS"]) == ("1", "0")
    assert "USE_FLAGGEMS" not in json.loads(drawn(tmp_path).manifest)["serve"]["env"]["flagos"]


def test_the_manifest_lists_packages_and_own_programs(tmp_path: Path) -> None:
    manifest = json.loads(drawn(tmp_path).manifest)
    assert [package["name"] for package in manifest["packages"]] == ["one"], "the installer is not in the image"
    assert manifest["weights"]["digest"] == WEIGHTS.digest
    assert "llama-server" in " ".join(manifest["remarks"])
    assert "one 1.0" in " ".join(manifest["remarks"]), "packages built from source are listed"
    assert set(manifest["programs"]) == {
        "/opt/flagos/bin/flagos-serve",
        "/opt/flagos/bin/device_check.py",
        LLAMA_SERVER,
    }


def packed(plan: build_context.Plan) -> bytes:
    target = io.BytesIO()
    build_context.write(plan, target)
    return target.getvalue()


def test_the_context_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    first = packed(drawn(tmp_path))
    (tmp_path / "one-1.0-py3-none-any.whl").touch()
    assert packed(drawn(tmp_path)) == first
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        names = {entry.name for entry in tar}
        assert {entry.mtime for entry in tar} == {946684800}
    assert {"wheels/one-1.0-py3-none-any.whl", "tools/pip-26.3-py3-none-any.whl", "Dockerfile"} < names


@pytest.mark.parametrize("evil", ['a"\nRUN touch /owned', "${HOME} $(id)", "{{ 7*7 }}", "a: [b, #c", "×☃"])
def test_a_title_is_data_in_every_file(tmp_path: Path, evil: str) -> None:
    plan = drawn(tmp_path, title=evil)
    lines = plan.files["Dockerfile"][0].decode().splitlines()
    assert not [line for line in lines if line.startswith("RUN touch")]
    assert serve_yaml(plan)["serve"][0]["engine_args"]["served_model_name"] == evil
    label = next(line for line in lines if line.strip().startswith("io.flagos.model="))
    assert "49" not in label
    assert "$" not in label.replace("\\$", ""), "Docker must not expand variables in it"


def test_the_dockerfile_needs_no_network_and_no_builder_extension(tmp_path: Path) -> None:
    text = drawn(tmp_path).files["Dockerfile"][0].decode()
    assert "--mount" not in text
    assert "--no-index" in text
    for line in text.splitlines():
        if line.startswith("ENTRYPOINT"):
            assert shlex.split(line)[1] == "[flagos-serve]"


def test_every_path_in_the_config_follows_the_layout(tmp_path: Path) -> None:
    job: Job = replace(given.job(given.cell()), lock=Lock(models={"smollm2-135m": WEIGHTS}))
    house = Wheelhouse(folder=tmp_path, wheels=())
    here = build_context.draw(job, house, "base", "id", under(Path("/srv/images/one")))
    there = build_context.draw(job, house, "base", "id")
    for name in ("config/serve.yaml", "config/manifest.json"):
        moved, usual = here.files[name][0].decode(), there.files[name][0].decode()
        places = ("/etc/flagos", "/var/lib/flagos", "/nfs/models", "/opt/flagos")
        assert sum(moved.count(f"/srv/images/one{place}") for place in places) == sum(map(usual.count, places)) - (
            3 if name.endswith(".json") else 0  # our own programs are listed by their path in the image
        )
    assert serve_yaml(here)["serve"][0]["engine_args"]["host"] == "127.0.0.1"
    assert set(here.files) == set(there.files)
