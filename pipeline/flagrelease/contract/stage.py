"""What a stage is: a pure key, a run, a frozen result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias

from flagrelease.config.cell import fingerprint, plain
from flagrelease.contract.code_version import StageCode, of_stage, of_template
from flagrelease.contract.context import Context, Look
from flagrelease.contract.handles import R_co, ResultOf, StageResult
from flagrelease.contract.job import Job
from flagrelease.contract.results import ACCURACY, KERNELS, SMOKE, Attribution
from flagrelease.store.parts import Keep, Parts, flat


def _nothing_lost(_result: object, _look: Look) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class Stage(Generic[R_co]):
    """One step of a release, which makes an R_co.

    `inputs` is pure and gives everything of the job that the result depends on; with `reads` (the stages
    whose results it uses), the definitions that it reaches from its module's STAGE, `templates` and `programs` (files
    of this package that it ships or loads by name) it makes the key.
    A stage `on_chip` holds the chip's host while it runs.
    `intact` says in a few words why an earlier result cannot be used any more, or nothing; it must be cheap. It is
    called only with what `result` has decoded, so that a Stage[Weights] is a Stage[StageResult].
    """

    result: ResultOf[R_co]
    """The handle of what it makes, which also names it."""
    doing: str
    inputs: Callable[[Job], Mapping[str, Any]]
    run: Callable[[Job, Context], R_co]
    reads: tuple[ResultOf[StageResult], ...] = ()
    programs: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    on_chip: bool = False
    skip: Callable[[Job], str] = lambda _job: ""
    intact: Callable[[R_co, Look], str] = _nothing_lost

    @property
    def name(self) -> str:
        return self.result.stage

    @property
    def read_names(self) -> tuple[str, ...]:
        """The names of the stages that it reads."""
        return tuple(one.stage for one in self.reads)

    def code_version(self, templates: Path) -> str:
        """The sha256 of the code and templates that this stage's result depends on, so that mended code runs again."""
        return fingerprint({"code": self._code.digest, "templates": self._templates(templates)})

    @property
    def _code(self) -> StageCode:
        return of_stage(self.run, self.programs)

    def _templates(self, folder: Path) -> dict[str, str]:
        return {name: of_template(folder / name) for name in self.templates}

    def key(self, job: Job, results: Mapping[str, str]) -> Key:
        """The stage's key, where `results` has the keys of the results that it reads."""
        if skipped := self.skip(job):
            return Key(key=fingerprint({"stage": self.name, "skipped": skipped}))
        code, templates, inputs = self._code, self._templates(job.templates), plain(self.inputs(job))
        return Key(
            key=fingerprint(
                {"stage": self.name, "code": code.digest, "templates": templates, "inputs": inputs, "reads": results}
            ),
            parts=Parts(inputs=dict(flat(inputs)), code=code.modules, templates=templates, results=results),
        )


@dataclass(frozen=True, kw_only=True)
class Key:
    """The fingerprint of all that a stage's result depends on."""

    key: str
    parts: Parts = field(default_factory=Parts)
    """What it was made from."""
    kept: Keep | None = None
    """Whose word it is that an earlier result counts although the code has changed."""

    @property
    def counts(self) -> str:
        """The key of the result that counts: this one, or the one that was kept."""
        return self.key if self.kept is None else self.kept.from_key


class Keeps(Protocol):
    """The results that were kept."""

    def kept(self, cell: str, stage: str, key: str) -> Keep | None:
        """The word that holds under this key; none once the stage has a result of its own under it."""
        ...


AnyStage: TypeAlias = Stage[StageResult]
"""A stage, where it does not matter what it makes."""


class WithOperators(StageResult, Protocol):
    """A result that operators can be taken out of."""

    @property
    def operators(self) -> tuple[object, ...]: ...


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """What is tried after a gate that failed: find the operators that did it, and go on without them."""

    stage: Stage[Attribution]
    """Finds them. It is outside the usual order."""
    again: ResultOf[WithOperators] = KERNELS
    """What is made again without them, and after it everything that follows."""
    gates: tuple[ResultOf[StageResult], ...] = (SMOKE, ACCURACY)
    """The stages after which it is tried."""
    rounds: int = 3
    """How often it is tried in a release, at most."""


def keys(job: Job, stages: tuple[AnyStage, ...], keeps: Keeps | None = None) -> dict[str, Key]:
    """The key of every stage of the job's cell, in order. Of a stage that is skipped nothing but that counts.

    A stage that reads a result which was kept has that result's key in its own, so that nothing changes for it.
    """
    found: dict[str, Key] = {}
    for stage in stages:
        made = stage.key(job, {name: found[name].counts for name in stage.read_names})
        kept = keeps.kept(job.cell.id, stage.name, made.key) if keeps is not None else None
        found[stage.name] = replace(made, kept=kept)
    return found
