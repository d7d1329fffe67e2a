"""The speed of one operator at one shape class, and the file that `bench` writes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flagkernels.errors import UsageError
from flagkernels.files import read_lines

__all__ = ["Figure", "figures_of"]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """The speed of one operator at one shape class."""

    operator: str
    shape_class: str
    call: dict[str, Any]
    """Call.to_json of the representative call."""
    counts: dict[str, int]
    """Calls of the class at each point."""
    native: float
    """Seconds per call of the native kernel, median."""
    candidate: float
    """Seconds per call of the operator, median."""
    ratio: float
    """Native over operator, median of the pairs."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    bytes: int
    """Minimum bytes read and written by the call."""
    operations: int
    """Floating-point operations of its matrix products."""
    floor: float | None = None
    """Seconds per call at the roofline."""
    share: float | None = None
    """`floor` over the operator's time."""
    native_share: float | None = None
    """`floor` over the native kernel's time."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        share = f"  {self.share:.0%} of the limit (native {self.native_share:.0%})" if self.share is not None else ""
        return (
            f"{self.operator:<18} {self.shape_class:<44} {self.candidate * 1e6:9.2f} µs"
            f"  native {self.native * 1e6:9.2f} µs  {self.ratio:.3f} [{self.low:.3f}, {self.high:.3f}]{share}"
        )


def figures_of(path: Path) -> Iterable[Figure]:
    """The figures in a file written by `bench`, without failures; none if it does not exist.

    Raises UsageError if a row is not a figure."""
    for data in read_lines(path):
        if "ratio" in data:
            try:
                yield Figure(**data)
            except TypeError as error:
                raise UsageError(
                    f"{path} is not a bench file", why=str(error), hint="write it again with `bench`"
                ) from error
