"""The chip is proven with the vendor's tool: here a program on PATH that prints what vendors' tools print."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import support.served_cell as given
from flagrelease.errors import EnvironmentFault
from flagrelease.recipe.device_check import Found
from flagrelease.serving import chip_proof

SAMPLES = given.ROOT / "pipeline/flagrelease/rehearsal/recorded"
Tool = Callable[[str, str], chip_proof.Execute]


@pytest.fixture
def tool(tmp_path: Path) -> Tool:
    """A program `name` on PATH, that is run as in a container."""

    def made(name: str, script: str) -> chip_proof.Execute:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

        def execute(argv: Sequence[str], *, seconds: float) -> tuple[int, str]:
            done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=seconds, check=False)
            return done.returncode, done.stdout + done.stderr

        return execute

    return made


def prove(cell: str, execute: chip_proof.Execute, notes: list[str] | None = None, **device: Any) -> Found | None:
    one = given.cell(cell)
    one = replace(one, chip=replace(one.chip, device=replace(one.chip.device, **device)))
    return chip_proof.prove(given.job(one), execute, (notes if notes is not None else []).append)


def printing(sample: str) -> str:
    return f"cat {SAMPLES}/{sample}.txt"


def refused(cell: str, execute: chip_proof.Execute, **device: Any) -> EnvironmentFault:
    with pytest.raises(EnvironmentFault) as caught:
        prove(cell, execute, **device)
    assert caught.value.exit_code == 6
    assert caught.value.hint
    return caught.value


def test_the_chip_of_the_matrix_is_proven(tool: Tool) -> None:
    found = prove("nvidia-h200/qwen3-8b", tool("nvidia-smi", printing("nvidia-h200")))
    assert found == Found(names=("NVIDIA H200",), memory=143771 / 1024, driver="580.159.04")


def test_another_chip_is_refused_and_its_cell_is_named(tool: Tool) -> None:
    """A tune for an H100 once ran to its end on an H200."""
    error = refused("nvidia-h100/qwen3-8b", tool("nvidia-smi", printing("nvidia-h200")))
    assert error.what == "this machine is not one for nvidia-h100/qwen3-8b"
    assert error.why == "the device here is NVIDIA H200, the release is for NVIDIA H100 (NVIDIA H100)"
    assert error.hint == "this is a machine for the chip nvidia-h200: choose its cell, nvidia-h200/qwen3-8b"


def test_a_chip_that_the_matrix_does_not_have_has_no_cell(tool: Tool) -> None:
    error = refused("metax/qwen3-8b", tool("mx-smi", printing("metax-sgpu")))
    assert error.why.startswith("the device here is MetaX C500, the release is for MetaX C550")
    assert error.hint == "run it on a machine with MetaX C550; chips.metax.device in matrix.yaml says what fits"


def test_a_model_that_needs_several_devices_is_not_started_on_one(tool: Tool) -> None:
    one = given.cell("nvidia-h100/smollm2-135m")
    two = replace(one, model=replace(one.model, serve=replace(one.model.serve, devices=2)))
    script = printing("nvidia-h100")
    assert chip_proof.prove(given.job(one), tool("nvidia-smi", script), [].append) is not None
    with pytest.raises(EnvironmentFault) as caught:
        chip_proof.prove(given.job(two), tool("nvidia-smi", script), [].append)
    assert "1 × NVIDIA H100 here, the release needs 2" in caught.value.why


def test_a_driver_and_a_memory_out_of_range_are_refused_together(tool: Tool) -> None:
    error = refused("metax/qwen3-8b", tool("mx-smi", printing("metax")), memory=80)
    assert error.why.split("; ") == [
        "a device here has 64.0 GiB of memory, the release needs 80 GiB",
        "the driver here is 2.15.9, the release needs >=3.8.30",
    ]


@pytest.mark.parametrize(
    ("script", "what", "why"),
    [
        ("echo no such thing", "reports no device of metax", "it printed 'no such thing'"),
        ("true", "reports no device of metax", "it printed nothing"),
        ("echo broken >&2; exit 9", "`mx-smi` in the container ended with 9", "it printed 'broken'"),
        (
            "exec head -c 200000 /dev/zero | tr '\\0' x",
            "`mx-smi` in the container prints without end",
            "its first 64 KiB",
        ),
        ("yes", "`mx-smi` in the container prints without end", "its first 64 KiB are 'y y y"),
    ],
)
def test_a_tool_that_prints_something_else_is_named(tool: Tool, script: str, what: str, why: str) -> None:
    error = refused("metax/qwen3-8b", tool("mx-smi", script))
    assert what in error.what
    assert why in error.why
    assert len(error.why) < 500


def test_a_tool_that_hangs_is_stopped_and_named(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chip_proof, "QUERY_SECONDS", 1.0)
    error = refused("metax/qwen3-8b", tool("mx-smi", "trap '' TERM; while :; do sleep 0.1; done"))
    assert error.what == "`mx-smi` in the container did not end within 1 s and was stopped"


def test_a_missing_tool_is_named_with_what_to_mount(tool: Tool) -> None:
    error = refused("metax/qwen3-8b", tool("other", "true"))
    assert error.what == "`mx-smi` is not in the container"
    assert "container.mounts" in error.hint


def test_a_fact_that_the_tool_does_not_report_is_noted(tool: Tool) -> None:
    notes: list[str] = []
    assert prove("sunrise/qwen3-8b", tool("pt_smi", printing("sunrise")), notes, driver=">=0.24") is not None
    assert notes == ["driver of sunrise is not proven: `pt_smi` does not report it"]


def test_the_hosts_processor_is_not_compared() -> None:
    def execute(_argv: Sequence[str], *, seconds: float) -> tuple[int, str]:
        raise AssertionError(f"nothing is asked, for {seconds} s")

    assert prove("cpu/smollm2-135m", execute) is None
