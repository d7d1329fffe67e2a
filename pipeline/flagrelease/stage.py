"""What a stage is: a pure key, a run, a frozen result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from flagrelease import sources
from flagrelease.cell import fingerprint, plain
from flagrelease.context import Context, Look
from flagrelease.job import Job
from flagrelease.parts import Keep, Parts, flat


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a release.

    `inputs` is pure and gives everything of the job that the result depends on; with `reads` (the stages
    whose results it uses), the definitions that it reaches from its module's STAGE, `templates` and `programs` (files
    of this package that it ships or loads by name) it makes the key.
    A stage `on_chip` holds the chip's host while it runs.
    `intact` says in a few words why an earlier result cannot be used any more, or nothing; it must be cheap.
    """

    name: str
    doing: str
    result: type[Any]
    inputs: Callable[[Job], Mapping[str, Any]]
    run: Callable[[Job, Context], Any]
    reads: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    on_chip: bool = False
    skip: Callable[[Job], str] = lambda _job: ""
    intact: Callable[[Any, Look], str] = lambda _result, _look: ""

    def code_version(self, templates: Path) -> str:
        """The sha256 of the code and templates that this stage's result depends on, so that mended code runs again."""
        return fingerprint({"code": self._code.digest, "templates": self._templates(templates)})

    @property
    def _code(self) -> sources.StageCode:
        return sources.of_stage(self.run, self.programs)

    def _templates(self, folder: Path) -> dict[str, str]:
        return {name: sources.of_template(folder / name) for name in self.templates}

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


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """`stage` gives an Attribution; it is tried after each of `gates`, at most `rounds` times a release."""

    stage: Stage
    again: str = "kernels"
    gates: tuple[str, ...] = ("smoke", "accuracy")
    rounds: int = 3


def keys(job: Job, stages: tuple[Stage, ...], keeps: Keeps | None = None) -> dict[str, Key]:
    """The key of every stage of the job's cell, in order. Of a stage that is skipped nothing but that counts.

    A stage that reads a result which was kept has that result's key in its own, so that nothing changes for it.
    """
    found: dict[str, Key] = {}
    for stage in stages:
        made = stage.key(job, {name: found[name].counts for name in stage.reads})
        kept = keeps.kept(job.cell.id, stage.name, made.key) if keeps is not None else None
        found[stage.name] = replace(made, kept=kept)
    return found
