"""Digest the code that a stage's result depends on: the definitions it reaches, its programs and its templates."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from flagrelease.contract.definitions import Analysis
from flagrelease.contract.reach import Cache, Code
from flagrelease.store.digests import file_sha256, sha256_of

PACKAGE = Path(__file__).parents[1]

# Code that passes results between stages, shows them or stores them does not produce results, and its defects are
# loud: it is not part of any key. A name is a package, or a module with everything below it; "" is flagrelease itself,
# which contains only its version. The ports listed here only relay the output of a program or server.
_CARRIERS = frozenset(
    {"", "errors", "redact", "store", "config", "contract", "run", "cli"}
    | {f"ports.{name}" for name in ("clock", "command", "credentials", "docker", "evalscope_program", "meter")}
    | {f"ports.{name}" for name in ("progress", "registry", "container_runner")}
)
_OWN, _CHIP = "flagrelease", "flagkernels"


def counts(module: str) -> bool:
    """Whether the module with this dotted path is part of keys. All of flagkernels is."""
    package, _, name = module.partition(".")
    if package != _OWN:
        return True
    return not any(name == carrier or (carrier and name.startswith(f"{carrier}.")) for carrier in _CARRIERS)


@dataclass(frozen=True, kw_only=True)
class StageCode:
    """The code of a stage."""

    digest: str
    """sha256 (hex) of the definitions; independent of the files they are in."""
    modules: Mapping[str, str]
    """The digest of the reached definitions by module (without `flagrelease.`), and the sha256 of data by path."""


@cache
def code() -> Code:
    """The code of flagrelease and flagkernels, read once in a process."""
    return Code(PACKAGE.parent, (_OWN, _CHIP), counts, Cache(_cache("definitions"), Analysis))


def of_stage(run: Callable[..., Any], programs: Sequence[str] = ()) -> StageCode:
    """The code reached from STAGE in the module of `run`, and all of `programs` (paths relative to the package)."""
    module = getattr(run, "__module__", "")
    paths = {name: PACKAGE / name for name in programs}
    files = [path for path in paths.values() if path.suffix == ".py"]
    outside = [file.read_bytes() for file in files if not file.resolve().is_relative_to(PACKAGE.parent)]
    data = {name: file_sha256(path) for name, path in paths.items() if path.suffix != ".py"}
    given = [_state(), module, *programs, *data.values(), *(sha256_of(source) for source in outside)]

    def compute() -> StageCode:
        starts = [*code().definition(module, "STAGE"), *(start for file in files for start in code().file(file))]
        reached = code().reached(starts)
        modules = {name.removeprefix(f"{_OWN}."): digest for name, digest in reached.modules.items()}
        digest = sha256_of("\n".join([reached.digest, *data.values()]).encode()) if data else reached.digest
        return StageCode(digest=digest, modules={**modules, **data})

    stage_code = _stages().get(sha256_of("\n".join(given).encode()), compute)
    _stages().save()
    return stage_code


def of_module(name: str) -> str:
    """sha256 (hex) of the definitions of the module with this `__name__`."""
    return code().itself(name)


def of_function(function: Callable[..., Any]) -> str:
    """sha256 (hex) of the definitions that a function of flagrelease reaches. That of a callable without a module and a
    name, such as a partial function, is empty."""
    module, name = getattr(function, "__module__", ""), getattr(function, "__name__", "")
    if not module.startswith(f"{_OWN}."):
        return ""
    return code().reached(code().definition(module, name)).digest


def of_template(path: Path) -> str:
    """sha256 (hex) of a template."""
    state = path.stat()
    return _unchanged(path, (state.st_mtime_ns, state.st_size, state.st_ino))


@lru_cache(maxsize=64)
def _unchanged(path: Path, _state: tuple[int, int, int]) -> str:
    """The sha256 (hex) of a file that is still the same one: every cell of a matrix asks for its templates."""
    return file_sha256(path)


@cache
def _state() -> str:
    return code().state


@cache
def _stages() -> Cache[StageCode]:
    return Cache(_cache("stages"), StageCode)


def _cache(name: str) -> tuple[Path, ...]:
    """Next to the compiled modules, since it describes the installed code, which is the same for all workspaces; the
    user's cache folder where that is not writable."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / _OWN
    folders = (user,) if sys.dont_write_bytecode else (PACKAGE / "__pycache__", user)
    return tuple(folder / f"{name}.json" for folder in folders)
