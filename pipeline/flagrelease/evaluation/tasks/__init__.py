"""The kinds of benchmarks, by their name in matrix.yaml."""

from __future__ import annotations

from importlib.util import find_spec

from flagrelease.errors import ConfigError, EnvironmentFault, did_you_mean
from flagrelease.evaluation.question import Task
from flagrelease.evaluation.tasks import choices, exact, ifeval, livebench, numbers

__all__ = ["TASKS", "task_named"]

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        choices.LETTER,  # multiple-choice: MMLU, scored by the first letter's log-probability
        choices.REASONED,  # multiple-choice-cot: GPQA, MuSR, MMLU-Pro, ARC, answered after reasoning
        exact.EXACT,  # exact: a short text, compared as plain text
        numbers.INTEGER,  # integer: AIME, GSM8K
        numbers.MATH,  # math: MATH-500
        ifeval.IFEVAL,  # ifeval: instructions that a program can check
        livebench.LIVEBENCH,  # livebench: the text tasks of LiveBench
    )
}


def task_named(name: str, benchmark: str) -> Task:
    """The task `name`. Raises ConfigError for an unknown name; EnvironmentFault if its grader lacks a module, so that
    this is known before anything is asked."""
    if name not in TASKS:
        raise ConfigError(f"benchmark {benchmark} has the unknown task {name!r}", hint=did_you_mean(name, TASKS))
    for module in TASKS[name].needs:
        if find_spec(module) is None:
            raise EnvironmentFault(f"benchmark {benchmark} needs {module}", hint="install flagrelease[eval]")
    return TASKS[name]
