"""A benchmark is a stanza of matrix.yaml that a profile names."""

from __future__ import annotations

import json

from flagrelease.config.matrix import Share
from flagrelease.evaluation.datasets import load
from flagrelease.evaluation.spec import build_spec
from flagrelease.evaluation.tasks import task_named
from support.newcomer_project import NewcomerProject, recipe

ROWS = [{"question": f"What is {number} and 1?", "answer": f"#### {number + 1}"} for number in range(3)]


def test_a_benchmark_is_a_stanza_that_a_profile_names(project: NewcomerProject) -> None:
    assert "matrix.yaml" in recipe("a benchmark")
    data = project.root / "sums.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    project.add("benchmarks", f'  sums: {{title: Sums, task: integer, data: "file://{data}", license: MIT}}\n')
    project.replace("short-tasks: {}", "sums: {}")
    cell = "cpu/smollm2-135m"
    lock = project.relock(cell)
    assert lock.benchmarks["sums"].rows == 3
    assert not project.plan(cell).blocked
    benchmark = project.matrix.benchmarks["sums"]
    spec = build_spec(
        "sums",
        benchmark,
        task_named(benchmark.task, "sums"),
        Share(),
        load("sums", benchmark, lock, None, lambda _locked: data),
        project.cell(cell).model,
    )
    assert sorted(str(question.reference) for question in spec.questions) == ["1", "2", "3"]
