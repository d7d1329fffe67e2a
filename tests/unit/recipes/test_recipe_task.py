"""Adding a kind of benchmark takes the places that the README names."""

from pathlib import Path

import pytest

from support.package_copy import Copy, recipe


@pytest.fixture
def package(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


TASK = """
from flagrelease.evaluation.question import Grade, Question, Task, stable_id


def read(data, shots):
    rows = [row for file in data.files for row in file.rows()]
    return [
        Question(
            subset="all",
            id=stable_id(row["question"]),
            messages=({"role": "user", "content": row["question"]},),
            reference=row["answer"],
        )
        for row in rows
    ]


def grade(question, reply):
    said = reply.text.strip().lower()
    return Grade(said == question.reference, said)


YES_NO = Task(name="yes-no", read=read, grade=grade)
"""

USED = """
from pathlib import Path

from flagrelease.evaluation.datasets import DataFile, DataSet
from flagrelease.evaluation.question import Reply
from flagrelease.evaluation.spec import build_spec
from flagrelease.evaluation.tasks import task_named
from flagrelease.config.matrix import Benchmark, Share
from support import finished_cell as given

Path("q.jsonl").write_text('{"question": "Is it?", "answer": "yes"}\\n')
data = DataSet(benchmark="b", files=(DataFile(name="q.jsonl", path=Path("q.jsonl")),), digest="d")
benchmark = Benchmark(title="B", task="yes-no", data="data://q.jsonl", license="MIT")
spec = build_spec("b", benchmark, task_named("yes-no", "b"), Share(), data, given.job().cell.model)
task, (question,) = spec.evaluation.task, spec.questions
said = Reply(text=" Yes", finish_reason="stop", completion_tokens=1)
print(task.name, task.grade(question, said).correct, question.messages[0]["content"])
"""


def test_a_kind_of_benchmark(package: Copy) -> None:
    table = "evaluation/tasks/__init__.py"
    package.write("evaluation/tasks/yes_no.py", TASK)
    imported = f"from {package.module('evaluation/tasks/yes_no.py')} import YES_NO"
    package.insert(table, "from importlib.util import find_spec", imported)
    package.insert(table, "    for task in (", "        YES_NO,")
    package.name_in("config/task_names.py", "TaskName", "yes-no")
    assert package.touched == recipe("a kind of benchmark", "yes_no")

    assert package.run(USED) == "yes-no True Is it?\n"
