"""Adding a harness takes the places that the README names."""

from pathlib import Path

import pytest

from support.package_copy import Copy, recipe


@pytest.fixture
def package(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


HARNESS = """
from flagrelease.evaluation.harness import Adapter
from flagrelease.evaluation.request import EvaluationRequest, Tally


class Parrot:
    def evaluate(self, request: EvaluationRequest) -> Tally:
        asks = len(request.evaluation.asks)
        return Tally(total=asks, done=asks, score=0.0, errors=0, truncated=0, asked=asks, seconds=1.0)


ADAPTER = Adapter(
    make=lambda _env: Parrot(),
    lacking=lambda env: None if "PARROT" in env else ("PARROT is not set", "set PARROT"),
)
"""

USED = """
from dataclasses import replace
from pathlib import Path

from support import finished_cell as given
from flagrelease.stages.card import render as card
from flagrelease.errors import EnvironmentFault
from flagrelease.evaluation.tasks import TASKS
from flagrelease.config.matrix import Profile
from flagrelease.evaluation.request import Endpoint, Evaluation, EvaluationRequest
from flagrelease.evaluation.harnesses.choose import Harnesses, asked_here, check
from flagrelease.config.strict_yaml import loads

profile = loads(b"benchmarks: {mmlu-sample: {}}\\nharness: parrot\\n", Profile)
job = given.job()
cell, benchmarks = replace(job.cell, profile=profile), job.matrix.benchmarks
try:
    check(cell, benchmarks, {})
except EnvironmentFault as error:
    print(error.line())
check(cell, benchmarks, {"PARROT": "1"})
evaluation = Evaluation(
    benchmark="b", task=TASKS["integer"], asks=(), parameters={}, concurrency=1, harness=profile.harness
)
endpoint = Endpoint(base_url="http://h/v1", model="m")
request = EvaluationRequest(endpoint=endpoint, evaluation=evaluation, into=Path("s.jsonl"))
print(Harnesses({"PARROT": "1"}).evaluate(request).seconds, *asked_here(cell, benchmarks))
print(card.render(replace(given.record(), profile=profile), given.TEMPLATES))
"""


def test_a_harness(package: Copy) -> None:
    choose = "evaluation/harnesses/choose.py"
    package.write("evaluation/harnesses/parrot.py", HARNESS)
    package.insert(choose, "import os", f"import {package.module('evaluation/harnesses/parrot.py')} as parrot")
    package.insert(choose, "HARNESSES: Mapping", '    "parrot": parrot.ADAPTER,')
    package.name_in("config/harness_names.py", "HarnessName", "parrot")
    package.insert("config/harness_names.py", "HARNESS_LABELS: Mapping", '    "parrot": "the parrot",')
    assert package.touched == recipe("a harness", "parrot")

    printed = package.run(USED)
    assert printed.startswith("harness parrot is not set up: PARROT is not set\n1.0 mmlu-sample\n")
    assert "measured by the parrot on" in printed
    assert "run and graded by parrot" in printed
