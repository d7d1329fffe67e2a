"""IFEval's instructions, each followed and not followed."""

from __future__ import annotations

from typing import Any

import pytest

from flagrelease.evaluation.grading.instructions import CHECKS, capital_words, followed, sentences
from flagrelease.evaluation.question import Grade, Question, Reply
from flagrelease.evaluation.tasks import TASKS
from support.benchmark_data import real

P = "One.\n\nTwo words here.\n\nThree."

CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("keywords:existence", {"keywords": ["sun", "moon"]}, "The Sun and the moon.", "The sun alone."),
    ("keywords:frequency", {"keyword": "go", "frequency": 2, "relation": "at least"}, "Go, go!", "Go!"),
    ("keywords:frequency", {"keyword": "go", "frequency": 2, "relation": "less than"}, "Go!", "Go, go!"),
    ("keywords:forbidden_words", {"forbidden_words": ["can"]}, "A candle.", "I can."),
    ("keywords:forbidden_words", {"forbidden_words": ["can"]}, "We could.", "We CAN."),
    ("keywords:letter_frequency", {"letter": "a", "let_frequency": 3, "let_relation": "at least"}, "Banana", "Ban"),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, "One. Two!", "One."),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "two words", "three words here"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n***\n***\nb"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "two"},
        P,
        P.replace("Two", "Too"),
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "two"},
        "one\n\n'Two' words",
        "one\n\n",
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": ""},
        "... or so",
        "\n\none",
    ),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "less than"}, "One.", "One. Two!"),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] at [place]", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP.S. More.", "Bye. More."),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye.\nP.P.S More.", "Bye.\nP.S. More."),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye.\np. p. s More.", "Bye.\nPPS More."),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP. S. More.", "Bye.\nPS. More"),
    ("detectable_content:postscript", {"postscript_marker": "NB:"}, "Bye.\nnb: more", "Bye."),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n* b\n* c"),
    ("detectable_format:constrained_response", {}, "My answer is maybe.", "Maybe."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and *b*", "*a* and ** *"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        "SECTION 1\na\nSECTION 2\nb",
        "SECTION 1\na",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "a: 1"),
    ("detectable_format:title", {}, "<<A title>>\ntext", "<< >>\ntext"),
    ("detectable_format:title", {}, "<<<A>>>", "<<<>>>"),
    ("combination:two_responses", {}, "one\n******\ntwo", "one\n******\none"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, "say it. Done.", "Done. Say it."),
    ("startend:end_checker", {"end_phrase": "The end."}, 'And so on. "The end."', "The end. Not."),
    ("startend:quotation", {}, '"all of it"', 'all of "it"'),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "VERY LOUD words",
        "LOUD words",
    ),
    ("punctuation:no_comma", {}, "no comma", "one, comma"),
]
LANGUAGE = [
    (
        "language:response_language",
        {"language": "de"},
        "Das ist ein ganz gewöhnlicher deutscher Satz.",
        "This is an English sentence.",
    ),
    ("change_case:english_lowercase", {}, "this is a perfectly ordinary sentence.", "This is a sentence."),
    ("change_case:english_capital", {}, "THIS IS A PERFECTLY ORDINARY SENTENCE.", "This is a sentence."),
]


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("One. Two! Three?", 3),
        ("Dr. Who lives in the U.K. with J. Smith.", 1),
        ("It is 3.5 m long, i.e. long.", 1),
        ('He said: "No." Then he left.', 2),
        ('"No." he said.', 2),
        ("Wait... what? Yes.", 2),
        ("no end", 1),
        ("* * *", 0),
        ("", 0),
    ],
)
def test_sentences_are_counted(text: str, n: int) -> None:
    assert len(sentences(text)) == n


def test_words_in_capitals_are_counted() -> None:
    assert capital_words("I'm in the U.S. with WELL-MADE a.b, NATO2 and Me") == ["I", "U.S", "WELL-MADE", "NATO2"]


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), CASES)
def test_followed_and_not(name: str, arguments: dict[str, Any], good: str, bad: str) -> None:
    assert followed(name, arguments, good)
    assert not followed(name, arguments, bad)
    assert not followed(name, arguments, "  ")


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), LANGUAGE)
def test_language(name: str, arguments: dict[str, Any], good: str, bad: str) -> None:
    pytest.importorskip("langdetect", reason="langdetect is not installed (flagrelease[eval])")
    assert followed(name, arguments, good)
    assert not followed(name, arguments, bad)


def test_every_instruction_has_a_case() -> None:
    assert {case[0] for case in CASES} | {case[0] for case in LANGUAGE} == set(CHECKS)


def test_one_instruction_not_followed_makes_the_answer_wrong() -> None:
    reference = (("punctuation:no_comma", {}), ("detectable_format:title", {}))
    question = Question(subset="all", id="1", messages=(), reference=reference)

    def grade(text: str) -> Grade:
        return TASKS["ifeval"].grade(question, Reply(text=text, finish_reason="stop", completion_tokens=1))

    assert grade("<<a>> b") == Grade(True, "2 of 2 instructions")
    assert grade("<<a>> b, c") == Grade(False, "1 of 2 instructions")


def test_the_real_prompts_are_541_and_every_argument_fits() -> None:
    questions = TASKS["ifeval"].read(real("ifeval"), 0)
    assert len(questions) == 541
    for question in questions:
        for name, arguments in question.reference:
            if not name.startswith(("language:", "change_case:english")):
                followed(name, arguments, "Some words, <<and>> a [thing].\n\nP.S. * more")
