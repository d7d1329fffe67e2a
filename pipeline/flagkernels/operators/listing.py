"""The list of operators that replace the vendor's, as operators.yaml holds it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from flagkernels.errors import UsageError

__all__ = ["Operators", "read_operators"]


@dataclass(frozen=True, kw_only=True)
class Operators:
    """`include` is FlagGems' own list form, so that `flag_gems.only_enable(include="operators.yaml")` reads it too.

    `native`: shape classes (calls.shape_class) of an operator at which the vendor's kernel stays; `static`: the sizes
    that the model fixes, which shape classes do not round; `execution`: how the engine runs the model for which they
    were chosen, one of inductor.EXECUTIONS."""

    include: tuple[str, ...]
    policy: str = "coverage"
    native: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    static: tuple[int, ...] = ()
    execution: str = "eager"

    def only(self, names: Collection[str]) -> Operators:
        """The same choice, of these operators alone."""
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
    """Raises UsageError for a file that is not an operator list."""
    try:
        value = yaml.safe_load(path.read_text())
        if not isinstance(value, dict) or not isinstance(value.get("include"), list):
            raise ValueError("it has no list `include:`")
        native = value.get("native") or {}
        return Operators(
            include=tuple(str(name) for name in value["include"]),
            policy=str(value.get("policy", "coverage")),
            native={str(name): tuple(str(one) for one in classes) for name, classes in native.items()},
            static=tuple(int(size) for size in value.get("static") or ()),
            execution=str(value.get("execution", "eager")),
        )
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise UsageError(
            f"{path} is not an operator list", why=str(error), hint="write it with `python -m flagkernels select`"
        ) from error
