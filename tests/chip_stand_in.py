"""A Hopper chip for tests without one: Triton compiles real kernels for it, and launching them does nothing.

FlagGems' tuner, launch cache and database are its own, from the pinned wheel; only the package's import of a device,
which fails without a chip, is replaced.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

WHEEL = "flag-gems==5.0.2"
CAPABILITY = 90


def wheel_folder(cache: Path) -> Path:
    """The unpacked wheel. Raises OSError with pip's words where it cannot be had."""
    folder = cache / WHEEL.replace("==", "-")
    if not (folder / "flag_gems").is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(cache), WHEEL]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        wheels = list(cache.glob("flag_gems-*.whl"))
        if not wheels:
            raise OSError(f"{WHEEL} cannot be had: {done.stderr.strip()[-300:]}")
        with zipfile.ZipFile(wheels[0]) as archive:
            archive.extractall(folder)
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
    runtime.device = types.SimpleNamespace(device_count=1)  # type: ignore[attr-defined]
    runtime.torch_device_fn = types.SimpleNamespace(  # type: ignore[attr-defined]
        get_device_name=lambda: "Stand In H100", current_device=lambda: 0
    )
    backend = types.ModuleType("flag_gems.runtime.backend")
    info = types.SimpleNamespace(vendor_name="nvidia", device_name="cuda")
    backend.vendor_module = types.SimpleNamespace(vendor_info=info)  # type: ignore[attr-defined]
    sys.modules |= {"flag_gems.runtime": runtime, "flag_gems.runtime.backend": backend}
    sys.modules["flag_gems"].runtime = runtime  # type: ignore[attr-defined]
    _load("flag_gems.utils.code_cache", package / "utils/code_cache.py")
    return _load("flag_gems.utils.libentry", package / "utils/libentry.py")


class ChipDriver:
    """Triton's driver for a chip that accepts every launch and computes nothing."""

    def __init__(self) -> None:
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", CAPABILITY, 32)
        self.utils = self
        self.launches = 0

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return device

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448}

    def load_binary(self, *_: object) -> tuple[object, object, int, int, int]:
        return (object(), object(), 32, 0, 1024)

    def launcher_cls(self, src: object, metadata: object) -> Any:
        def launch(*_: object) -> None:
            self.launches += 1

        return launch
