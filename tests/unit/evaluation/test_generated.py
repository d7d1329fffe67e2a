"""Questions drawn by a seed, and the task that asks them."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from flagrelease.config import matrix
from flagrelease.config.lockfile import Lock
from flagrelease.config.matrix import Benchmark, Share
from flagrelease.config.sources import Generated, check_data
from flagrelease.errors import ConfigError
from flagrelease.evaluation.datasets import DataFile, DataSet, digest_of, is_fetched, load
from flagrelease.evaluation.generated import generate, short_tasks
from flagrelease.evaluation.question import Question, Reply
from flagrelease.evaluation.spec import build_spec
from flagrelease.evaluation.tasks import TASKS, task_named
from support import finished_cell as given

MATRICES = [given.TEMPLATES.parent / "matrix.yaml", given.TEMPLATES / "matrix.yaml"]


def benchmark(data: str, **changes: object) -> Benchmark:
    return Benchmark(title="Short", task="exact", data=data, license="Apache-2.0", **changes)  # type: ignore[arg-type]


def loaded(data: str) -> DataSet:
    return load("short", benchmark(data), Lock(), None, lambda _locked: pytest.fail("nothing is fetched"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("generated://short-tasks", "write generated://NAME"),
        ("generated://short-tasks?seed=-1&questions=5", "write generated://NAME"),
        ("generated://short-tasks?seed=1&questions=0", "write generated://NAME"),
        ("generate://short-tasks?seed=1&questions=5", "did you mean 'generated'?"),
    ],
)
def test_a_malformed_source_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_data(text)
    assert words in str(caught.value.hint)


def test_an_unknown_generator_is_refused() -> None:
    data = "generated://short-task?seed=1&questions=5"
    check_data(data)
    with pytest.raises(ConfigError, match="unknown generator 'short-task'") as caught:
        loaded(data)
    assert "short-tasks" in caught.value.hint
    assert digest_of("short", benchmark(data), Lock(), None) == "absent"


def test_the_digest_is_that_of_the_rows_and_needs_no_lock() -> None:
    one, two = (f"generated://short-tasks?seed={seed}&questions=5" for seed in (1, 2))
    assert digest_of("short", benchmark(one), Lock(), None) == loaded(one).digest == loaded(one).digest
    assert loaded(one).digest != loaded(two).digest
    assert not is_fetched(benchmark(one))


def test_the_draw_never_changes() -> None:
    """Another draw would be another benchmark, and invalidate all baselines."""
    source = Generated(name="short-tasks", seed=20261128, questions=5)
    asked = [json.loads(line)["question"] for line in generate("short", source).decode().splitlines()]
    assert asked == [
        "Count from 58 to 63.",
        "Write a comma between the words: queen letter pencil candle",
        "What is the last word of this list? engine, flower, needle, ticket, window",
        "What is 43 + 3?",
        "Write Grace instead of Laura: Laura lost the window in the garden.",
    ]


def test_more_questions_begin_with_the_same_ones() -> None:
    few, many = (generate("short", Generated(name="short-tasks", seed=3, questions=number)) for number in (10, 5000))
    assert many.startswith(few)
    rows = many.decode().splitlines()
    assert len(set(rows)) == len(rows) == 5000


def answer(kind: str, question: str) -> str:
    """The right answer, found in another way than the generator's."""
    words = question.partition(": ")[2].split()
    numbers = [int(number) for number in re.findall(r"\d+", question)]
    match kind:
        case "count":
            return ", ".join(str(number) for number in range(numbers[0], numbers[1] + 1))
        case "commas":
            return ", ".join(words)
        case "last_word":
            return f"The last word of the list is {question.rpartition(', ')[2]}."
        case "sum":
            return f"{numbers[0]} + {numbers[1]} = {sum(numbers)}"
        case "rename":
            new, _instead, _of, old = question.removeprefix("Write ").partition(":")[0].split()
            assert words[0] == old
            return " ".join([new, *words[1:]])
    raise AssertionError(kind)


def test_the_answers_are_right_and_no_example_gives_one_away() -> None:
    kinds: Counter[str] = Counter()
    for row in islice(short_tasks.rows(7), 600):
        kinds[row["subset"]] += 1
        assert row["answer"] == answer(row["subset"], row["question"])
        assert len({row["question"], *(example["question"] for example in row["examples"])}) == 3
        for example in row["examples"]:
            assert example["answer"] == answer(row["subset"], example["question"])
    assert set(kinds.values()) == {600 // len(short_tasks.KINDS)}


@pytest.mark.parametrize("path", MATRICES, ids=["matrix", "template"])
def test_the_cpu_cell_asks_it_with_its_examples_as_turns(path: Path) -> None:
    read = matrix.load(path)
    (name,) = read.profiles["embedded"].benchmarks
    stanza = read.benchmarks[name]
    data = load(name, stanza, Lock(), None, lambda _locked: pytest.fail("nothing is fetched"))
    task = task_named(stanza.task, name)
    spec = build_spec(name, stanza, task, read.profiles["embedded"].benchmarks[name], data, given.job().cell.model)
    assert (spec.chance, spec.partial(len(spec.questions))) == (0.0, "")
    assert spec.metric(1) == "ShortTasks_1fewshot_@avg1"
    assert spec.evaluation.parameters["max_tokens"] == TASKS["exact"].longest == 48
    for question in spec.questions:
        assert [message["role"] for message in question.messages] == ["user", "assistant", "user"]
        assert len(question.reference.split()) <= 12
        assert all(question.reference not in message["content"] for message in question.messages[-1:])


def question(reference: str) -> Question:
    return Question(subset="all", id="1", messages=({"role": "user", "content": "?"},), reference=reference)


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("3, 4, 5", True),
        (" 3,  4, 5.\n", True),
        ('"3, 4, 5"', True),
        ("3, 4, 5,", True),
        ("3 4 5", False),
        ("3, 4, 5, 6", False),
        ("Sure! 3, 4, 5", False),
        ("", False),
    ],
)
def test_a_reply_is_right_if_it_equals_the_answer_as_plain_text(said: str, right: bool) -> None:
    reply = Reply(text=said, finish_reason="stop", completion_tokens=1)
    assert TASKS["exact"].grade(question("3, 4, 5"), reply).correct is right


def rows(tmp_path: Path, *rows: object) -> DataSet:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataSet(benchmark="own", digest="0" * 64, files=(DataFile(name="own.jsonl", path=path),))


def test_rows_of_a_users_own_file_are_read(tmp_path: Path) -> None:
    example = {"question": "Up?", "answer": "down"}
    data = rows(tmp_path, {"question": "Hot?", "answer": "cold"}, {**example, "subset": "s", "examples": [example]})
    first, second = TASKS["exact"].read(data, 0)
    assert (first.subset, first.reference, len(first.messages)) == ("all", "cold", 1)
    assert (second.subset, second.reference, len(second.messages)) == ("s", "down", 1)
    with pytest.raises(ConfigError, match=r"own.jsonl, row 1") as caught:
        TASKS["exact"].read(data, 1)
    assert "0 examples, 1 shots" in str(caught.value.why)


@pytest.mark.parametrize(
    "row", [{"question": "Hot?"}, {"question": " ", "answer": "x"}, {"question": "?", "answer": "."}]
)
def test_a_row_without_a_question_or_an_answer_is_named(tmp_path: Path, row: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"own.jsonl, row 2: not a question with an answer"):
        TASKS["exact"].read(rows(tmp_path, {"question": "Hot?", "answer": "cold"}, row), 0)


def test_a_model_that_thinks_is_not_cut_off_at_the_longest_answer() -> None:
    model = given.job().cell.model
    thinking = build_spec(
        "short",
        benchmark("generated://short-tasks?seed=1&questions=5"),
        TASKS["exact"],
        Share(),
        loaded("generated://short-tasks?seed=1&questions=5"),
        replace(model, sampling=replace(model.sampling, thinking=True)),
    )
    assert thinking.evaluation.parameters["max_tokens"] == model.sampling.max_tokens > 48
