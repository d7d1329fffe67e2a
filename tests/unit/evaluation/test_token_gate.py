"""The token gate on servers with vLLM's and llama.cpp's APIs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.evaluation.token_gate import LENGTH, Compared, Plan, Prompt, Reference, compare, refer
from flagrelease.ports.logprobs import TOP, NotOffered, ServedProbabilities
from flagrelease.serving.server import ServeRequest
from flagrelease.verdict import rule
from flagrelease.verdict.types import Verdict
from support.evaluated import Stood, World, world_of
from support.token_engine import PART, Dialect, Model, serving, split

BOTH = pytest.mark.parametrize("dialect", ["vllm", "llama.cpp"])
PROMPTS = tuple(
    Prompt(name=f"b/all/{n}", messages=({"role": "user", "content": f"question {n}{n * n}"},)) for n in range(60)
)
PLAN = Plan(tokens=400, longest=100, at_once=1, floor_at_once=4)


def ignore(_done: int) -> None:
    pass


def referred(dialect: Dialect, *, prompts: tuple[Prompt, ...] = PROMPTS, plan: Plan = PLAN) -> Reference:
    with serving(Model(), dialect) as (url, _), ServedProbabilities(url, "m") as source:
        return refer(source, prompts, plan, ignore)


@cache
def plain(dialect: Dialect) -> Reference:
    return referred(dialect)


def compared(dialect: Dialect, model: Model, reference: Reference) -> Compared:
    with serving(model, dialect) as (url, _), ServedProbabilities(url, "m") as source:
        return compare(source, PROMPTS, reference, PLAN, ignore)


def total(reference: Reference) -> int:
    return sum(len(reading.tokens) for reading in reference.readings)


@BOTH
def test_a_server_is_like_itself_and_few_tokens_do_not_pass(dialect: Dialect) -> None:
    reference = plain(dialect)
    assert PLAN.tokens <= total(reference) < PLAN.tokens + LENGTH
    assert {len(top) for reading in reference.readings for top in reading.scored.decoded} == {TOP}
    assert reference.floor.mean == pytest.approx(0, abs=1e-9)
    found = compared(dialect, Model(), reference)
    assert (found.distance.tokens, found.distance.same_top) == (total(reference), 1.0)
    assert found.distance.mean == pytest.approx(0, abs=1e-9)
    assert (found.verdict, found.look, found.other_prompts) == (Verdict.INCONCLUSIVE, 2, ())


@BOTH
def test_other_probabilities_fail_at_the_first_look(dialect: Dialect) -> None:
    found = compared(dialect, Model(skew=1.0), plain(dialect))
    assert (found.verdict, found.look) == (Verdict.FAIL, 1)
    assert rule.TOKEN_LOOKS[0] <= found.distance.tokens < rule.TOKEN_LOOKS[0] + LENGTH
    assert found.distance.same_top == 1.0, "no token changes"


@BOTH
def test_a_fault_that_shows_only_while_decoding_is_seen(dialect: Dialect) -> None:
    assert compared(dialect, Model(decode_skew=1.0), plain(dialect)).verdict is Verdict.FAIL


@BOTH
def test_another_chat_template_fails_and_is_named(dialect: Dialect) -> None:
    reference = plain(dialect)
    found = compared(dialect, Model(head="<chat"), reference)
    assert found.other_prompts == tuple(reading.name for reading in reference.readings[: len(found.rows)])


@BOTH
def test_after_a_difference_the_candidate_still_scores_the_reference_s_tokens(dialect: Dialect) -> None:
    reference = plain(dialect)
    (first, *_) = reference.readings
    prompt = split(Model().render(PROMPTS[0].messages))
    flipped = Model(flip_after=len(prompt) + 10)
    found = compared(dialect, flipped, reference)
    rows = found.rows[0]
    assert len(rows) == len(first.tokens)
    for position in (9, 10, 11, len(rows) - 1):
        expected = flipped.top([*prompt, *first.tokens[:position]], TOP)
        assert rows[position][1] == pytest.approx({str(word): value for word, value in expected.items()})
        assert (
            rows[position][0]
            == (first.scored.decoded if position < 11 else first.scored.read or first.scored.decoded)[position]
        )


def test_a_continuation_ends_before_a_part_of_a_character_and_other_prompts_make_up_for_it() -> None:
    reference = plain("llama.cpp")
    assert all(PART not in reading.tokens for reading in reference.readings)
    assert min(len(reading.tokens) for reading in reference.readings) < LENGTH
    assert total(reference) >= PLAN.tokens


def test_prompts_that_are_too_long_are_left_out() -> None:
    long = Prompt(name="b/all/long", messages=({"role": "user", "content": "x" * 100},))
    reference = referred("vllm", prompts=(long, *PROMPTS))
    assert "b/all/long" not in {reading.name for reading in reference.readings}
    assert total(reference) >= PLAN.tokens


def test_a_server_without_log_probabilities_is_not_measured() -> None:
    with pytest.raises(NotOffered, match="no log-probabilities by token id"):
        referred("bare")


@dataclass
class TokenWorld(World):
    """A world whose endpoints report log-probabilities; `models` by stack."""

    models: dict[str, Model] = field(default_factory=lambda: {"native": Model(), "flagos": Model()})
    asked: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @contextmanager
    def serve(self, _job: Job, _context: Context, request: ServeRequest) -> Iterator[Any]:
        self.started.append(request.stack)
        with ExitStack() as stack:
            url, self.asked[request.stack] = stack.enter_context(serving(self.models[request.stack], "llama.cpp"))
            yield Stood(url)


@pytest.fixture
def world(tmp_path: Path) -> TokenWorld:
    plain = world_of(tmp_path, questions=72)
    return TokenWorld(plain.root, plain.stacks)


def questions(world: TokenWorld) -> int:
    return sum("messages" in request for requests in world.asked.values() for request in requests)


def test_a_gross_fault_fails_before_a_question_is_asked(world: TokenWorld) -> None:
    world.models["flagos"] = Model(skew=1.0)
    result = world.evaluate(world.job(gate_tokens=400))
    assert (result.verdict, result.benchmarks, result.questions_asked) == ("FAIL", (), 0)
    assert questions(world) == 0
    gate = result.token_gate
    assert gate is not None
    assert (gate.verdict, gate.look) == ("FAIL", 1)
    assert gate.candidate is not None
    assert gate.floor is not None
    assert result.reason.startswith(f"token gate: {gate.candidate.mean:.4f} [")
    assert f"which differs from itself by {gate.floor.mean:.4f} [" in result.reason
    (kept,) = result.evidence
    document = json.loads(world.context().evidence.read(kept))
    assert (kept.name, document["verdict"], len(document["prompts"])) == (
        "accuracy/tokens.json",
        "FAIL",
        gate.candidate.prompts,
    )


def test_an_honest_stack_is_asked_and_the_reference_is_made_once(world: TokenWorld) -> None:
    result = world.evaluate(world.job(gate_tokens=400))
    assert result.token_gate is not None
    assert result.token_gate.verdict == "INCONCLUSIVE"
    assert "a PASS needs 10,000" in result.token_gate.reason
    assert result.verdict == "PASS", "an open gate does not stop the cell"
    assert questions(world) == result.questions_asked > 0
    world.started.clear()
    assert world.evaluate(world.job(gate_tokens=400)).token_gate == result.token_gate
    assert world.started == ["flagos"]


def test_no_tokens_turn_the_gate_off(world: TokenWorld) -> None:
    result = world.evaluate(world.job(gate_tokens=0))
    assert result.token_gate is not None
    assert (result.token_gate.verdict, result.verdict) == (None, "PASS")
    assert not any("n_predict" in request for requests in world.asked.values() for request in requests)


def test_protected_questions_are_not_used(world: TokenWorld) -> None:
    job = world.job(gate_tokens=400)
    (name,) = job.cell.profile.benchmarks
    hidden = replace(job.matrix.benchmarks[name], data=f"{job.matrix.benchmarks[name].data}#x")
    from flagrelease.evaluation.token_gate import prompts_of
    from flagrelease.stages.accuracy.run import build_specs

    specs = build_specs(job, world.context())
    assert len(prompts_of(job, specs)) == 72
    assert prompts_of(replace(job, matrix=replace(job.matrix, benchmarks={name: hidden})), specs) == ()


def test_an_evaluation_reports_why_nothing_was_measured(tmp_path: Path) -> None:
    """These endpoints only chat; the second evaluation does not start a server just to learn that again."""
    world = world_of(tmp_path, questions=12)
    first = world.run(gate_tokens=400).token_gate
    assert first is not None
    assert (first.verdict, first.reason) == (None, "native: the server answers tokenize with HTTP 404")
    world.started.clear()
    assert world.run(gate_tokens=400).token_gate == first
    assert world.started == ["flagos"]
