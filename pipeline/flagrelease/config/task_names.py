"""Names of the kinds of benchmarks in matrix.yaml; TASKS in evaluation/tasks/ has their implementations."""

from __future__ import annotations

from typing import Literal

TaskName = Literal["multiple-choice", "multiple-choice-cot", "integer", "math", "ifeval", "livebench", "exact"]
