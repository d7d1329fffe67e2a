"""The table of serving engines: an engine's entry there is all that supporting it takes."""

import re
from dataclasses import replace
from typing import Any

import pytest

import support.served_cell as given
from flagrelease.config import strict_yaml
from flagrelease.config.cell import Cell
from flagrelease.config.engines import ENGINES
from flagrelease.config.lockfile import Lock
from flagrelease.config.matrix import Matrix
from flagrelease.contract.code_version import PACKAGE
from flagrelease.errors import ConfigError
from flagrelease.packaging import requirements
from flagrelease.recipe import engine_config
from flagrelease.recipe.image_paths import DOCKER
from flagrelease.stages.image import build_context
from flagrelease.stages.image import stage as image
from flagrelease.stages.kernels import stage as kernels
from flagrelease.stages.speed import load_tools

LLAMA_SERVER = "/opt/flagos/lib/flag_scale/third_party/llama.cpp/build/bin/llama-server"


def cell(engine: str) -> Cell:
    base = given.cell("nvidia-h100/qwen3-8b")
    return replace(base, model=replace(base.model, serve=replace(base.model.serve, engine=engine, args={"n": 1})))


def test_the_matrix_takes_these_engines_and_no_other() -> None:
    text = (given.ROOT / "matrix.yaml").read_text()
    assert "engine: llama_cpp" in text
    for name in ENGINES:
        read = strict_yaml.loads(text.replace("engine: llama_cpp", f"engine: {name}").encode(), Matrix)
        assert read.models["smollm2-135m"].serve.engine == name
    with pytest.raises(ConfigError, match="unknown serving engine 'vlm'") as caught:
        strict_yaml.loads(text.replace("engine: vllm", "engine: vlm").encode(), Matrix)
    assert caught.value.hint == "did you mean 'vllm'?"


def test_nothing_else_compares_the_name_of_an_engine() -> None:
    names = "|".join(ENGINES)
    compared = re.compile(rf"""(?:==|!=|\bin\b|\bcase\b)\s*[(\[{{]?\s*["'](?:{names})["']""")
    for path in PACKAGE.rglob("*.py"):
        assert not compared.search(path.read_text()), f"{path.name}: that is for a field of ServingEngine"


def test_a_load_tool_that_an_engine_names_is_there() -> None:
    assert {engine.load_tool for engine in ENGINES.values()} <= set(load_tools.LOAD_TOOLS)


@pytest.mark.parametrize(
    ("engine", "args", "limits", "execution"),
    [
        ("vllm", {"max_num_seqs": 4, "max_num_batched_tokens": 512}, (4, 512), "compiled"),
        ("vllm", {"enforce_eager": True}, (64, 8192), "eager"),
        ("sglang", {"max_num_seqs": 4, "chunked_prefill_size": 512}, (4, 512), "captured"),
        ("sglang", {"disable_cuda_graph": True}, (64, 8192), "eager"),
    ],
)
def test_sizes_and_execution_are_read_by_the_engines_own_arguments(
    engine: str, args: dict[str, Any], limits: tuple[int, int], execution: str
) -> None:
    made = cell(engine)
    serve = replace(made.model.serve, args=args, concurrency=64)
    job = replace(given.job(replace(made, model=replace(made.model, serve=serve))), lock=Lock())
    asked = kernels.inputs(job)
    assert (asked["limits"]["max_batch"], asked["limits"]["max_tokens"]) == limits
    assert asked["execution"] == execution


@pytest.mark.parametrize(
    ("engine", "command"),
    [
        ("vllm", "vllm serve /nfs/models/Qwen3-8B --served-model-name Qwen3-8B --max-model-len 40960"),
        ("sglang", "python -m sglang.launch_server --model-path /nfs/models/Qwen3-8B --served-model-name Qwen3-8B"),
        ("llama_cpp", f"{LLAMA_SERVER} --model /nfs/models/Qwen3-8B --alias Qwen3-8B --ctx-size 40960"),
    ],
)
def test_native_command_lines(engine: str, command: str) -> None:
    line = " ".join(engine_config.native(cell(engine), DOCKER)).replace(" --host 0.0.0.0", "")
    assert line.startswith(command)
    assert " 40960" in line, "the window, by whatever name"
    assert " --n 1" in line, "the matrix's own argument"
    assert "--port" not in line, "given at start"


@pytest.mark.parametrize("engine", ENGINES)
def test_what_an_engine_brings_is_in_the_image(engine: str) -> None:
    entry, ours = ENGINES[engine], cell(engine)
    assert set(entry.requirements) <= set(requirements.wanted(ours))
    assert (entry.argv(DOCKER.packages)[0] in build_context.programs(ours)) == bool(entry.launcher)
    assert not entry.launcher or f"packaging/payload/{entry.launcher}" in image.STAGE.programs, (
        "else an edit of it builds nothing"
    )
