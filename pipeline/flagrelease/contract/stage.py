"""The Stage type: a pure key, a run, a frozen result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
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
    """One step of a release.

    Its key covers `inputs`, the results in `reads`, the code reached from its module's STAGE, `programs` and
    `templates`.
    """

    result: ResultOf[R_co]
    """The handle of its result, which also names the stage."""
    doing: str
    """Progress text in the present participle, such as "fetching weights"."""
    inputs: Callable[[Job], Mapping[str, Any]]
    """Everything of the job that the result depends on. Pure."""
    run: Callable[[Job, Context], R_co]
    """Produces the result. Raises FlagreleaseError if it cannot."""
    reads: tuple[ResultOf[StageResult], ...] = ()
    """The results of other stages that it uses."""
    programs: tuple[str, ...] = ()
    """Files that it ships or loads by name, as paths relative to this package."""
    templates: tuple[str, ...] = ()
    """Files in the folder of templates that it renders."""
    on_chip: bool = False
    """Whether it locks the chip's host while it runs."""
    skip: Callable[[Job], str] = lambda _job: ""
    """Why the stage does not apply to a job; empty if it does. Pure."""
    intact: Callable[[R_co, Look], str] = _nothing_lost
    """Why an earlier result can no longer be used, in a few words; empty if it can. Must be cheap. It is called only
    with values decoded by `result`, so that a Stage[Weights] is a Stage[StageResult]."""

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.result.stage

    @property
    def read_names(self) -> tuple[str, ...]:
        """The names of the stages that it reads."""
        return tuple(read.stage for read in self.reads)

    def code_version(self, templates: Path) -> str:
        """The sha256 (hex) of the code and templates that the result depends on; fixed code gets another one."""
        return fingerprint({"code": self._code.digest, "templates": self._templates(templates)})

    @property
    def _code(self) -> StageCode:
        if any(program.startswith("/") for program in self.programs):
            return of_stage(self.run, self.programs)  # a file elsewhere may change while this process runs
        return _code_of(self.run, self.programs)

    def _templates(self, folder: Path) -> dict[str, str]:
        return {name: of_template(folder / name) for name in self.templates}

    def key(self, job: Job, results: Mapping[str, str]) -> Key:
        """The stage's key, given the keys of the `results` that it reads, by stage."""
        if skipped := self.skip(job):
            return Key(key=fingerprint({"stage": self.name, "skipped": skipped}))
        code, templates, inputs = self._code, self._templates(job.templates), plain(self.inputs(job))
        return Key(
            key=fingerprint(
                {"stage": self.name, "code": code.digest, "templates": templates, "inputs": inputs, "reads": results}
            ),
            made=lambda: Parts(inputs=dict(flat(inputs)), code=code.modules, templates=templates, results=results),
        )


@cache
def _code_of(run: Callable[..., object], programs: tuple[str, ...]) -> StageCode:
    """The package's code is read once in a process, and every cell of a matrix asks for it."""
    return of_stage(run, programs)


@dataclass(frozen=True, kw_only=True)
class Key:
    """The fingerprint of everything that a stage's result depends on."""

    key: str
    """64 hex digits."""
    made: Callable[[], Parts] = field(default=Parts, repr=False, compare=False)
    """Makes `parts`, which takes longer than the key and is needed only where something has changed or has run."""
    kept: Keep | None = None
    """The user's statement by which an earlier result counts although the code has changed."""

    @property
    def parts(self) -> Parts:
        """The separate inputs of `key`."""
        return self.made()

    @property
    def counts(self) -> str:
        """The key of the result that counts: this one or, if there is a Keep, the earlier one."""
        return self.key if self.kept is None else self.kept.from_key


class Keeps(Protocol):
    """The results that a user kept (`flagrelease keep`)."""

    def kept(self, cell: str, stage: str, key: str) -> Keep | None:
        """The Keep that holds under this key; none once the stage has finished or failed with this key."""
        ...


AnyStage: TypeAlias = Stage[StageResult]
"""A stage with any result."""


class WithOperators(StageResult, Protocol):
    """A result with a set of operators that can be reduced."""

    @property
    def operators(self) -> tuple[object, ...]: ...


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """The response to a failed gate: attribute it to operators and continue without them."""

    stage: Stage[Attribution]
    """Finds the culprits. It is not part of the normal order."""
    again: ResultOf[WithOperators] = KERNELS
    """The stage that runs again without them, and after it all that follow."""
    gates: tuple[ResultOf[StageResult], ...] = (SMOKE, ACCURACY)
    """The stages whose failure it responds to."""
    rounds: int = 3
    """The most attempts in a release."""


def keys(job: Job, stages: tuple[AnyStage, ...], keeps: Keeps | None = None) -> dict[str, Key]:
    """The keys of the cell's stages, in order. That of a skipped stage covers only the reason.

    A kept result enters the keys of the stages that read it by its earlier key, so that they do not change.
    """
    by_stage: dict[str, Key] = {}
    for stage in stages:
        key = stage.key(job, {name: by_stage[name].counts for name in stage.read_names})
        kept = keeps.kept(job.cell.id, stage.name, key.key) if keeps is not None else None
        by_stage[stage.name] = replace(key, kept=kept)
    return by_stage
