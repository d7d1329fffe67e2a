"""Several devices for one model: what the engine, the container and the card get, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import support.served_cell as given
from flagrelease.config import strict_yaml
from flagrelease.config.cell import Cell
from flagrelease.config.engines import Parallel, Ranks
from flagrelease.config.lockfile import LockedFile
from flagrelease.config.matrix import Matrix
from flagrelease.errors import ConfigError
from flagrelease.recipe import engine_config
from flagrelease.recipe.container import Placement, for_serving
from flagrelease.recipe.devices import Devices, check_devices, check_memory, limited, on_card, weight_bytes
from flagrelease.recipe.image_paths import DOCKER
from flagrelease.stages.kernels import stage as kernels

NVIDIA, METAX = "nvidia-h100/qwen3-8b", "metax/qwen3-8b"


def cell(name: str = NVIDIA, *, host_devices: int | None = 8, **serve: Any) -> Cell:
    base = given.cell(name, **serve)
    return replace(base, chip=replace(base.chip, host_devices=host_devices))


def read(serve: str) -> Matrix:
    """The repository's matrix with more in the `serve` of qwen3-8b."""
    text = (given.ROOT / "matrix.yaml").read_text()
    return strict_yaml.loads(
        text.replace("      name: qwen3\n", f"      name: qwen3\n      {serve}\n", 1).encode(), Matrix
    )


@pytest.mark.parametrize(
    ("serve", "sizes"),
    [
        ("devices: 4", (4, 1)),
        ("devices: 4\n      parallel: {tensor: 4}", (4, 1)),
        ("devices: 4\n      parallel: {pipeline: 2}", (2, 2)),
        ("devices: 3\n      parallel: {tensor: 1, pipeline: 3}", (1, 3)),
        ("port: 8000", (1, 1)),
    ],
)
def test_tensor_is_what_pipeline_leaves(serve: str, sizes: tuple[int, int]) -> None:
    assert read(serve).models["qwen3-8b"].serve.ranks == Ranks(tensor=sizes[0], pipeline=sizes[1])


@pytest.mark.parametrize(
    ("serve", "expected"),
    [
        (
            "devices: 2\n      parallel: {tensor: 4}",
            "parallel gives 4 × 1 devices (tensor × pipeline), but devices is 2",
        ),
        ("devices: 3\n      parallel: {pipeline: 2}", "parallel gives 1 × 2 devices"),
        ("parallel: {pipeline: 2}", "parallel gives 1 × 2 devices (tensor × pipeline), but devices is 1"),
        ("devices: 0", "devices: 0 is out of range"),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(serve: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(serve)
    assert f"models.qwen3-8b.serve.{expected}" in caught.value.what


def test_a_chip_whose_devices_are_assigned_leaves_their_choice_open() -> None:
    stanza = "  nvidia-h100:\n    vendor: nvidia\n"
    text = (given.ROOT / "matrix.yaml").read_text()
    text = text.replace(stanza, stanza + '    container: {gpus: "2"}\n')
    assert strict_yaml.loads(text.encode(), Matrix)
    text = text.replace(stanza, f"{stanza}    host_devices: 8\n")
    with pytest.raises(ConfigError) as caught:
        strict_yaml.loads(text.encode(), Matrix)
    assert "chips.nvidia-h100.container.gpus is '2'; with host_devices it must be `all`" in caught.value.what


@pytest.mark.parametrize(
    ("engine", "args"),
    [("vllm", {"tensor_parallel_size": 2}), ("vllm", {"pipeline-parallel-size": 2}), ("sglang", {"tp_size": 2})],
)
def test_the_engines_own_arguments_about_devices_are_refused(engine: str, args: dict[str, int]) -> None:
    """The operators would be traced for one device."""
    with pytest.raises(ValueError, match="is about devices; set"):
        replace(given.cell(NVIDIA).model.serve, engine=engine, args=args)


def test_an_engine_of_one_device_gets_no_two() -> None:
    with pytest.raises(ValueError, match=r"devices is 2, but llama\.cpp is started for one device"):
        replace(given.cell().model.serve, devices=2)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_both_stacks_of_the_engine_get_the_sizes(engine: str) -> None:
    one = cell(engine=engine, devices=4, parallel=Parallel(pipeline=2), args={})
    argv = engine_config.native(one, DOCKER)
    for name in ("--tensor-parallel-size", "--pipeline-parallel-size"):
        assert argv[argv.index(name) + 1] == "2"
    shared = engine_config.common(one, DOCKER)  # FlagScale passes names on that it does not translate
    assert (shared["tensor_parallel_size"], shared["pipeline_parallel_size"]) == (2, 2)
    alone = engine_config.common(cell(engine=engine, args={}), DOCKER)
    assert not {"tensor_parallel_size", "pipeline_parallel_size"} & alone.keys()


@pytest.mark.parametrize(
    ("name", "devices", "processes", "gpus", "variable"),
    [
        (NVIDIA, (2, 5), False, "device=2,5", None),  # numbered from 0 inside: the variable would name others
        (NVIDIA, (2, 5), True, "all", "2,5"),
        (NVIDIA, None, False, "all", None),
        (METAX, (2, 5), False, "", "2,5"),
        (METAX, None, False, "", None),
    ],
)
def test_a_container_gets_the_devices_that_its_cell_holds(
    name: str, devices: Devices | None, processes: bool, gpus: str, variable: str | None
) -> None:
    flags = limited(cell(name).chip, devices, processes=processes)
    assert (flags.gpus, flags.env.get("CUDA_VISIBLE_DEVICES")) == (gpus, variable)


def test_the_cards_line_names_the_first_devices() -> None:
    one = cell(METAX, devices=2)
    assert on_card(one.chip, 2) == (0, 1)
    assert on_card(replace(one.chip, host_devices=None), 2) is None
    run = for_serving(one.chip, one.model, "image", "/w", "flagos", Placement(), on_card(one.chip, 2))
    assert "--env=CUDA_VISIBLE_DEVICES=0,1" in run.argv()
    assert "CUDA_VISIBLE_DEVICES=0,1" in run.sdk()["environment"]


@pytest.mark.parametrize(
    ("change", "devices", "expected"),
    [
        ({"host_devices": 2}, 4, "serve.devices is 4, but a machine of chip has 2"),
        ({"vendor": "cpu"}, 2, "serve.devices is 2, but chip is the machine's processor"),
        ({"container": {"shm": "", "ipc": ""}}, 2, "chip has no shared memory for 2 devices"),
        ({"vendor": "sunrise", "container": {"gpus": ""}}, 1, "a cell on chip cannot be limited to 1 of its 8 devices"),
    ],
)
def test_devices_that_a_chip_does_not_have_are_refused(change: dict[str, Any], devices: int, expected: str) -> None:
    chip = cell().chip
    check_devices(chip, "chip", devices)
    flags = replace(chip.container, **change.pop("container", {}))
    with pytest.raises(ConfigError) as caught:
        check_devices(replace(chip, container=flags, **change), "chip", devices)
    assert caught.value.what == expected
    assert "matrix.yaml" in caught.value.hint or "chips.chip." in caught.value.hint


def test_the_whole_machine_needs_no_variable() -> None:
    chip = replace(cell().chip, vendor="sunrise", host_devices=1)
    check_devices(replace(chip, container=replace(chip.container, gpus="")), "chip", 1)


def test_operators_are_prepared_for_the_share_of_one_device() -> None:
    def parts(**serve: Any) -> Any:
        return kernels.inputs(given.job(cell(**serve)))["share"]

    assert parts(devices=2) == {"tensor": 2, "pipeline": 1, "whole_experts": False}
    assert parts(devices=2, args={"enable_expert_parallel": True})["whole_experts"]
    assert parts() == {"tensor": 1, "pipeline": 1, "whole_experts": False}


GIB = 2**30


@pytest.mark.parametrize(
    ("devices", "memory", "refused"), [(1, 80.0, True), (2, 80.0, False), (2, 60.0, True), (1, None, False)]
)
def test_weights_that_are_larger_than_the_devices_are_refused(
    devices: int, memory: float | None, refused: bool
) -> None:
    """From the listing in matrix.lock: nothing has been fetched."""
    one = cell(devices=devices, args={"gpu_memory_utilization": 0.9})
    one = replace(one, chip=replace(one.chip, device=replace(one.chip.device, memory=memory)))
    files = [LockedFile(path=f"model-{n}.safetensors", size=30 * GIB, sha256="a") for n in range(4)]
    files += [LockedFile(path=name, size=120 * GIB, sha256="a") for name in ("consolidated.safetensors", "model.bin")]
    if not refused:
        check_memory(one, files)
        return
    with pytest.raises(ConfigError, match="qwen3-8b is too large for nvidia-h100") as caught:
        check_memory(one, files)
    assert caught.value.why == (
        f"its weights have 120.0 GiB, and its devices {devices} × {memory:g} GiB, of which 90% are used"
    )
    assert f"serve.devices to {2 if memory == 80 else 3} or more" in caught.value.hint


def test_a_second_format_of_the_weights_does_not_count() -> None:
    files = [
        LockedFile(path=name, size=size, sha256="a") for name, size in (("a.bin", 5), ("b/c.gguf", 7), ("d.json", 9))
    ]
    assert weight_bytes(files) == 7
    assert weight_bytes(files[:1]) == 5
    assert weight_bytes([]) == 0
