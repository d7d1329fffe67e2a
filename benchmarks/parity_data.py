"""Data for evalscope_parity.py: our questions, each with the row from which evalscope makes the same question."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flagrelease.evaluation.datasets import DataFile, DataSet
from flagrelease.evaluation.question import Question
from flagrelease.evaluation.tasks import TASKS
from flagrelease.evaluation.tasks.choices import REASONED_PROMPT
from flagrelease.evaluation.tasks.numbers import PROMPT

__all__ = ["BENCHMARKS", "Asked", "Compared", "Row", "asked", "data_set", "lay_out"]

Row = Mapping[str, Any]
Rows = Callable[[DataSet], Iterator[tuple[str, Row]]]
GPQA_ROWS = 198


def as_they_are(data: DataSet) -> Iterator[tuple[str, Row]]:
    """(evalscope's split, row as on its hub) of every question, in the order in which our task reads them."""
    for file in data.files:
        for row in file.rows():
            yield "test", row


def renamed(**names: str) -> Rows:
    def rows(data: DataSet) -> Iterator[tuple[str, Row]]:
        for split, row in as_they_are(data):
            yield split, {names.get(key, key): value for key, value in row.items()}

    return rows


def mmlu(data: DataSet) -> Iterator[tuple[str, Row]]:
    for file in data.files:
        subject, _, split = Path(file.name).stem.rpartition("_")
        for row in file.rows():
            choices = [row[f"choice{index}"] for index in range(4)]
            answer = int(row["answer"])
            yield split, {"question": row["question"], "subject": subject, "choices": choices, "answer": answer}


def mmlu_pro(data: DataSet) -> Iterator[tuple[str, Row]]:
    for file in data.files:
        for row in file.rows():
            yield Path(file.name).name.partition("-")[0], row


def musr(data: DataSet) -> Iterator[tuple[str, Row]]:
    splits = {"mystery": "murder_mysteries", "placements": "object_placements", "allocation": "team_allocation"}
    for file in data.files:
        split = splits[Path(file.name).stem.rpartition("_")[2]]
        for row in file.rows():
            for each in row["questions"]:
                story = {"narrative": row["context"], "question": each["question"], "choices": repr(each["choices"])}
                yield split, {**story, "answer_index": int(each["answer"])}


def gpqa(data: DataSet) -> Iterator[tuple[str, Row]]:
    for _, row in as_they_are(data):
        yield "train", row


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A benchmark of both harnesses. `files`: patterns in DATA; `template`: evalscope's prompt template."""

    name: str  # evalscope's
    task: str
    files: tuple[str, ...]
    rows: Rows = as_they_are
    shots: int = 0
    template: str = REASONED_PROMPT
    config: str = "default"
    options: Mapping[str, Any] = field(default_factory=dict)
    split_is_subset: bool = False


BENCHMARKS = {
    "aime24": Compared(name="aime24", task="integer", files=("aime24/test.jsonl",), template=PROMPT),
    "aime25": Compared(
        name="aime25",
        task="integer",
        files=("aime25/test.jsonl",),
        rows=renamed(question="problem"),
        template=PROMPT,
    ),
    "gsm8k": Compared(name="gsm8k", task="integer", files=("gsm8k/test.jsonl",), template=PROMPT, config="main"),
    "math500": Compared(
        name="math_500",
        task="math",
        files=("math500/test.jsonl",),
        rows=renamed(Question="problem", Answer="answer"),
        template=PROMPT,
    ),
    "arc": Compared(
        name="arc",
        task="multiple-choice-cot",
        files=("arc/ARC-Challenge-test.jsonl",),
        config="ARC-Challenge",
        options={"subset_list": ["ARC-Challenge"]},
    ),
    "mmlu": Compared(
        name="mmlu",
        task="multiple-choice-cot",
        files=("mmlu/test/*.csv", "mmlu/dev/*.csv"),
        rows=mmlu,
        shots=5,
        config="all",
    ),
    "mmlu-letter": Compared(
        name="mmlu",
        task="multiple-choice",
        files=("mmlu/test/*.csv", "mmlu/dev/*.csv"),
        rows=mmlu,
        shots=5,
        template="",
        config="all",
    ),
    "mmlu-pro": Compared(
        name="mmlu_pro", task="multiple-choice-cot", files=("mmlu_pro/test-*.parquet",), rows=mmlu_pro
    ),
    "musr": Compared(
        name="musr", task="multiple-choice-cot", files=("musr_small/*.json",), rows=musr, split_is_subset=True
    ),
    "gpqa": Compared(name="gpqa_diamond", task="multiple-choice-cot", files=(), rows=gpqa),
    "ifeval": Compared(
        name="ifeval",
        task="ifeval",
        files=("ifeval/*.jsonl",),
        rows=lambda data: (("train", row) for _, row in as_they_are(data)),
        template="",
    ),
}


@dataclass(frozen=True)
class Asked:
    """Questions, and the rows from which evalscope makes the same questions; `examples`: rows of another split."""

    pairs: tuple[tuple[Question, str, Row], ...]
    examples: tuple[tuple[str, Row], ...]

    @property
    def questions(self) -> tuple[Question, ...]:
        return tuple(question for question, _, _ in self.pairs)


def data_set(name: str, data: Path, work: Path) -> DataSet:
    if name == "gpqa":
        return in_the_shape_of_gpqa(data, work)
    paths = [path for pattern in BENCHMARKS[name].files for path in sorted(data.glob(pattern))]
    files = tuple(DataFile(name=path.relative_to(data).as_posix(), path=path) for path in paths)
    return DataSet(benchmark=name, digest="0" * 64, files=files)


def in_the_shape_of_gpqa(data: Path, work: Path) -> DataSet:
    """A zip like the authors', with questions of MMLU, some with surrounding spaces as in the original."""
    paths = sorted(data.glob("mmlu/test/college_*.csv"))
    rows = [row for path in paths for row in DataFile(name=path.name, path=path).rows()][:GPQA_ROWS]
    names = ["Record ID", "Question", "Correct Answer", *(f"Incorrect Answer {index}" for index in (1, 2, 3))]
    table = io.StringIO()
    lines = csv.writer(table)
    lines.writerow(names)
    for number, row in enumerate(rows):
        choices = [row[f"choice{index}"] + " " * (number % 2) for index in range(4)]
        right = choices.pop(int(row["answer"]))
        lines.writerow([f"rec{number}", row["question"] + "\n" * (number % 3), right, *choices])
    path = work / "dataset.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("dataset/gpqa_diamond.csv", table.getvalue())
    file = DataFile(name="dataset.zip", path=path, member="gpqa_diamond.csv")
    return DataSet(benchmark="gpqa", digest="0" * 64, files=(file,))


def asked(name: str, data: DataSet, limit: int | None) -> Asked:
    """Our questions and evalscope's rows, both in the order of the files."""
    benchmark = BENCHMARKS[name]
    questions = TASKS[benchmark.task].read(data, benchmark.shots)
    rows = list(benchmark.rows(data))
    examples = tuple(row for row in rows if row[0] == "dev")
    asked_rows = [row for row in rows if row[0] != "dev"]
    pairs = [(question, *row) for question, row in zip(questions, asked_rows, strict=True)]
    chosen = sorted(pairs, key=lambda pair: pair[0].prompt_sha256)[:limit]
    return Asked(tuple(chosen), examples)


def lay_out(benchmark: Compared, asked: Asked, folder: Path) -> None:
    """Write the data in evalscope's format, a data set repository of the hub."""
    folder.mkdir(parents=True)
    splits: dict[str, list[Row]] = defaultdict(list)
    for split, row in (*asked.examples, *((split, row) for _, split, row in asked.pairs)):
        splits[split].append(row)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = "".join(f"  - split: {split}\n    path: {split}.jsonl\n" for split in splits)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: {benchmark.config}\n  data_files:\n{files}---\n")
