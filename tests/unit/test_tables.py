"""The names that matrix.yaml may use are those of the tables, and nothing but the tables names a harness."""

import ast
from pathlib import Path
from typing import get_args

from flagrelease.config.engines import ENGINES, LoadToolName
from flagrelease.config.harness_names import DEFAULT_HARNESS, HARNESS_LABELS, HarnessName
from flagrelease.config.task_names import TaskName
from flagrelease.evaluation.harnesses.choose import HARNESSES
from flagrelease.evaluation.tasks import TASKS
from flagrelease.stages.speed.load_tools import LOAD_TOOLS

PACKAGE = Path(__file__).parents[2] / "pipeline" / "flagrelease"
MAY_NAME = {"harness_names.py", "engines.py", "load_tools.py", "choose.py"}
MAY_NAME |= {"flageval_scores.py"}  # the adapter of FlagEval


def test_every_harness_of_the_matrix_is_in_the_table() -> None:
    assert set(get_args(HarnessName)) == set(HARNESSES)
    assert set(HARNESS_LABELS) == set(HARNESSES)
    assert DEFAULT_HARNESS in HARNESSES
    for adapter in HARNESSES.values():
        assert (adapter.make is None) is not (adapter.score is None)


def test_every_load_tool_of_the_matrix_is_in_the_table() -> None:
    assert set(get_args(LoadToolName)) == set(LOAD_TOOLS)
    for name, engine in ENGINES.items():
        assert LOAD_TOOLS[engine.load_tool].engine in ("", name)


def test_every_kind_of_benchmark_of_the_matrix_is_in_the_table() -> None:
    assert set(get_args(TaskName)) == set(TASKS)


def test_defaults_need_no_check_of_this_machine() -> None:
    """`plan` checks only harnesses and load generators that the matrix chooses, since the defaults need no setting."""
    assert HARNESSES[DEFAULT_HARNESS].lacking({}) is None
    for engine in ENGINES.values():
        assert LOAD_TOOLS[engine.load_tool].lacking({}) is None


def test_nothing_but_the_tables_names_a_harness() -> None:
    names = set(HARNESSES)
    found = {}
    for path in PACKAGE.rglob("*.py"):
        if path.name in MAY_NAME or path.name.startswith(("harness", "load")) or "harnesses" in path.parts:
            continue
        literals = {one.value for one in ast.walk(ast.parse(path.read_text())) if isinstance(one, ast.Constant)}
        if named := {one for one in literals if isinstance(one, str) and one in names}:
            found[str(path.relative_to(PACKAGE))] = named
    assert found == {}
