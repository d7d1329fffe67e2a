"""What serves a model is described in one place, and that is all an engine needs."""

import typing
from dataclasses import replace

import pytest

import served_cell as given
from flagrelease import buildcontext, serveconfig, wheels
from flagrelease.cell import Cell
from flagrelease.config.engines import ENGINES
from flagrelease.layout import DOCKER
from flagrelease.matrix import Engine
from flagrelease.stages import image


def cell(engine: Engine) -> Cell:
    found = given.cell("nvidia-h100/qwen3-8b")
    return replace(found, model=replace(found.model, serve=replace(found.model.serve, engine=engine, args={"n": 1})))


def test_the_matrix_takes_these_engines_and_no_other() -> None:
    assert set(ENGINES) == set(typing.get_args(Engine))


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("vllm", "vllm serve /nfs/models/Qwen3-8B --served-model-name Qwen3-8B --max-model-len 40960"),
        ("sglang", "python -m sglang.launch_server --model-path /nfs/models/Qwen3-8B --served-model-name Qwen3-8B"),
        ("llama_cpp", f"{DOCKER.llama_server} --model /nfs/models/Qwen3-8B --alias Qwen3-8B --ctx-size 40960"),
    ],
)
def test_native_command_lines(engine: Engine, words: str) -> None:
    line = " ".join(serveconfig.native(cell(engine), DOCKER)).replace(" --host 0.0.0.0", "")
    assert line.startswith(words)
    assert " 40960" in line, "the window, by whatever name"
    assert " --n 1" in line, "the matrix's own argument"
    assert "--port" not in line, "given at start"


@pytest.mark.parametrize("engine", ENGINES)
def test_what_an_engine_brings_is_in_the_image(engine: Engine) -> None:
    one, ours = ENGINES[engine], cell(engine)
    assert set(one.requirements) <= set(wheels.wanted(ours))
    assert (one.command(DOCKER)[0] in buildcontext.programs(ours)) == bool(one.launcher)
    assert not one.launcher or f"inside/{one.launcher}" in image.STAGE.programs, "else an edit of it builds nothing"
