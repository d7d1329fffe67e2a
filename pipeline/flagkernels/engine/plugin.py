"""Activate flagkernels in engines: vLLM's general plugin, and `python -m flagkernels run -- ENGINE …` for others.

vLLM loads its general plugins in every process that it starts. For other engines `run` puts a folder with a
sitecustomize.py on PYTHONPATH, which children inherit; it does nothing until torch is imported.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from flagkernels.arguments import add_option
from flagkernels.bundle.overlay import prepare
from flagkernels.engine import activate as activation
from flagkernels.engine.launch import CALLS, become, engine_of
from flagkernels.engine.process_file import files_of
from flagkernels.errors import KernelsError, UsageError
from flagkernels.operators.catalogue import SOURCE

__all__ = ["add_arguments", "main", "on_torch", "register"]

_activating = False


def register() -> None:
    """Entry point `vllm.general_plugins`: activate the bundle when this process first uses the chip."""
    if os.environ.get(CALLS):
        _when_chip_is_used(_record)
    elif activation.find_bundle() is not None:
        _after_import("flag_gems", _activate)
        _when_chip_is_used(_activate)


def on_torch() -> None:
    """Called at interpreter start under `run` and `record`: wait for torch, then for the chip."""
    if not os.environ.get(CALLS):
        _after_import("flag_gems", _activate)
    if "torch" in sys.modules:
        register()
    else:
        _after_import("torch", register)


def _when_chip_is_used(action: Callable[[], None]) -> None:
    """Run `action` when torch.cuda initialises, or at once if it makes no difference.

    Importing flag_gems opens a device context, and a process that has one can no longer fork workers."""
    import torch

    if os.environ.get(SOURCE, "flag_gems") != "flag_gems" or torch.version.cuda is None:
        action()
    else:
        # Runs at once if the chip is already in use.
        torch.cuda._lazy_call(action)  # type: ignore[no-untyped-call]


def _record() -> None:
    from flagkernels.engine import record

    record.start()


def _activate() -> None:
    """Activate once, and never while flag_gems is being imported: its import uses the chip and so re-enters here."""
    global _activating
    gems = sys.modules.get("flag_gems")
    if _activating or getattr(getattr(gems, "__spec__", None), "_initializing", False):
        return
    _activating = True
    try:
        activation.activate()
    except KernelsError as error:
        # An engine must not serve without its release's operators: SystemExit is not caught by `except Exception`.
        sys.stderr.write(f"flagkernels: {error}\n")
        raise SystemExit(error.exit_code) from error
    finally:
        _activating = False


def _after_import(name: str, action: Callable[[], None]) -> None:
    if name not in sys.modules and not any(isinstance(f, _Finder) and f.name == name for f in sys.meta_path):
        sys.meta_path.insert(0, _Finder(name, action))


class _Finder(importlib.abc.MetaPathFinder):
    """Runs `action` after a module has been executed, which find_spec alone does not imply."""

    def __init__(self, name: str, action: Callable[[], None]) -> None:
        self.name = name
        self.action = action
        self.asking = False

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None,  # noqa: ARG002 -- the import system's signature
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self.name or self.asking:
            return None
        self.asking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.asking = False
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            execute(module)
            # Python marks a module as being imported until its loader returns; here its execution has finished.
            if module.__spec__ is not None:
                module.__spec__._initializing = False  # type: ignore[attr-defined]
            self.action()

        loader.exec_module = exec_module
        return spec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_option(parser, "--bundle", help="default: FLAGKERNELS_BUNDLE, else /etc/flagos/kernels")
    parser.add_argument("--effective", type=Path, help="folder for the status files, one per process")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- ENGINE …", help="the engine and its arguments")


def main(args: argparse.Namespace) -> int:
    """Replace this process with the engine, which then receives signals and sets the exit code."""
    engine = engine_of(args.command)
    path = args.bundle or activation.find_bundle()
    if path is None:
        raise UsageError("no bundle found", hint="name it with --bundle, or run the engine without flagkernels")
    bundle = activation.check(path)
    # Set the caches before the engine runs any code, in case something else imports flag_gems.
    environment = {**prepare(bundle).environment, activation.BUNDLE: str(path.resolve())}
    if args.effective:
        environment[activation.EFFECTIVE] = str(args.effective.resolve())
        for stale in files_of(args.effective):  # from an earlier engine
            stale.unlink(missing_ok=True)
    return become(engine, environment)
