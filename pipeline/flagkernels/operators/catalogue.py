"""Read FlagGems' operator names from its source, without importing it.

Importing flag_gems initialises the chip, which the parent of the qualifying processes must not do. Tracing therefore
also works on a host that has FlagGems' wheel but no chip.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
        text = _init_of(source)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        hint = "name FlagGems' wheel or source folder"
        raise UsageError(f"no flag_gems/__init__.py in {source}", why=str(error), hint=hint) from error
    return parse(text)


def require_here(names: Iterable[str]) -> None:
    """Raises UsageError, with similar names, for an operator that the installed FlagGems does not have. Other sources
    (FLAGKERNELS_SOURCE) are not checked: only a process that may use the chip can open them."""
    if os.environ.get(SOURCE, "flag_gems") == "flag_gems":
        load().require(names)


def _init_of(source: Path) -> str:
    if source.suffix == ".whl":
        with zipfile.ZipFile(source) as wheel:
            return wheel.read("flag_gems/__init__.py").decode()
    for path in (source / "__init__.py", source / "flag_gems/__init__.py", source / "src/flag_gems/__init__.py"):
        if path.exists():
            return path.read_text(encoding="utf-8")
    raise FileNotFoundError(source / "__init__.py")


def parse(text: str) -> Catalogue:
    """Read `_FULL_CONFIG` and `__version__` from the source of flag_gems/__init__.py, without running it.

    Raises UsageError if it has no operator list."""
    version, overloads = "unknown", {}
    for node in ast.parse(text).body:
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
            continue
        name = node.targets[0].id
        if name == "__version__" and isinstance(node.value, ast.Constant):
            version = str(node.value.value)
        if name == "_FULL_CONFIG" and isinstance(node.value, ast.Tuple | ast.List):
            for entry in node.value.elts:
                match entry:
                    case ast.Tuple(elts=[ast.Constant(value=str(key)), ast.Name(id=operator), *_]):
                        overloads[key] = operator
    if not overloads:
        raise UsageError("no operator list in flag_gems/__init__.py", hint="this FlagGems is not supported; use 5.0.2")
    return Catalogue(version, MappingProxyType(overloads))
