"""A Hopper chip for tests without one: Triton compiles real kernels for it; launching them only moves its clock.

FlagGems' tuner, launch cache and database are its own, from the pinned wheel; only the package's import of a device,
which fails without a chip, is replaced (flag_gems/__init__.py beside this file).
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import signal
import subprocess
import sys
import tempfile
import types
import zipfile
from pathlib import Path
from typing import Any

WHEEL = "flag-gems==5.0.2"
CAPABILITY = 90
FAULTY = "CHIP_FAULTY_BLOCK"
"""Environment variable: the candidate, such as 64x64x64, whose launches kill the process, every time."""


def wheel_folder(cache: Path) -> Path:
    """flag_gems in the unpacked wheel. Raises OSError with pip's words where it cannot be had."""
    folder = cache / WHEEL.replace("==", "-")
    if not (folder / "flag_gems").is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(cache), WHEEL]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        wheels = list(cache.glob("flag_gems-*.whl"))
        if not wheels:
            raise OSError(f"{WHEEL} cannot be had: {done.stderr.strip()[-300:]}")
        part = Path(tempfile.mkdtemp(dir=cache))
        with zipfile.ZipFile(wheels[0]) as archive:
            archive.extractall(part)
        with contextlib.suppress(OSError):  # another test process was faster
            part.rename(folder)
    return folder / "flag_gems"


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "flagrelease-tests"


def _load(name: str, path: Path) -> types.ModuleType:
    places = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=places)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def load_models(package: Path) -> types.ModuleType:
    """flag_gems.utils.models, without the rest of the package."""
    for name in ("flag_gems", "flag_gems.utils"):
        if name not in sys.modules:
            module = types.ModuleType(name)
            module.__path__ = []
            sys.modules[name] = module
    return _load("flag_gems.utils.models", package / "utils/models/__init__.py")


def load_libentry(package: Path) -> types.ModuleType:
    """flag_gems.utils.libentry: its LibTuner, LibEntry and the database under FLAGGEMS_CACHE_DIR."""
    load_models(package)
    runtime = types.ModuleType("flag_gems.runtime")
    runtime.__path__ = []
    names = types.SimpleNamespace(get_device_name=lambda: "Stand In H100", current_device=lambda: 0)
    info = types.SimpleNamespace(vendor_name="nvidia", device_name="cuda")
    backend = types.ModuleType("flag_gems.runtime.backend")
    vars(runtime).update(device=types.SimpleNamespace(device_count=1), torch_device_fn=names)
    vars(backend).update(vendor_module=types.SimpleNamespace(vendor_info=info))
    sys.modules |= {"flag_gems.runtime": runtime, "flag_gems.runtime.backend": backend}
    vars(sys.modules["flag_gems"])["runtime"] = runtime
    _load("flag_gems.utils.code_cache", package / "utils/code_cache.py")
    return _load("flag_gems.utils.libentry", package / "utils/libentry.py")


class Chip:
    """Triton's driver for a chip that accepts every launch, computes nothing and says how long it would have taken."""

    def __init__(self) -> None:
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", CAPABILITY, 32)
        self.utils = self
        self.clock_ms = 0.0
        self.launches = 0

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return device

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448}

    def get_device_interface(self) -> Any:
        return types.SimpleNamespace(Event=Event, synchronize=lambda: None)

    def get_empty_cache_for_benchmark(self) -> None:
        return None

    def clear_cache(self, cache: None) -> None:
        return None

    def load_binary(self, *_: object) -> tuple[object, object, int, int, int]:
        return (object(), object(), 32, 0, 1024)

    def launcher_cls(self, src: Any, metadata: Any) -> Any:
        def launch(*args: Any) -> None:
            self.launches += 1
            arguments = args[9:]
            if src.name == "product_kernel":
                block = "x".join(map(str, arguments[9:12]))
                if os.environ.get(FAULTY) == block:
                    os.kill(os.getpid(), signal.SIGKILL)
                self.clock_ms += cost_ms(arguments[3], *arguments[9:12])

        return launch


def cost_ms(m: int, block_m: int, block_n: int, block_k: int) -> float:
    """Large blocks waste few loads and many rows; a long inner block is good for few rows, a bit worse for many."""
    rows = math.ceil(m / block_m) * block_m
    inner = {True: {32: 1.3, 64: 1.0}, False: {32: 1.0, 64: 1.01}}[m < 16][block_k]
    return rows * (1 + 16 / block_m) * (1 + 16 / block_n) * inner / 1000


class Event:
    """torch.cuda.Event on the stand-in's clock."""

    chip: Chip

    def __init__(self, *, enable_timing: bool = False) -> None:
        self.at_ms = 0.0

    def record(self) -> None:
        self.at_ms = self.chip.clock_ms

    def elapsed_time(self, end: Event) -> float:
        return end.at_ms - self.at_ms
