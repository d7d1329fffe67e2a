"""Write questions as a data set that evalscope reads."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flagrelease.errors import ConfigError
from flagrelease.evaluation.question import Question, Task
from flagrelease.evaluation.request import Ask
from flagrelease.store.files import write_atomic

__all__ = ["BENCHMARKS", "EvalscopeBenchmark", "choice_row", "prompt", "refuse", "write_data"]

Row = dict[str, Any]

_OPTION = re.compile(r"^([A-Z])\) ", re.MULTILINE)


def prompt(question: Question) -> str:
    """The text of the question's only message. Raises ConfigError unless that is one user message."""
    if len(question.messages) != 1 or question.messages[0]["role"] != "user":
        raise ConfigError(f"question {question.id} cannot be asked by evalscope", why="it is not a single user message")
    return question.messages[0]["content"]


def choice_row(question: Question) -> Row:
    """Split the options off the prompt: evalscope appends them to the question itself."""
    letters, right = question.reference
    text = prompt(question)
    for head in reversed([match.start() for match in re.finditer(r"\n\nA\) ", text)]):
        starts: list[re.Match[str]] = []
        for match in _OPTION.finditer(text, head + 2):
            if len(starts) < len(letters) and match[1] == letters[len(starts)]:
                starts.append(match)
        if len(starts) == len(letters):
            ends = [match.start() - 1 for match in starts[1:]] + [len(text)]
            options = [text[match.end() : end] for match, end in zip(starts, ends, strict=True)]
            choices = {"text": options, "label": list(letters)}
            return {"id": question.id, "question": text[:head], "choices": choices, "answerKey": right}
    raise ConfigError(
        f"question {question.id} cannot be asked by evalscope", why="its prompt does not end with its options"
    )


def _math_row(question: Question) -> Row:
    answer = str(question.reference)
    return {"problem": prompt(question), "answer": answer, "solution": "", "level": 1, "unique_id": question.id}


def _instruction_row(question: Question) -> Row:
    names = [name for name, _ in question.reference]
    arguments = [dict(given) for _, given in question.reference]
    return {"key": question.id, "prompt": prompt(question), "instruction_id_list": names, "kwargs": arguments}


@dataclass(frozen=True, kw_only=True)
class EvalscopeBenchmark:
    """A benchmark built into evalscope, used for its grader."""

    name: str
    """The name for `--datasets`."""
    row: Callable[[Question], Row]
    """Converts a question to a row of the benchmark's data."""
    template: str = "{question}"
    """evalscope's `prompt_template`, which must reproduce the prompt word for word."""
    config: str = "default"
    """The benchmark's subset."""
    split: str = "test"
    """The split that evalscope reads."""


BENCHMARKS: Mapping[str, EvalscopeBenchmark] = {
    "integer": EvalscopeBenchmark(name="aime24", row=_math_row),
    "math": EvalscopeBenchmark(name="math_500", row=_math_row),
    "multiple-choice-cot": EvalscopeBenchmark(
        name="arc", row=choice_row, template="{question}\n\n{choices}", config="ARC-Challenge"
    ),
    "ifeval": EvalscopeBenchmark(name="ifeval", row=_instruction_row, template="", split="train"),
}
"""The benchmark with the right grader for each task, by the task's name."""

_UNSUPPORTED = {
    "multiple-choice": "it reads a letter that was generated, and this task scores log-probabilities; use the task "
    "multiple-choice-cot",
    "livebench": "it has no LiveBench",
}


def refuse(task: Task, benchmark: str) -> None:
    """Raises ConfigError where evalscope does not support the task."""
    if task.name not in BENCHMARKS:
        raise ConfigError(
            f"evalscope cannot ask {benchmark} (task {task.name})",
            why=_UNSUPPORTED.get(task.name, "it has no such task"),
            hint=f"set `harness: own` for {benchmark}; evalscope can ask {', '.join(BENCHMARKS)}",
        )


def write_data(benchmark: EvalscopeBenchmark, asks: Iterable[Ask], folder: Path) -> None:
    """Write the data in the layout of a hub repository, one row per ask. The same asks give the same files."""
    rows = "".join(json.dumps(benchmark.row(ask.question), ensure_ascii=False) + "\n" for ask in asks)
    head = f"---\nconfigs:\n- config_name: {benchmark.config}\n  data_files:\n"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{benchmark.split}.jsonl", rows.encode())
    readme = f"{head}  - split: {benchmark.split}\n    path: {benchmark.split}.jsonl\n---\n"
    write_atomic(folder / "README.md", readme.encode())
