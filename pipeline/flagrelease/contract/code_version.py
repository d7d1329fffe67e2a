"""Which code a stage's result depends on: the definitions that it reaches, and the programs and templates it names."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from flagrelease.contract.definitions import Analysis
from flagrelease.contract.reach import Cache, Code

PACKAGE = Path(__file__).parents[1]

# What carries results from stage to stage, shows them or keeps them makes no result, and a defect in it fails loudly:
# it is not part of any key. A name stands for a room, or for a module and everything below it; "" is the package
# itself, which has its version alone. Of the ports, those are left out that hand over what a program or server said.
_CARRIERS = frozenset(
    {"", "errors", "redact", "store", "config", "contract", "run", "cli"}
    | {f"ports.{name}" for name in ("clock", "command", "credentials", "docker", "evalscope_program", "meter")}
    | {f"ports.{name}" for name in ("progress", "registry", "container_runner")}
)
_OWN, _CHIP = "flagrelease", "flagkernels"


def counts(module: str) -> bool:
    """Whether a module, by its dotted path, can make a result. All of flagkernels does."""
    package, _, name = module.partition(".")
    if package != _OWN:
        return True
    return not any(name == one or (one and name.startswith(f"{one}.")) for one in _CARRIERS)


@dataclass(frozen=True, kw_only=True)
class StageCode:
    """The code of a stage."""

    digest: str
    """sha256 (hex) of the definitions, which stays as it is where they are moved or a file is renamed."""
    modules: Mapping[str, str]
    """What is reached of each module, by its name without the package's."""


@cache
def code() -> Code:
    """This program's own packages, as their files are when they are first asked for."""
    return Code(PACKAGE.parent, (_OWN, _CHIP), counts, Cache(_cache("definitions"), Analysis))


def of_stage(run: Callable[..., Any], programs: Sequence[str] = ()) -> StageCode:
    """The code behind the STAGE of the module that `run` stands in, and all of `programs` (files by their path from the
    package)."""
    module = getattr(run, "__module__", "")
    paths = {name: PACKAGE / name for name in programs}
    files = [path for path in paths.values() if path.suffix == ".py"]
    outside = [file.read_bytes() for file in files if not file.resolve().is_relative_to(PACKAGE.parent)]
    data = {name: of_template(path) for name, path in paths.items() if path.suffix != ".py"}
    given = [_state(), module, *programs, *data.values(), *(hashlib.sha256(source).hexdigest() for source in outside)]

    def compute() -> StageCode:
        starts = [*code().definition(module, "STAGE"), *(one for file in files for one in code().file(file))]
        reached = code().reached(starts)
        modules = {name.removeprefix(f"{_OWN}."): digest for name, digest in reached.modules.items()}
        digest = (
            hashlib.sha256("\n".join([reached.digest, *data.values()]).encode()).hexdigest() if data else reached.digest
        )
        return StageCode(digest=digest, modules={**modules, **data})

    found = _stages().get(hashlib.sha256("\n".join(given).encode()).hexdigest(), compute)
    _stages().save()
    return found


def of_module(name: str) -> str:
    """sha256 (hex) of the definitions of a module of this package: its `__name__`."""
    return code().itself(name)


def of_template(path: Path) -> str:
    """sha256 (hex) of a template."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def _state() -> str:
    return code().state


@cache
def _stages() -> Cache[StageCode]:
    return Cache(_cache("stages"), StageCode)


def _cache(name: str) -> tuple[Path, ...]:
    """Beside the compiled modules, whose life it shares: what is analysed is the installed code, which all workspaces
    have in common and keys see without one. Where that cannot be written, the user's cache."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / _OWN
    folders = (user,) if sys.dont_write_bytecode else (PACKAGE / "__pycache__", user)
    return tuple(folder / f"{name}.json" for folder in folders)
