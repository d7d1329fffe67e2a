"""`docker run IMAGE doctor`: the files of the image, run where its container would be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import support.served_cell as given
from flagrelease.config.lockfile import Lock, LockedModel
from flagrelease.packaging.wheelhouse import Wheelhouse
from flagrelease.stages.image import build_context

SAMPLES = given.ROOT / "pipeline/flagrelease/rehearsal/recorded"
WEIGHTS = LockedModel(source="s", revision="r", files=(), digest="sha256:" + "2" * 64)


def doctor(tmp_path: Path, cell: str, tool: str = "", script: str = "") -> tuple[int, list[str]]:
    """The exit code and the lines of `doctor` in the image of `cell`, on a machine whose `tool` is `script`."""
    one = given.cell(cell)
    job = given.replace(given.job(one), lock=Lock(models={one.model_name: WEIGHTS}))
    plan = build_context.draw(job, Wheelhouse(folder=tmp_path, wheels=()), "base:tag", "sha256:base")
    root = tmp_path / "image"
    for path, (data, mode) in plan.files.items():
        if path.startswith(("programs/", "config/")):
            place = root / path.replace("config/", "etc/flagos/", 1).replace("programs/", "", 1)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
            place.chmod(mode)
    if tool:
        (tmp_path / tool).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / tool).chmod(0o755)
    argv = [sys.executable, f"{root}/opt/flagos/bin/flagos-serve", "doctor"]
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=60, check=False)
    assert not done.stderr
    return done.returncode, done.stdout.splitlines()


def test_a_machine_that_fits(tmp_path: Path) -> None:
    code, lines = doctor(tmp_path, "nvidia-h200/qwen3-8b", "nvidia-smi", f"cat {SAMPLES}/nvidia-h200.txt")
    assert code == 0
    assert lines == [
        "needed   NVIDIA H200, at least 140 GiB, driver >=525.60.13",
        "found    NVIDIA H200, 140.4 GiB, driver 580.159.04",
    ]


def test_a_machine_that_does_not_has_the_reasons(tmp_path: Path) -> None:
    code, lines = doctor(tmp_path, "metax/qwen3-8b", "mx-smi", f"cat {SAMPLES}/metax.txt")
    assert code == 6
    assert lines[1:] == [
        "found    2 × MetaX C550, 64.0 GiB each, driver 2.15.9",
        "refused  the driver here is 2.15.9, the release needs >=3.8.30",
    ]
    code, lines = doctor(tmp_path, "nvidia-h100/qwen3-8b", "nvidia-smi", f"cat {SAMPLES}/nvidia-h200.txt")
    assert code == 6
    assert lines[-1] == "refused  the device here is NVIDIA H200, the release is for NVIDIA H100 (NVIDIA H100)"


@pytest.mark.parametrize(
    ("tool", "script", "said"),
    [
        ("mx-smi", "echo no driver; exit 3", "refused  `mx-smi` ended with 3: no driver"),
        ("mx-smi", "yes", "refused  `mx-smi` prints without end: y y y"),
        ("mx-smi", "echo nothing of the kind", "refused  no device was found"),
        ("other", "true", "refused  `mx-smi` is not in the container"),
    ],
)
def test_a_tool_that_does_not_answer_is_a_reason(tmp_path: Path, tool: str, script: str, said: str) -> None:
    code, lines = doctor(tmp_path, "metax/qwen3-8b", tool, script)
    assert code == 6
    assert lines[-1].startswith(said)
    assert len(lines[-1]) < 400


def test_a_processor_is_only_shown(tmp_path: Path) -> None:
    code, lines = doctor(tmp_path, "cpu/smollm2-135m")
    assert code == 0
    (line,) = lines
    assert line.startswith(f"found    {os.uname().machine}, {os.cpu_count()} cores, ")
