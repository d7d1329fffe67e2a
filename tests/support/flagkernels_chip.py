"""Runs flagkernels' command line on the stand-in chip (chip_site), in processes of their own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SITE = Path(__file__).with_name("chip_site")


def require_stand_in() -> None:
    """Skips, with the reason, where the stand-in chip cannot be had."""
    for name in ("torch", "triton", "sqlalchemy", "transformers"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: the stand-in chip compiles real kernels with it")
    sys.path.insert(0, str(SITE))
    try:
        import chip_stand_in

        chip_stand_in.wheel_folder(chip_stand_in.cache_folder())
    except OSError as error:
        pytest.skip(str(error))
    finally:
        sys.path.remove(str(SITE))


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FLAG", "TRITON", "CHIP_"))}
    return {**kept, "PYTHONPATH": f"{ROOT / 'pipeline'}{os.pathsep}{SITE}", **more}


def flagkernels(*words: object, **more: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "flagkernels", *map(str, words)]
    return subprocess.run(argv, env=environment(**more), capture_output=True, text=True, timeout=240, check=False)


def python(code: str, *words: object, **more: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(argv, env=environment(**more), capture_output=True, text=True, timeout=240, check=False)


def write_trace(
    path: Path,
    rows: Sequence[int] = (1, 7, 32, 64, 128),
    size: int = 64,
    once: Sequence[int] = (),
    into: Sequence[int] = (),
) -> Path:
    """Products of `rows` × size × size, those of `into` rows into given memory, and one negation."""

    def tensor(*shape: int) -> dict[str, Any]:
        stride = [shape[1], 1] if len(shape) == 2 else [1]
        return {"tensor": {"shape": list(shape), "stride": stride, "dtype": "bfloat16"}}

    calls = [{"operator": "mm", "overload": "mm", "args": [tensor(m, size), tensor(size, size)]} for m in rows]
    calls += [{"operator": "once", "overload": "inner", "args": [tensor(m, size), tensor(size, size)]} for m in once]
    calls += [
        {
            "operator": "mm_out",
            "overload": "mm.out",
            "args": [tensor(m, size), tensor(size, size)],
            "kwargs": {"out": tensor(m, size)},
        }
        for m in into
    ]
    calls.append({"operator": "neg", "overload": "neg", "args": [tensor(300)]})
    trace = {
        "format": 2,
        "model": "stand-in",
        "config_sha256": "",
        "view": "engine",
        "execution": "captured",
        "dtype": "bfloat16",
        "layers": 1,
        "device": "meta",
        "versions": {},
        "points": [],
        "static": [],
        "calls": [{**call, "counts": []} for call in calls],
        "native_only": {},
    }
    path.write_text(json.dumps(trace))
    return path
