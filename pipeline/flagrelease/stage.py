"""What a stage is: a pure key, a run, a frozen result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flagrelease import sources
from flagrelease.cell import fingerprint
from flagrelease.context import Context, Look
from flagrelease.job import Job


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a release.

    `inputs` is pure and gives everything of the job that the result depends on; with `reads` (the stages
    whose results it uses) and its own source files, `templates` and `programs` (files of this package that it
    ships or loads by name) it makes the key.
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
        """The sha256 of the sources that this stage's result depends on, so that mended code runs again."""
        digest = hashlib.sha256()
        programs = [sources.PACKAGE / name for name in self.programs]
        for path in [*sources.of_stage(self.name), *programs, *(templates / name for name in self.templates)]:
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """`stage` gives an Attribution; it is tried after each of `gates`, at most `rounds` times a release."""

    stage: Stage
    again: str = "kernels"
    gates: tuple[str, ...] = ("smoke", "accuracy")
    rounds: int = 3


def keys(job: Job, stages: tuple[Stage, ...]) -> dict[str, str]:
    """The key of every stage of the job's cell, in order. Of a stage that is skipped nothing but that counts."""
    found: dict[str, str] = {}
    for stage in stages:
        if skipped := stage.skip(job):
            found[stage.name] = fingerprint({"stage": stage.name, "skipped": skipped})
            continue
        found[stage.name] = fingerprint(
            {
                "stage": stage.name,
                "code": stage.code_version(job.templates),
                "inputs": stage.inputs(job),
                "reads": {name: found[name] for name in stage.reads},
            }
        )
    return found
