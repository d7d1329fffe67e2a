"""Typed handles of stage results, and the finished stages of a cell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar, runtime_checkable

import msgspec

from flagrelease.store.ledger import Entry, Spent
from flagrelease.store.parts import Keep

if TYPE_CHECKING:
    from flagrelease.store.evidence import Evidence

__all__ = ["Done", "Finished", "Judged", "ResultOf", "ResultUnavailable", "StageResult", "VerdictName", "Withholding"]

VerdictName = Literal["PASS", "FAIL", "INCONCLUSIVE"]


class StageResult(Protocol):
    """The interface of all stage results; results.py defines the results."""

    @property
    def summary(self) -> str:
        """The result in one line, for the terminal."""

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """Files that prove it."""


@runtime_checkable
class Judged(Protocol):
    """The result of a gate, with a verdict."""

    @property
    def verdict(self) -> VerdictName: ...


@runtime_checkable
class Withholding(Protocol):
    """A result of a stage that may withhold its effect."""

    @property
    def withheld(self) -> str:
        """The reason; empty if nothing was withheld."""


R_co = TypeVar("R_co", bound=StageResult, covariant=True)
R = TypeVar("R", bound=StageResult)


class ResultUnavailable(RuntimeError):
    """A stage used a result that it does not declare in `reads` or that does not exist: a defect of the stage."""


@dataclass(frozen=True)
class ResultOf(Generic[R_co]):
    """The handle of a stage's result: name and type, without importing the stage."""

    stage: str
    """The stage's name."""
    kind: type[R_co]
    """The result's type."""

    def decode(self, stored: object) -> R_co:
        """Decode a result from its JSON form in the ledger; nothing else does.

        Raises msgspec.ValidationError if another version wrote it in a different form."""
        return msgspec.convert(stored, self.kind)

    def of(self, entry: Entry | None) -> R_co | None:
        """The result of a ledger entry; None if it is not finished or not readable by this version."""
        if entry is None or entry.state != "done":
            return None
        try:
            return self.decode(entry.result)
        except msgspec.ValidationError:
            return None


@dataclass(frozen=True, kw_only=True)
class Done(Generic[R_co]):
    """A finished stage."""

    stage: str
    """The stage's name."""
    key: str
    """The fingerprint (hex) of everything that the result depends on."""
    result: R_co
    """The stage's result."""
    spent: Spent = field(default_factory=lambda: Spent(seconds=0.0))
    """The stage's cost."""
    kept: Keep | None = None
    """The user's statement by which this result counts although the code has changed."""
    at: str = ""
    """When it ended, ISO 8601, UTC."""


class Finished:
    """The finished stages of a cell, in the order they ended."""

    def __init__(self, done: Iterable[Done[StageResult]] = ()) -> None:
        self._done = {finished.stage: finished for finished in done}

    def __iter__(self) -> Iterator[Done[StageResult]]:
        return iter(self._done.values())

    def __contains__(self, handle: ResultOf[StageResult]) -> bool:
        return handle.stage in self._done

    def named(self, stage: str) -> StageResult | None:
        """The result of the stage with this name, as a plain StageResult; None if it has not finished."""
        done = self._done.get(stage)
        return None if done is None else done.result

    def get(self, handle: ResultOf[R]) -> R | None:
        """The result; None if the stage has not finished. Raises ResultUnavailable if it has another type."""
        result = self.named(handle.stage)
        if result is not None and not isinstance(result, handle.kind):
            raise ResultUnavailable(f"{handle.stage} made a {type(result).__name__}, not a {handle.kind.__name__}")
        return result

    def result(self, handle: ResultOf[R]) -> R:
        """The result. Raises ResultUnavailable if the stage has not finished or the result has another type."""
        result = self.get(handle)
        if result is None:
            raise ResultUnavailable(f"the stage {handle.stage} has no result")
        return result
