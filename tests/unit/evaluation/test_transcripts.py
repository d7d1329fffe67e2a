"""Transcripts: one reply per answer, bounded, without secrets, and not for password-protected data."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flagrelease.contract.job import Job
from flagrelease.evaluation import transcripts
from flagrelease.evaluation.datasets import write_manifest
from flagrelease.evaluation.transcripts import REPLIES, Replies, collect
from support.asking import INTEGER, LETTER, ask, echo, evaluation
from support.endpoints import chat, letters, serving
from support.evaluated import world_of

KEY = ("b", "all", "q1", 0)


def kept(folder: Path, *keys: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in collect([folder], set(keys)).splitlines()]


def test_replies_are_written_next_to_the_samples(tmp_path: Path) -> None:
    with serving(echo) as server:
        _, samples = ask(server.base_url, evaluation(6, task=INTEGER, repeats=2), tmp_path / "s.jsonl")
    found = kept(tmp_path, *(sample.key for sample in samples))
    assert len(found) == 12
    assert {one["text"] for one in found if one["question_id"] == "q1"} == {"It is \\boxed{1}."}


def test_letters_have_no_text(tmp_path: Path) -> None:
    with serving(lambda _request, _n: letters({"B": -0.1})) as server:
        ask(server.base_url, evaluation(3, task=LETTER), tmp_path / "s.jsonl")
    assert not (tmp_path / REPLIES).exists()


def test_the_newest_reply_counts_and_a_truncated_line_is_skipped(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with Replies(tmp_path / "s.jsonl") as file:
            file.keep(KEY, text)
            file.keep(("b", "all", "other", 0), "x")
    path = tmp_path / REPLIES
    path.write_bytes(path.read_bytes() + b'{"benchmark": "b", "sub')
    with Replies(tmp_path / "s.jsonl") as file:
        file.keep(("b", "all", "q2", 1), "third\u2028line")
    assert [one["text"] for one in kept(tmp_path, KEY, ("b", "all", "q2", 1))] == ["second", "third\u2028line"]


def test_long_replies_are_cut_in_the_middle_and_secrets_are_redacted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "hush-hush-hush")
    with Replies(tmp_path / "s.jsonl") as file:
        file.keep(KEY, "begin hush-hush-hush " + "x" * 9000 + " end \ud800")
    (one,) = kept(tmp_path, KEY)
    assert one["text"].startswith("begin $SOME_API_KEY xxx")
    assert "characters left out" in one["text"]
    assert one["text"].endswith("end ?")
    assert len(one["text"]) < 4100


def test_the_size_of_a_file_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcripts, "_MOST_BYTES", 1000)
    with Replies(tmp_path / "s.jsonl") as file:
        for number in range(100):
            file.keep(("b", "all", f"q{number}", 0), "x" * 100)
    assert (tmp_path / REPLIES).stat().st_size < 1400


def reasoned(job: Job, **changes: Any) -> Job:
    benchmark = replace(job.matrix.benchmarks["mmlu-sample"], task="multiple-choice-cot", **changes)
    return replace(job, matrix=replace(job.matrix, benchmarks={"mmlu-sample": benchmark}))


def test_both_sides_replies_are_evidence(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    world.stacks = {name: lambda *_: chat("ANSWER: B") for name in ("native", "flagos")}
    result = world.evaluate(reasoned(world.job()))
    named = {one.name: one for one in result.evidence}
    for name in ("accuracy/replies.jsonl", "accuracy/baseline.replies.jsonl"):
        lines = world.context().evidence.read(named[name]).splitlines()
        assert {json.loads(line)["text"] for line in lines} == {"ANSWER: B"}
    samples = world.context().evidence.read(named["accuracy/samples.jsonl"]).splitlines()
    assert len(world.context().evidence.read(named["accuracy/replies.jsonl"]).splitlines()) == len(samples)


def test_the_replies_of_a_kept_baseline_are_evidence_of_every_release(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    world.stacks = {name: lambda *_: chat("ANSWER: B") for name in ("native", "flagos")}
    job = reasoned(world.job())
    first = {one.name: one for one in world.evaluate(job).evidence}
    asked = world.endpoints["native"].asked.total()
    again = {one.name: one for one in world.evaluate(job).evidence}
    assert world.endpoints["native"].asked.total() == asked, "the baseline is kept"
    assert again["accuracy/baseline.replies.jsonl"] == first["accuracy/baseline.replies.jsonl"]
    assert len(world.context().evidence.read(again["accuracy/baseline.replies.jsonl"]).splitlines()) == asked


def test_password_protected_data_is_not_quoted(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    world.stacks = {name: lambda *_: chat("The question was … ANSWER: B") for name in ("native", "flagos")}
    with zipfile.ZipFile(tmp_path / "data" / "dataset.zip", "w") as archive:
        archive.write(tmp_path / "data" / "mmlu.jsonl", "mmlu.jsonl")
    write_manifest(tmp_path / "data")
    result = world.evaluate(reasoned(world.job(), data="data://dataset.zip#mmlu.jsonl"))
    assert result.benchmarks[0].n > 0
    assert not [one.name for one in result.evidence if "replies" in one.name]
    assert not [each for each in world.ledger.values() if isinstance(each, dict) and each.get("replies")]
