"""The CPU cell on the real model: a damaged copy FAILs in the benchmark and in the token gate, the same file does
not, with the questions of ten seeds."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import pytest

from flagrelease.contract.accuracy_results import BenchmarkScore
from flagrelease.stages.accuracy.run import evaluate
from support.benchmark_programs import opened
from support.real_model import RealModel, real_model

pytestmark = [pytest.mark.e2e, pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1800)]

SEEDS = range(1, 11)


@pytest.fixture(scope="module")
def damaged() -> ModuleType:
    return opened("damaged_model")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> RealModel:
    return real_model(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def copies(model: RealModel, damaged: ModuleType) -> dict[str, str]:
    """The folder of each damaged copy below the workspace's weights, by the name of its damage."""
    made = {}
    for number, damage in enumerate(damaged.DAMAGES[:2]):
        folder = made[damage.name] = f"damaged-{number}"
        damage.to(model.gguf, model.context.workspace.weights / folder / model.gguf.name)
    return made


@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_copy_fails_and_the_same_file_passes(
    model: RealModel, damaged: ModuleType, copies: dict[str, str], seed: int
) -> None:
    job, context = model.asking(seed), model.fresh()

    def score(folder: str) -> BenchmarkScore:
        candidate = replace(model.weights, folder=folder)
        (benchmark,) = evaluate(job, context, serve=damaged.serving(candidate)).benchmarks
        print(f"seed {seed}, {damaged.row(folder, benchmark)}")
        return benchmark

    honest = score(model.weights.folder)
    assert (honest.verdict, honest.difference) == ("PASS", 0.0)
    assert f"{honest.n} of {honest.n} answers are the same" in honest.reason
    assert honest.baseline is not None
    assert 0.3 <= honest.baseline <= 0.7
    for name, folder in copies.items():
        failed = score(folder)
        assert failed.verdict == "FAIL", f"{name}: {failed.reason}"
        assert failed.baseline == honest.baseline


def test_the_token_gate_fails_a_damaged_copy_before_a_question_is_asked(
    model: RealModel, damaged: ModuleType, copies: dict[str, str]
) -> None:
    job, context = model.asking(1, 20, gate_tokens=512), model.fresh()
    honest = evaluate(job, context, serve=damaged.serving(model.weights))
    assert honest.token_gate is not None
    assert honest.token_gate.candidate is not None, honest.token_gate.reason
    assert (honest.token_gate.verdict, honest.token_gate.candidate.mean) == ("INCONCLUSIVE", 0)
    assert honest.questions_asked > 0
    for name, folder in copies.items():
        result = evaluate(job, context, serve=damaged.serving(replace(model.weights, folder=folder)))
        print(name, result.reason)
        assert (result.verdict, result.questions_asked, result.benchmarks) == ("FAIL", 0, ()), name
