"""No key depends on the environment of the process that makes it."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from flagrelease.config.cell import Cell
from flagrelease.contract.job import Job
from flagrelease.contract.stage import Stage, keys
from flagrelease.errors import ConfigError
from flagrelease.run.project import Options, Project, open_project
from flagrelease.stages import REMEDY, STAGES
from support import import_graph

ROOT = Path(__file__).parents[3]
ALL = (*STAGES, REMEDY.stage)


class Untouched(MutableMapping[str, str]):
    """An environment that nobody may look into."""

    def _refuse(self, *_: object) -> NoReturn:
        raise AssertionError("a key reads the environment")

    __getitem__ = __setitem__ = __delitem__ = __len__ = _refuse

    def __iter__(self) -> Iterator[str]:
        self._refuse()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return open_project(Options(matrix=ROOT / "matrix.yaml", workspace=tmp_path_factory.mktemp("workspace")))


@pytest.fixture(scope="module")
def calls() -> Calls:
    return Calls()


def jobs(project: Project) -> Iterator[Job]:
    for cell in (cell for cell in project.cells if cell.chip_name in ("cpu", "metax", "nvidia-h100")):
        one_device = replace(cell.model.serve, engine="llama_cpp", devices=1, parallel=None)
        for serve in (cell.model.serve, one_device):
            changed: Cell = replace(cell, model=replace(cell.model, serve=serve))
            yield replace(project.job(cell), cell=changed)


@pytest.mark.parametrize("stage", ALL, ids=lambda stage: stage.name)
def test_inputs_and_skip_leave_the_environment_alone(
    project: Project, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0
    todo = list(jobs(project))
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", Untouched())
        for job in todo:
            stage.skip(job)
            try:
                made += bool(stage.inputs(job))
            except ConfigError:  # not locked on this chip
                continue
    assert made


def test_keys_are_the_same_in_another_environment(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def now() -> list[dict[str, str]]:
        found = []
        for job in jobs(project):
            try:
                found.append(keys(job, ALL))
            except ConfigError:
                continue
        return found

    before = now()
    for name in read_anywhere():
        monkeypatch.setenv(name, "/opt/changed")
    assert before
    assert now() == before


def read_anywhere() -> set[str]:
    """Every name of an environment variable that flagrelease spells."""
    found = set()
    for path in (import_graph.SOURCE / "flagrelease").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Constant(value=str(text)) if text.startswith("FLAGRELEASE_") and text.isupper():
                    found.add(text)
    assert "FLAGRELEASE_EVALSCOPE" in found
    return found


@pytest.mark.parametrize("stage", ALL, ids=lambda stage: stage.name)
def test_no_function_that_inputs_calls_names_the_environment(stage: Stage, calls: Calls) -> None:
    reached = calls.reached(stage.inputs.__module__, stage.inputs.__name__)
    assert (stage.inputs.__module__, stage.inputs.__name__) in reached
    reading = [place for place in reached if calls.reads_environment(*place)]
    assert not reading


def test_a_function_that_reads_the_environment_is_found(calls: Calls) -> None:
    assert calls.reads_environment("flagrelease.stages.speed.run", "choose")
    assert ("flagrelease.cli.shared", "options") in calls.reached("flagrelease.cli.commands.run", "main")


class Bare(ast.NodeTransformer):
    """Drops the types of arguments and results, since naming a type calls nothing."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.returns = None
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node


class Calls:
    """Which functions and classes of flagrelease a function names, in its own module and in others."""

    def __init__(self) -> None:
        modules = import_graph.graph("flagrelease").modules
        self._trees = {name: Bare().visit(ast.parse(path.read_text())) for name, path in modules.items()}
        self._definitions = {
            (name, node.name): node
            for name, tree in self._trees.items()
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
        self._imported = {
            name: {
                alias.asname or alias.name: (node.module or "", alias.name)
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom)
                for alias in node.names
            }
            for name, tree in self._trees.items()
        }

    def reads_environment(self, module: str, name: str) -> bool:
        nodes = list(ast.walk(self._definitions[module, name]))
        names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        names |= {node.id for node in nodes if isinstance(node, ast.Name)}
        return bool(names & {"environ", "environb", "getenv"})

    def reached(self, module: str, name: str) -> set[tuple[str, str]]:
        found: set[tuple[str, str]] = set()
        todo = [(module, name)]
        while todo:
            place = todo.pop()
            if place in self._definitions and place not in found:
                found.add(place)
                todo += self._named(*place)
        return found

    def _named(self, module: str, name: str) -> Iterator[tuple[str, str]]:
        for node in ast.walk(self._definitions[module, name]):
            if isinstance(node, ast.Name):
                yield self._imported[module].get(node.id, (module, node.id))
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                parent, child = self._imported[module].get(node.value.id, ("", ""))
                yield f"{parent}.{child}", node.attr
