"""The list of operators that replace the vendor's (operators.yaml)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from flagkernels.errors import UsageError

__all__ = ["Operators", "read_operators"]


@dataclass(frozen=True, kw_only=True)
class Operators:
    """A choice of operators, and the shape classes at which the vendor's kernels stay."""

    include: tuple[str, ...]
    """In FlagGems' list format, so that `flag_gems.only_enable(include="operators.yaml")` reads it too."""
    policy: str = "coverage"
    """coverage or express."""
    native: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Operator → shape classes (calls.shape_class) that stay with the vendor's kernel."""
    static: tuple[int, ...] = ()
    """Sizes that the model fixes, which shape classes do not round."""
    execution: str = "eager"
    """How the engine runs the model; one of inductor.EXECUTIONS."""

    def only(self, names: Collection[str]) -> Operators:
        """The same choice restricted to these operators."""
        kept = tuple(name for name in self.include if name in names)
        native = {name: classes for name, classes in self.native.items() if name in kept}
        return replace(self, include=kept, native=native)

    def to_yaml(self) -> str:
        value = {
            "format": 1,
            "policy": self.policy,
            "execution": self.execution,
            "include": list(self.include),
            "native": {name: list(classes) for name, classes in self.native.items()},
            "static": list(self.static),
        }
        return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)


def read_operators(path: Path) -> Operators:
    """Read operators.yaml. Raises UsageError if it is not an operator list."""
    try:
        value = yaml.safe_load(path.read_text())
        if not isinstance(value, dict) or not isinstance(value.get("include"), list):
            raise ValueError("it has no list `include:`")
        native = value.get("native") or {}
        return Operators(
            include=tuple(str(name) for name in value["include"]),
            policy=str(value.get("policy", "coverage")),
            native={str(name): tuple(map(str, classes)) for name, classes in native.items()},
            static=tuple(int(size) for size in value.get("static") or ()),
            execution=str(value.get("execution", "eager")),
        )
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise UsageError(
            f"{path} is not an operator list", why=str(error), hint="write it with `python -m flagkernels select`"
        ) from error
