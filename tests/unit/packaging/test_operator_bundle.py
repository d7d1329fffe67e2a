"""The operator bundle in the build context: its layer, the package with the vLLM plugin, and the stack that uses it."""

from __future__ import annotations

import base64
import hashlib
import json
import tomllib
from pathlib import Path

import pytest

import support.finished_cell as given
from flagrelease.packaging import operator_bundle
from flagrelease.packaging.wheelhouse import Wheelhouse
from flagrelease.recipe.image_paths import DOCKER, Layout, under
from flagrelease.stages.image import build_context
from flagrelease.stages.image.build_context import Plan


@pytest.fixture
def bundle(tmp_path: Path) -> operator_bundle.Shipped:
    folder = tmp_path / "bundle"
    (folder / "triton-cache/a").mkdir(parents=True)
    (folder / "operators.yaml").write_text("include: [mm, neg]\n")
    (folder / "triton-cache/a/k.cubin").write_bytes(b"\x7fELF")
    return operator_bundle.Shipped(given.kernels(), folder)


def draw(tmp_path: Path, operators: operator_bundle.Shipped | None, layout: Layout = DOCKER) -> Plan:
    wheelhouse = Wheelhouse(folder=tmp_path, wheels=())
    return build_context.draw(given.job(), wheelhouse, "base:tag", "sha256:base", layout, operators)


def test_the_bundle_is_a_layer_of_its_own(tmp_path: Path, bundle: operator_bundle.Shipped) -> None:
    plan = draw(tmp_path, bundle)
    assert "COPY kernels /etc/flagos/kernels" in plan.files["Dockerfile"][0].decode()
    assert plan.files["kernels/triton-cache/a/k.cubin"] == (b"\x7fELF", 0o644)
    assert plan.labels["io.flagos.kernels"] == bundle.result.content
    kernels = json.loads(plan.manifest)["kernels"]
    assert kernels == {"content": "ab" * 32, "operators": ["mm", "neg"], "policy": "express"}


def test_only_the_flagos_stack_has_it_in_effect(tmp_path: Path, bundle: operator_bundle.Shipped) -> None:
    serve = json.loads(draw(tmp_path, bundle).manifest)["serve"]
    places = ["--bundle", "/etc/flagos/kernels", "--effective", "/var/lib/flagos/effective"]
    assert serve["operators"] == ["-m", "flagkernels", "run", *places, "--"]
    assert serve["env"]["flagos"]["FLAGKERNELS_BUNDLE"] == "/etc/flagos/kernels"
    assert serve["env"]["native"]["FLAGKERNELS_BUNDLE"] == "none"
    assert {env["USE_FLAGGEMS"] for env in serve["env"].values()} == {"0"}  # the bundle alone decides
    elsewhere = json.loads(draw(tmp_path, bundle, under(Path("/srv/one"))).manifest)["serve"]
    assert "/srv/one/etc/flagos/kernels" in elsewhere["operators"]


def test_without_operators_nothing_of_it_is_there(tmp_path: Path) -> None:
    plan = draw(tmp_path, None)
    assert "COPY kernels" not in plan.files["Dockerfile"][0].decode()
    assert not [name for name in plan.files if "kernels" in name]
    manifest = json.loads(plan.manifest)
    assert manifest["serve"]["operators"] == []
    assert "kernels" not in manifest


def test_the_package_is_found_by_its_metadata(tmp_path: Path, bundle: operator_bundle.Shipped) -> None:
    root = "programs/opt/flagos/lib"
    files = {name.removeprefix(f"{root}/"): data for name, (data, _) in bundle.files().items() if name.startswith(root)}
    (points,) = [data.decode() for name, data in files.items() if name.endswith("entry_points.txt")]
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    plugin = project["entry-points"]["vllm.general_plugins"]["flagkernels"]
    assert points == f"[vllm.general_plugins]\nflagkernels = {plugin}\n"
    assert "flagkernels/engine/startup/sitecustomize.py" in files
    assert {"flagkernels/vendors.json", "flagkernels/options.json"} <= set(files)
    (record,) = [data.decode() for name, data in files.items() if name.endswith("RECORD")]
    for line in record.splitlines()[:-1]:
        name, digest, size = line.split(",")
        expected = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=").decode()
        assert (digest, int(size)) == (f"sha256={expected}", len(files[name]))
