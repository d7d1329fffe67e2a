"""FlagGems' operator names, read from its source without importing it.

Importing flag_gems touches the chip, which the parent of all qualifying processes must not do. Tracing therefore also
works on a host that has the wheel and no chip.
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
"""Environment variable: `flag_gems`, or MODULE:ATTRIBUTE with a vendor's own operators (operators.open_source)."""


@dataclass(frozen=True)
class Catalogue:
    """`overloads` maps an aten registration key to the operator that a FlagGems list names: `mul.Tensor` → `mul`."""

    version: str
    overloads: Mapping[str, str]

    @property
    def operators(self) -> frozenset[str]:
        return frozenset(self.overloads.values())

    def operator(self, overload: str) -> str | None:
        return self.overloads.get(overload)

    def of(self, operator: str) -> tuple[str, ...]:
        return tuple(key for key, name in self.overloads.items() if name == operator)

    def require(self, names: Iterable[str]) -> tuple[str, ...]:
        """The names, each known. Raises UsageError with the nearest names where one is not."""
        wanted = tuple(names)
        for name in wanted:
            if name not in self.operators:
                hint = did_you_mean(name, self.operators) or f"FlagGems {self.version} has {len(self.operators)} others"
                raise UsageError(f"FlagGems {self.version} has no operator {name!r}", hint=hint)
        return wanted


def load(source: Path | None = None) -> Catalogue:
    """From a wheel, a source folder, or (None) the installed flag_gems. Raises UsageError where none can be read."""
    if source is None:
        spec = importlib.util.find_spec("flag_gems")
        if spec is None or spec.origin is None:
            raise UsageError(
                "flag_gems is not installed here", hint="name its wheel or source folder: --catalogue flag_gems-….whl"
            )
        source = Path(spec.origin).parent
    try:
        text = _init_of(source)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(f"{source} holds no flag_gems/__init__.py", why=str(error), hint="name a wheel") from error
    return parse(text)


def require_here(names: Iterable[str]) -> None:
    """Raises UsageError, with the nearest names, for an operator that the installed FlagGems does not have. A vendor's
    own operators are not looked at: only a process that may touch the chip can open them."""
    if os.environ.get(SOURCE, "flag_gems") == "flag_gems":
        load().require(names)


def _init_of(source: Path) -> str:
    if source.suffix == ".whl":
        with zipfile.ZipFile(source) as wheel:
            return wheel.read("flag_gems/__init__.py").decode()
    for place in (source / "__init__.py", source / "flag_gems/__init__.py", source / "src/flag_gems/__init__.py"):
        if place.exists():
            return place.read_text(encoding="utf-8")
    raise FileNotFoundError(source / "__init__.py")


def parse(text: str) -> Catalogue:
    """Reads `_FULL_CONFIG` and `__version__` from the source of flag_gems/__init__.py, without running it."""
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
        raise UsageError("no operator list in flag_gems/__init__.py", hint="this FlagGems is not supported: 5.0.2 is")
    return Catalogue(version, MappingProxyType(overloads))
