"""A stage's key covers the code that makes its result, and nothing that does not."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flagrelease.contract import code_version
from flagrelease.contract.definitions import Analysis
from flagrelease.contract.reach import Cache, Code
from flagrelease.contract.stage import Stage
from flagrelease.stages import REMEDY, STAGES

TEMPLATES = Path(__file__).parents[3] / "templates"
ALL = (*STAGES, REMEDY.stage)


def modules(name: str) -> set[str]:
    stage = next(one for one in ALL if one.name == name)
    return set(code_version.of_stage(stage.run, stage.programs).modules)


def test_what_a_stage_names_counts_however_far() -> None:
    assert {
        "stages.accuracy.stage",
        "stages.accuracy.run",
        "stages.accuracy.judge",
        "verdict.fixed_sample",
        "verdict.samples",
        "serving.server",
        "recipe.container",
    } <= modules("accuracy")
    assert {f"stages.card.{name}" for name in ("stage", "run", "render", "lint", "charts", "record")} <= modules("card")
    assert {"stages.image.run", "stages.image.build_context", "packaging.wheelhouse"} <= modules("image")


def test_programs_that_are_shipped_or_started_count_whole() -> None:
    chip = {
        ".".join(("flagkernels", *path.relative_to(code_version.PACKAGE.parent / "flagkernels").with_suffix("").parts))
        for path in (code_version.PACKAGE.parent / "flagkernels").rglob("*.py")
        if path.name != "__init__.py"
    }
    assert chip <= modules("kernels")
    assert chip <= modules("attribute")
    assert {f"packaging.payload.{name}" for name in ("flagos_serve", "llama_server", "gguf_to_safetensors")} <= modules(
        "image"
    )
    assert "evaluation.grading.sandbox_main" in modules("accuracy")


def test_what_only_carries_results_does_not_count() -> None:
    for stage in ALL:
        assert not {one for one in modules(stage.name) if one.startswith(("run.", "cli.", "store.", "errors"))}
        assert not {name for name in modules(stage.name) if not code_version.counts(f"flagrelease.{name}")} - {
            name for name in modules(stage.name) if name.startswith("flagkernels")
        }


def separate(stage: Stage) -> str:
    """The module with the work of a stage that declares only itself; empty if they are one module."""
    declared = code_version.PACKAGE.parent / f"{stage.run.__module__.replace('.', '/')}.py"
    name = "run" if declared.stem == "stage" else f"{declared.stem}_run"
    return f"{stage.run.__module__.rpartition('.')[0]}.{name}" if declared.with_stem(name).exists() else ""


@pytest.fixture(scope="module")
def digest(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Stage, Callable[[str], str]], str]:
    """The digest of a stage's code after an edit of its separate work, in a copy of the packages."""
    root = tmp_path_factory.mktemp("copy")
    for package in ("flagrelease", "flagkernels"):
        ignored = shutil.ignore_patterns("__pycache__", "templates")
        shutil.copytree(code_version.PACKAGE.parent / package, root / package, ignore=ignored)
    cache = Cache((root / "definitions.json",), Analysis)

    def of(stage: Stage, edit: Callable[[str], str]) -> str:
        path = root / f"{separate(stage).replace('.', '/')}.py"
        before = path.read_text()
        path.write_text(edit(before))
        code = Code(root, ("flagrelease", "flagkernels"), code_version.counts, cache)
        reached = code.reached(code.definition(stage.run.__module__, "STAGE"))
        path.write_text(before)
        return reached.digest

    return of


@pytest.mark.parametrize("stage", [stage for stage in ALL if separate(stage)], ids=lambda stage: stage.name)
def test_the_work_counts_although_only_running_imports_it(
    stage: Stage, digest: Callable[[Stage, Callable[[str], str]], str]
) -> None:
    assert separate(stage).removeprefix("flagrelease.") in modules(stage.name)
    same = digest(stage, lambda text: f"# reworded\n{text}")
    assert digest(stage, lambda text: re.sub(r"(?m)^    return ", "    return 0 or ", text, count=1)) != same


@pytest.mark.parametrize("stage", ALL, ids=lambda stage: stage.name)
def test_all_that_is_named_exists(stage: Stage) -> None:
    assert len(stage.code_version(TEMPLATES)) == 64


@pytest.mark.parametrize("stage", ALL, ids=lambda stage: stage.name)
def test_every_stage_starts_from_its_own_module(stage: Stage) -> None:
    assert stage.run.__module__.removeprefix("flagrelease.") in modules(stage.name)
    assert code_version.code().definition(stage.run.__module__, "STAGE") == ((stage.run.__module__, "STAGE"),)


def test_carriers_exist() -> None:
    for name in code_version._CARRIERS:
        path = code_version.PACKAGE / name.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").exists(), f"{name} is gone; take it out of _CARRIERS"
