"""The exported scores are valid in the formats of others, and are the record's."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import yaml
from huggingface_hub import ModelCard

import support.finished_cell as given
from flagrelease.config.matrix import Benchmark
from flagrelease.stages.card import exports, lint, record, render
from flagrelease.stages.card.record import Record

# eval.schema.json of every-eval-ever 0.3.0 (MIT License, © 2026 EvalEval), whose package needs a newer Python.
SCHEMA = json.loads((Path(__file__).parents[3] / "support/every_eval_ever.schema.json").read_text())


def complete(title: str = "GPQA_Diamond") -> Record:
    """A release whose benchmark was asked completely."""
    made = given.record(accuracy=given.accuracy(given.score(partial="", metric=f"{title}_0fewshot_@avg1")))
    benchmark = Benchmark(title=title, task="multiple-choice", data="data://x.jsonl", license="MIT")
    stages = tuple(replace(cost, at="2026-11-29T12:00:00+00:00") for cost in made.stages)
    return replace(made, benchmarks={"mmlu-sample": benchmark}, stages=stages)


@pytest.mark.parametrize("made", [given.record(), complete()], ids=["partial", "complete"])
def test_every_eval_ever_accepts_the_record(made: Record) -> None:
    written = json.loads(exports.every_eval_ever(made))
    jsonschema.validate(written, SCHEMA)
    assert SCHEMA["version"] == written["schema_version"]
    (result,) = written["evaluation_results"]
    assert (result["evaluation_name"], result["score_details"]["score"]) == (
        made.accuracy.benchmarks[0].metric,
        made.accuracy.benchmarks[0].candidate,
    )
    details = result["score_details"]["details"]
    assert (details["baseline"], details["verdict"]) == ("0.285", "PASS")
    assert json.loads(details["difference_interval90"]) == [-0.0121, 0.0223]
    assert result["generation_config"]["generation_args"] == {"temperature": 0.0, "top_p": 1.0, "max_tokens": 1}
    assert written["model_info"]["additional_details"]["image"] == made.image.reference


def test_the_time_is_that_of_the_evaluation() -> None:
    assert json.loads(exports.every_eval_ever(complete()))["evaluation_timestamp"] == "1795953600"
    assert json.loads(exports.every_eval_ever(given.record()))["evaluation_timestamp"] == "unknown"


def test_hugging_face_gets_complete_benchmarks_that_it_lists() -> None:
    (entry,) = yaml.safe_load(exports.eval_results(complete()))
    assert entry == {
        "dataset": {"id": "Idavidrein/gpqa", "task_id": "gpqa_diamond"},
        "value": 29.0,
        "date": "2026-11-29",
        "notes": f"GPQA_Diamond_0fewshot_@avg1, flagos on cpu, image {given.image().digest}",
    }
    assert exports.files(complete()).keys() == {".eval_results/flagrelease.yaml", "every-eval-ever.json"}


def partial() -> Record:
    """A release that asked a part of a listed benchmark."""
    made = complete()
    return replace(made, accuracy=given.accuracy(replace(made.accuracy.benchmarks[0], partial="50 of 198 questions")))


@pytest.mark.parametrize("made", [partial(), complete("MuSR")], ids=["partial", "not listed"])
def test_other_scores_do_not_appear_next_to_those_of_other_models(made: Record) -> None:
    assert exports.files(made).keys() == {"every-eval-ever.json"}


def test_no_scores_no_files() -> None:
    assert exports.files(given.record(accuracy=replace(given.accuracy(), benchmarks=()))) == {}


@pytest.mark.parametrize("licence", ["apache-2.0", "qwen-research", "0bsd"])
def test_the_client_of_hugging_face_reads_the_front_matter(licence: str) -> None:
    text = render.render(record.build(given.job(license=licence), given.finished(), "0" * 64), given.TEMPLATES)
    read = ModelCard(text).data
    assert (read.license, read.base_model, read.language) == (
        licence if licence == "apache-2.0" else "other",
        ["HuggingFaceTB/SmolLM2-135M-Instruct"],
        ["en"],
    )
    assert read.to_dict()["tasks"] == ["text-generation"]  # ModelScope's field


def test_what_its_client_refuses_is_a_defect() -> None:
    text = render.render(given.record(), given.TEMPLATES)
    index = text.replace("---\nlicense", "---\nmodel-index: {name: x}\nlicense", 1)
    found = [finding.text for finding in lint.lint(index, None, {"scores.png": b""})]
    assert any("Hugging Face's client refuses it: Invalid `model_index`" in line for line in found), found
    twice = text.replace("- cpu\n", "- flagos\n", 1)
    found = [finding.text for finding in lint.lint(twice, None, {"scores.png": b""})]
    assert found == ["front matter: Hugging Face's client reads tags differently"]
