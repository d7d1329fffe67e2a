import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagrelease.errors import Busy, ComparisonRefused
from flagrelease.verdict.samples import (
    Conditions,
    Sample,
    SampleWriter,
    dump,
    read_conditions,
    read_samples,
    write_samples,
)
from support.answer_sets import answers, sample

texts = st.text(st.characters(codec="utf-8"), max_size=20)
samples = st.builds(
    Sample,
    benchmark=texts.filter(bool),
    subset=texts,
    question_id=texts.filter(bool),
    prompt_sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    repeat=st.integers(0, 1000),
    correct=st.booleans() | st.floats(0, 1),
    answer=st.none() | texts,
    finish_reason=st.none() | texts,
    completion_tokens=st.none() | st.integers(0, 10**6),
    latency_s=st.none() | st.floats(0, 1e6),
    error=st.none(),
)


@given(samples)
def test_a_sample_survives_its_line(one: Sample) -> None:
    line = dump(one)
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert Sample(**json.loads(line)) == one


def test_a_file_survives(tmp_path: Path) -> None:
    written = answers([[True, False], [0.25, 1.0]])
    odd = sample(
        "Zeilen\u2028trenner", answer='ä\n\u2029"b', finish_reason=None, completion_tokens=None, latency_s=None
    )
    write_samples(tmp_path / "samples.jsonl", [*written, odd])
    assert read_samples(tmp_path / "samples.jsonl") == [*written, odd]
    with pytest.raises(FileExistsError):
        write_samples(tmp_path / "samples.jsonl", written)


def _spoilt(**fields: object) -> str:
    record = json.loads(dump(sample("q1")))
    for name, value in fields.items():
        if value is ...:
            del record[name]
        else:
            record[name] = value
    return json.dumps(record) + "\n"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (_spoilt(correct=float("nan")), "malformed"),
        (_spoilt(latency_s=float("inf")), "malformed"),
        (_spoilt(correct=2), "<= 1"),
        (_spoilt(correct=None), "correct"),
        (_spoilt(correct="true"), "correct"),
        (_spoilt(repeat=-1), ">= 0"),
        (_spoilt(repeat=0.5), "repeat"),
        (_spoilt(repeat=...), "repeat"),
        (_spoilt(question_id=""), "question_id"),
        (_spoilt(question_id=7), "question_id"),
        (_spoilt(prompt_sha256="abc"), "prompt_sha256"),
        (_spoilt(prompt_sha256="Z" * 64), "hexadecimal"),
        (_spoilt(error="timeout", correct=True), "failed with"),
        (_spoilt(latency=1.0), "unknown field"),
        (_spoilt()[:-20] + "\n", "truncated"),
        (_spoilt().strip() * 2 + "\n", "trailing"),
        ("\n", "truncated"),
        ("[]\n", "object"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(dump(sample("q0")) + line, encoding="utf-8")
    with pytest.raises(ComparisonRefused) as refused:
        read_samples(path)
    assert str(refused.value).startswith(f"{path}:2: ")
    assert why in refused.value.why


def test_a_cut_file_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    whole = "".join(map(dump, answers([[True], [False], [True]])))
    path.write_text(whole[:-1], encoding="utf-8")
    with pytest.raises(ComparisonRefused, match=r"samples\.jsonl:3: the last line is truncated"):
        read_samples(path)


def test_an_answer_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(dump(sample("q0")) + dump(sample("q1")) + dump(sample("q0", correct=False)), encoding="utf-8")
    with pytest.raises(ComparisonRefused, match="3: duplicate answer"):
        read_samples(path)


def test_bytes_that_are_no_text_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    with pytest.raises(ComparisonRefused, match="cannot be read"):
        read_samples(path)
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(ComparisonRefused, match="not UTF-8"):
        read_samples(path)


def test_a_bad_sample_is_not_written(tmp_path: Path) -> None:
    with SampleWriter(tmp_path / "samples.jsonl") as writer, pytest.raises(ValueError, match="JSON compliant"):
        writer.write(sample(correct=float("nan")))
    with SampleWriter(tmp_path / "samples.jsonl") as writer, pytest.raises(ValueError, match="repeat"):
        writer.write(dataclasses.replace(sample(), repeat=-1))
    assert read_samples(tmp_path / "samples.jsonl") == []


def test_the_writer_takes_up_a_cut_file_and_answers_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "samples.jsonl"
    first, second = answers([[True], [False]])
    with SampleWriter(path) as writer:
        writer.write(first)
        writer.write(second)
    path.write_bytes(path.read_bytes()[:-30])
    with SampleWriter(path) as writer:
        assert writer.samples == [first]
        assert writer.done == {first.key}
        with pytest.raises(ValueError, match="duplicate answer"):
            writer.write(first)
        writer.write(second)
    assert read_samples(path) == [first, second]


def test_a_file_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    with SampleWriter(path), pytest.raises(Busy, match="another evaluation"):
        SampleWriter(path)
    SampleWriter(path).close()


def test_a_killed_writer_loses_no_answer_that_it_said_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    script = textwrap.dedent("""
        import sys, itertools
        from pathlib import Path
        from support.answer_sets import sample
        from flagrelease.verdict.samples import SampleWriter
        with SampleWriter(Path(sys.argv[1])) as writer:
            for number in itertools.count():
                writer.write(sample(f"q{number}"))
                print(number, flush=True)
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert process.stdout is not None
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and int(process.stdout.readline()) < 200:
        pass
    process.send_signal(signal.SIGKILL)
    said = [int(line) for line in process.stdout.read().splitlines() if line.isdigit()]
    process.stdout.close()
    process.wait()
    with SampleWriter(path) as writer:
        assert len(writer.done) > max(said, default=200)


def test_conditions_survive_and_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "conditions.json"
    assert read_conditions(path) is None
    conditions = Conditions(model="qwen3-8b@1a2b", data={"mmlu": "ab" * 32}, sampling={"mmlu": {"temperature": 0.6}})
    path.write_text(conditions.dump(), encoding="utf-8")
    assert read_conditions(path) == conditions
    path.write_text('{"model": 1}', encoding="utf-8")
    with pytest.raises(ComparisonRefused, match="damaged"):
        read_conditions(path)


def test_the_cluster_is_the_story_of_a_question() -> None:
    assert sample("story-3#1").cluster == sample("story-3#2").cluster != sample("story-4#1").cluster
    assert sample("q1").cluster != sample("q2").cluster
