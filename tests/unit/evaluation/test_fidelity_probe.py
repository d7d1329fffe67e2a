"""The fidelity probe on servers with vLLM's and llama.cpp's APIs."""

from __future__ import annotations

from pathlib import Path

import pytest

from flagrelease.evaluation.fidelity_probe import PROMPTS, TOKENS, Reference, compare, distance, refer
from flagrelease.ports.logprobs import TOP, NotOffered, ServedProbabilities
from flagrelease.verdict.stats.fidelity import outside
from support.evaluated import world_of
from support.token_engine import Dialect, Model, serving

BOTH = pytest.mark.parametrize("dialect", ["vllm", "llama.cpp"])


def referred(dialect: Dialect, model: Model | None = None) -> Reference:
    with serving(model or Model(), dialect) as (url, _), ServedProbabilities(url, "m") as source:
        return refer(source)


@BOTH
def test_a_server_is_like_itself(dialect: Dialect) -> None:
    reference = referred(dialect)
    assert [len(one.own.tokens) for one in reference.readings] == [TOKENS] * len(PROMPTS)
    assert {len(top) for one in reference.readings for top in one.forced} == {TOP}
    assert len(reference.noise) == 2
    for noise in reference.noise:
        assert (noise.exact_match, noise.first_divergence, noise.top1_agreement) == (1.0, None, 1.0)
        assert noise.kl == pytest.approx(0, abs=1e-9)


@BOTH
def test_other_probabilities_show_in_the_divergence_alone(dialect: Dialect) -> None:
    reference = referred(dialect)
    with serving(Model(skew=0.2), dialect) as (url, _), ServedProbabilities(url, "m") as source:
        found = distance(reference.readings, compare(source, reference))
    assert (found.exact_match, found.top1_agreement) == (1.0, 1.0)
    assert 0.001 < found.kl < 0.1
    assert outside(found, reference.noise) == ("KL",)


@BOTH
def test_after_a_difference_the_candidate_still_scores_the_reference_s_tokens(dialect: Dialect) -> None:
    reference = referred(dialect)
    prompt = len(reference.readings[0].prompt)
    flipped = Model(flip_after=prompt + 10)
    with serving(flipped, dialect) as (url, asked), ServedProbabilities(url, "m") as source:
        found = compare(source, reference)
    first, second = reference.readings[0], found[0]
    assert first.own.tokens[:10] == second.own.tokens[:10]
    assert first.own.tokens[10] != second.own.tokens[10]
    for position in (9, 10, 20, TOKENS - 1):
        expected = flipped.top([*first.prompt, *first.own.tokens[:position]], TOP)
        assert second.forced[position] == pytest.approx({str(word): value for word, value in expected.items()})
    measured = distance(reference.readings, found)
    assert measured.top1_agreement < 1
    assert measured.first_divergence == 10
    single = [request for request in asked if request["max_tokens"] == 1]
    # One request per prompt if the server scores it in one request; else one for each position after the difference,
    # and the one that detected this.
    assert len(single) == (len(PROMPTS) if dialect == "vllm" else len(PROMPTS) * (TOKENS - 11) + 1)
    assert dialect == "vllm" or any(request["max_tokens"] == 4 for request in asked), "a part of a character came"


def test_an_answer_that_ends_early_leaves_positions_out() -> None:
    reference = referred("llama.cpp")
    prompt = len(reference.readings[0].prompt)
    with serving(Model(end_after=prompt + 5), "llama.cpp") as (url, _), ServedProbabilities(url, "m") as source:
        found = compare(source, reference)
    assert {len(one.forced) for one in found} == {TOKENS}
    assert distance(reference.readings, found).exact_match == 0


def test_a_server_without_log_probabilities_is_not_probed() -> None:
    with pytest.raises(NotOffered, match="no log-probabilities by token id"):
        referred("bare")


def test_an_evaluation_reports_why_nothing_was_probed(tmp_path: Path) -> None:
    """These endpoints only chat; the second evaluation does not start a server just for the probe."""
    world = world_of(tmp_path, questions=12)
    first = world.run().likeness
    assert first is not None
    assert first.reason == "native: the server answers tokenize with HTTP 404"
    world.started.clear()
    again = world.run().likeness
    assert again is not None
    assert again.reason == "native on cpu was never probed"
    assert world.started == ["flagos"]
