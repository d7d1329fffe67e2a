"""Typed handles on stages' results, and the finished stages of a cell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar, runtime_checkable

import msgspec

from flagrelease.store.ledger import Entry, Spent
from flagrelease.store.parts import Keep

if TYPE_CHECKING:
    from flagrelease.store.evidence import Evidence

__all__ = ["Done", "Finished", "Judged", "ResultOf", "ResultUnavailable", "StageResult", "Verdict", "Withholding"]

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]


class StageResult(Protocol):
    """What every stage's result has; results.py has the results themselves."""

    @property
    def summary(self) -> str:
        """The result in a line, for the terminal."""

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """Files that prove it."""


@runtime_checkable
class Judged(Protocol):
    """A result that has a verdict: that of a gate."""

    @property
    def verdict(self) -> Verdict: ...


@runtime_checkable
class Withholding(Protocol):
    """A result that may say why the stage did not do what it is for."""

    @property
    def withheld(self) -> str:
        """The reason; empty where nothing was withheld."""


R_co = TypeVar("R_co", bound=StageResult, covariant=True)
R = TypeVar("R", bound=StageResult)


class ResultUnavailable(RuntimeError):
    """A stage used a result that it does not declare in `reads`, or that was not made: a defect of the stage."""


@dataclass(frozen=True)
class ResultOf(Generic[R_co]):
    """A stage's result, by the stage's name and the result's type. It does not import the stage."""

    stage: str
    """The stage's name."""
    kind: type[R_co]
    """The result's type."""

    def decode(self, stored: object) -> R_co:
        """The result from its JSON form in the ledger. Raises msgspec.ValidationError where another version wrote it.

        The only place where a stored result gets its type."""
        return msgspec.convert(stored, self.kind)

    def of(self, entry: Entry | None) -> R_co | None:
        """The result of a ledger entry; None where it is not finished, or another version wrote it."""
        if entry is None or entry.state != "done":
            return None
        try:
            return self.decode(entry.result)
        except msgspec.ValidationError:
            return None


@dataclass(frozen=True, kw_only=True)
class Done(Generic[R_co]):
    """A finished stage, as the ledger has it."""

    stage: str
    """The stage's name."""
    key: str
    """The fingerprint (hex) of all that the result depends on."""
    result: R_co
    """What the stage made."""
    spent: Spent = field(default_factory=lambda: Spent(seconds=0.0))
    """What it cost."""
    kept: Keep | None = None
    """Whose word it is that this result counts although the code has changed."""


class Finished:
    """The finished stages of a cell, in the order in which they ended."""

    def __init__(self, done: Iterable[Done[StageResult]] = ()) -> None:
        self._done = {one.stage: one for one in done}

    def __iter__(self) -> Iterator[Done[StageResult]]:
        return iter(self._done.values())

    def __contains__(self, handle: ResultOf[StageResult]) -> bool:
        return handle.stage in self._done

    def named(self, stage: str) -> StageResult | None:
        """The result of the stage with this name, where only what all results have is asked for."""
        done = self._done.get(stage)
        return None if done is None else done.result

    def get(self, handle: ResultOf[R]) -> R | None:
        """The result; None where the stage has not finished."""
        found = self.named(handle.stage)
        if found is not None and not isinstance(found, handle.kind):
            raise ResultUnavailable(f"{handle.stage} made a {type(found).__name__}, not a {handle.kind.__name__}")
        return found

    def result(self, handle: ResultOf[R]) -> R:
        """The result. Raises ResultUnavailable where the stage has not finished."""
        found = self.get(handle)
        if found is None:
            raise ResultUnavailable(f"the stage {handle.stage} has no result")
        return found
