"""A stage's key covers the code that makes its result, and nothing that does not."""

from pathlib import Path

import pytest

from flagrelease import sources
from flagrelease.stages import STAGES

TEMPLATES = Path(__file__).parents[2] / "templates"


def names(stage: str) -> set[str]:
    return {str(path.relative_to(sources.PACKAGE)) for path in sources.of_stage(stage)}


def test_what_a_stage_imports_counts_however_far() -> None:
    assert {
        "stages/accuracy.py",
        "verdict/fixed_sample.py",
        "verdict/samples.py",
        "serving.py",
        "container.py",
    } <= names("accuracy")
    assert {"stages/card.py", "card.py", "cardlint.py", "charts.py", "record.py"} <= names("card")
    assert {"stages/image.py", "wheels.py", "buildcontext.py"} <= names("image")


def test_what_only_carries_results_does_not_count() -> None:
    for stage in STAGES:
        assert not {"runner.py", "plan.py", "display.py", "cli.py", "errors.py"} & names(stage.name)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_all_that_is_named_exists(stage: object) -> None:
    assert len(stage.code_version(TEMPLATES)) == 64  # type: ignore[attr-defined]


def test_shared_names_exist() -> None:
    for name in sources.SHARED:
        assert (sources.PACKAGE / f"{name}.py").exists(), f"{name} is gone; take it out of SHARED"
