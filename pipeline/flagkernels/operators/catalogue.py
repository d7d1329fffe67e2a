"""Read FlagGems' operator names from its source, without importing it.

Importing flag_gems initialises the chip, which the parent of the qualifying processes must not do. Tracing therefore
also works on a host that has FlagGems' wheel but no chip.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from flagkernels.errors import UsageError, did_you_mean

__all__ = ["SOURCE", "Catalogue", "load", "require_here"]

SOURCE = "FLAGKERNELS_SOURCE"
"""Environment variable: `flag_gems`, or MODULE:ATTRIBUTE naming other operators (registry.open_source)."""


@dataclass(frozen=True)
class Catalogue:
    """FlagGems' operators and the aten overloads they implement."""

    version: str
    """Of FlagGems."""
    overloads: Mapping[str, str]
    """aten registration key → operator name in FlagGems' lists: `mul.Tensor` → `mul`."""

    @property
    def operators(self) -> frozenset[str]:
        return frozenset(self.overloads.values())

    def operator(self, overload: str) -> str | None:
        return self.overloads.get(overload)

    def of(self, operator: str) -> tuple[str, ...]:
        """Registration keys of an operator."""
        return tuple(key for key, name in self.overloads.items() if name == operator)

    def require(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the names if all are known. Raises UsageError, with similar names, for an unknown one."""
        wanted = tuple(names)
        for name in wanted:
            if name not in self.operators:
                hint = did_you_mean(name, self.operators) or f"FlagGems {self.version} has {len(self.operators)} others"
                raise UsageError(f"FlagGems {self.version} has no operator {name!r}", hint=hint)
        return wanted


def load(source: Path | None = None) -> Catalogue:
    """Read a wheel, a source folder, or (None) the installed flag_gems. Raises UsageError if that fails."""
    if source is None:
        spec = importlib.util.find_spec("flag_gems")
        if spec is None or spec.origin is None:
            raise UsageError(
                "flag_gems is not installed", hint="name its wheel or source folder: --catalogue flag_gems-….whl"
            )
        source = Path(spec.origin).parent
    try:
        text = _text_of(source, "__init__.py")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        hint = "name FlagGems' wheel or source folder"
        raise UsageError(f"no flag_gems/__init__.py in {source}", why=str(error), hint=hint) from error
    found = parse(text)
    if found.version == "unknown":
        with suppress(OSError, KeyError):  # written when the package is built; a source folder has none
            text = _text_of(source, "_version.py")
            stated = re.search(r"^(?:__version__ = )?version = ['\"](.+)['\"]", text, re.MULTILINE)
            found = replace(found, version=stated[1] if stated else "unknown")
    return found


def require_here(names: Iterable[str]) -> None:
    """Raises UsageError, with similar names, for an operator that the installed FlagGems does not have. Other sources
    (FLAGKERNELS_SOURCE) are not checked: only a process that may use the chip can open them."""
    if os.environ.get(SOURCE, "flag_gems") == "flag_gems":
        load().require(names)


def _text_of(source: Path, name: str) -> str:
    if source.suffix == ".whl":
        with zipfile.ZipFile(source) as wheel:
            return wheel.read(f"flag_gems/{name}").decode()
    for path in (source / name, source / "flag_gems" / name, source / "src/flag_gems" / name):
        if path.exists():
            return path.read_text(encoding="utf-8")
    raise FileNotFoundError(source / name)


def parse(text: str) -> Catalogue:
    """Read the operator list and `__version__` from the source of flag_gems/__init__.py, without running it.

    Since 4.2.1 the list is `_FULL_CONFIG`; before, in 3.0 and 4.2.0, it is the first argument of the registrar that
    `enable` calls. Since 5.3.1 the version is not written there. Raises UsageError if there is no operator list."""
    version, overloads = "unknown", dict[str, str]()
    for node in ast.parse(text).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__version__")], value=ast.Constant(value=str(stated))):
                version = stated
            case ast.Assign(targets=[ast.Name(id="_FULL_CONFIG")], value=ast.Tuple() | ast.List() as listed):
                overloads = dict(_entries(listed))
            case ast.FunctionDef(name="enable") if not overloads:
                overloads = dict(_registered(node))
    if not overloads:
        raise UsageError(
            "no operator list in flag_gems/__init__.py",
            hint="this layout of FlagGems is not known; 3.0, 4.2, 5.0 and 5.3 are",
        )
    return Catalogue(version, MappingProxyType(overloads))


def _registered(enable: ast.FunctionDef) -> Iterator[tuple[str, str]]:
    """The entries of the list that `enable` passes to its registrar."""
    for node in ast.walk(enable):
        match node:
            case ast.Call(func=ast.Name(id="registrar"), args=[ast.Tuple() | ast.List() as listed, *_]):
                yield from _entries(listed)


def _entries(listed: ast.Tuple | ast.List) -> Iterator[tuple[str, str]]:
    """Registration key and operator name of each entry."""
    for entry in listed.elts:
        match entry:
            case ast.Tuple(elts=[ast.Constant(value=str(key)), ast.Name(id=operator), *_]):
                yield key, operator
