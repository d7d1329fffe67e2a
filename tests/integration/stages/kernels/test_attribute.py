"""A product that is right at the lengths that were qualified and wrong beyond them: the served answers are wrong,
attribution names it, and the second round's image answers as it must. All of it in real containers, on the stand-in
chip."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import support.kernels_cell as given
from flagrelease.contract import results
from flagrelease.contract.context import Context
from flagrelease.contract.handles import ResultOf, VerdictName
from flagrelease.contract.job import Job
from flagrelease.contract.stage import Remedy, Stage
from flagrelease.packaging import operator_bundle
from flagrelease.ports.docker.engine import Engine
from flagrelease.ports.openai_client import Client
from flagrelease.run.cell_run import CellRun
from flagrelease.run.executors.inline import InlineExecutor
from flagrelease.serving.server import ServeRequest, served
from flagrelease.stages.image import build_context
from flagrelease.stages.kernels import attribute
from flagrelease.stages.kernels import stage as kernels
from flagrelease.store.evidence import Evidence
from support import served_cell, toys
from support.flagkernels_chip import require_stand_in

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

LONG = 300  # words of a question; operators are qualified at up to 32 tokens


@dataclass(frozen=True, kw_only=True)
class Judged:
    verdict: VerdictName
    summary: str
    evidence: tuple[Evidence, ...] = ()


def weights(root: Path) -> results.Weights:
    """A random model in the shapes of kernels_cell, with a tokenizer that takes bytes."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    folder = root / "weights/m"
    torch.manual_seed(0)
    values = {name: value for name, value in given.CONFIG.items() if name != "model_type"}
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(given.CONFIG["model_type"], **values))
    model.to(torch.bfloat16).save_pretrained(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    byte_level = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=byte_level).save_pretrained(folder)
    return served_cell.weights("m")


def image_stage(engine: Engine, repository: str, base: str, house: Any) -> Stage[results.Image]:
    def build(job: Job, context: Context) -> results.Image:
        prepared = context.result(results.KERNELS)
        bundle = operator_bundle.Shipped(prepared, context.workspace.root / prepared.folder)
        packed = io.BytesIO()
        build_context.write(build_context.draw(job, house, base, "", operators=bundle), packed)
        packed.seek(0)
        engine.build(packed, tag=f"{repository}:test", args={"BASE": base}, line=lambda _text: None)
        pushed = engine.push(repository, "test", lambda _done, _total: None)
        return served_cell.image(repository, pushed.digest)

    reads = (results.WEIGHTS, results.KERNELS)
    return Stage(result=results.IMAGE, doing="building", inputs=lambda _: {}, run=build, reads=reads)


def gate(job: Job, context: Context) -> Judged:
    """Asks the served image four questions; each answer is a negated product of torch (kernels_engine.py): -64."""
    image, model = context.result(results.IMAGE), context.result(results.WEIGHTS)
    with (
        served(job, context, ServeRequest(image=image, weights=model, stack="flagos")) as server,
        Client(server.base_url, seconds=60) as client,
    ):
        answers = [client.chat(server.model, "word " * words).text for words in (8, 24, LONG, 2 * LONG)]
    return Judged(verdict="PASS" if set(answers) == {"-64"} else "FAIL", summary=" ".join(answers))


@pytest.fixture
def run(engine: Engine, own_registry: str, base: str, tmp_path: Path) -> Iterator[CellRun]:
    require_stand_in()
    house = given.wheelhouse(tmp_path / "house")
    given.write_project(tmp_path, base)
    made = given.job(tmp_path)
    env = {**made.cell.chip.container.env, "CHIP_PRODUCT_DRIFTS": "256"}
    chip = replace(made.cell.chip, container=replace(made.cell.chip.container, env=env))
    one = replace(made, cell=replace(made.cell, chip=chip))
    model = weights(tmp_path)
    stages = (
        Stage(result=results.WEIGHTS, doing="", inputs=lambda _: {}, run=lambda *_: model),
        kernels.STAGE,
        image_stage(engine, f"{own_registry}/test/attributed", base, house),
        Stage(
            result=ResultOf("accuracy", Judged),
            doing="asking",
            inputs=lambda _: {},
            run=gate,
            reads=(results.WEIGHTS, results.IMAGE),
            on_chip=True,
        ),
    )
    ports = served_cell.context(tmp_path).ports
    session = replace(toys.session(tmp_path), ports=ports, stages=stages, remedy=Remedy(stage=attribute.STAGE))
    yield CellRun(session, one)
    engine.reap(one.cell.id, tmp_path)


def test_a_product_that_drifts_is_named_taken_out_and_the_rest_passes(run: CellRun) -> None:
    InlineExecutor().execute([run])
    again = ["kernels done", "image done", "accuracy done"]
    course = [f"{one.stage} {one.status}" for one in run.outcomes]
    told = "\n".join(f"{one.stage} {one.status}: {one.reason}" for one in run.outcomes)
    assert course == ["weights done", *again, "attribute done", *again], told
    assert run.outcomes[1].reason.startswith("2 of 3 operators"), "qualification let it pass"
    assert run.outcomes[3].reason == "-64 -64 -67 -67"
    (found,) = run.job.attributed
    (culprit,) = found.culprits
    assert (culprit.operator, found.gate, found.operators, found.clean) == ("mm", "accuracy", 2, True)
    assert "times as far from float32" in culprit.finding
    assert run.outcomes[5].reason.startswith("1 of 3 operators")
    assert run.outcomes[7].reason == "-64 -64 -64 -64"
    report = json.loads(run.session.evidence.read(found.evidence[0]))
    assert report["culprits"] == ["mm"]
    print(told)
