"""Properties of answer extraction that hold for any text of a model."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagrelease.evaluation.grading.instructions import sentences
from flagrelease.evaluation.grading.integers import integer
from flagrelease.evaluation.grading.letters import letter
from flagrelease.evaluation.grading.tables import fenced, mapping, parse
from flagrelease.evaluation.grading.text import bold, boxed, listed, marked, tagged
from flagrelease.evaluation.grading.thinking import without_thinking

MARKS = [
    "answer",
    "Answer:",
    "ANSWER: ",
    "the answer is",
    "####",
    "<solution>",
    "</solution>",
    "<think>",
    "</think>",
    "**",
]
BRACES = ["\\boxed{", "\\fbox{", "}", "{", "\\{", "\\}", "\\text{", "$", "`"]
WORDS = ["A", "B", "(C)", "D.", "E", "I think", "or", ",", "\n", " ", "Dr. ", "U.S. ", "...", "?!", "ß", "\x00", "|"]
NUMBERS = ["12", "1,234", "-5", ".0", "\u0660", "①"]
PIECES = st.sampled_from(MARKS) | st.sampled_from(BRACES) | st.sampled_from(WORDS) | st.sampled_from(NUMBERS)
TEXTS = st.one_of(st.lists(PIECES, max_size=30).map("".join), st.text(max_size=80))
PROSE = st.lists(st.sampled_from(["we", "see", "that", "it", "follows", "from", "this,", "so.", "\n"]), max_size=20)
LETTERS = st.sampled_from(["ABCD", "ABCDEFGHIJ", "AB"])
CHOSEN = (
    "Answer: {}",
    "ANSWER: ({})",
    "**Answer:** {}",
    "**Answer: {}**",
    "The answer is {}.",
    "The final answer is $\\boxed{{{}}}$.",
    "\\boxed{{\\text{{{}}}}}",
    "The correct option is [{}].",
    "answer: `{}`",
    "Answer:\n\n{}",
    "Answer: {}, because it fits",
)


@given(TEXTS)
def test_any_text_can_be_read(text: str) -> None:
    """Every reader returns an answer or None and never raises; a letter is always one of the choices."""
    assert letter(text, "ABCD") in (None, *"ABCD")
    for read in (boxed, marked, integer, bold, listed, fenced, mapping, sentences):
        read(text)
    tagged(text, "solution")
    for kind in ("csv", "tsv", "json", "jsonl", "html"):
        parse(kind, text)


@given(TEXTS, LETTERS, st.sampled_from(CHOSEN), st.data())
def test_the_last_marked_letter_counts(before: str, choices: str, form: str, data: st.DataObject) -> None:
    """Whatever came before: other marks, other letters, open braces."""
    chosen = data.draw(st.sampled_from(choices))
    # An open brace before a box, or half a mark before a letter, may make one text of both.
    assert letter(f"{before}\n\nSo.\n{form.format(chosen)}", choices) == chosen


@given(PROSE, LETTERS)
def test_prose_is_not_an_answer(words: list[str], choices: str) -> None:
    assert letter(" ".join(words), choices) is None


@given(PROSE, st.sampled_from(["{} or {}", "{}, {}", "({}) and ({})", "{}/{}", "{} & {}."]))
def test_two_letters_are_not_an_answer(words: list[str], form: str) -> None:
    assert letter(f"{' '.join(words)}\nAnswer: {form.format('A', 'C')}", "ABCD") is None


@given(TEXTS, st.sampled_from(["Answer: B", "so \\boxed{7}.", "I do not know", "7"]))
def test_thinking_is_ignored(thought: str, answer: str) -> None:
    for text in (f"<think>{thought}</think>\n\n{answer}", f"{thought}</think>{answer}"):
        said = without_thinking(text)
        assert said == answer
        assert letter(said, "ABCD") == letter(answer, "ABCD")
        assert integer(said) == integer(answer)


@given(st.text(alphabet="ab1\\ {}\n", max_size=20).filter(lambda text: text.replace("</think>", "") == text))
def test_thinking_that_never_ends_leaves_nothing(thought: str) -> None:
    assert without_thinking(f"<think>{thought}") == ""
    assert without_thinking(thought, unfinished=True) == ""


@given(
    TEXTS.filter(lambda text: "\\" not in text and "{" not in text),
    st.integers(-(10**12), 10**12),
    st.sampled_from(
        [
            "{}",
            "{}.0",
            "{}^\\circ",
            "{}\\text{{ apples}}",
            "{} of 23",
            " {} ",
            "n = {}",
            "\\text{{{}}}",
            "${}$",
            "{}\\%",
        ]
    ),
    st.booleans(),
)
def test_a_boxed_number_is_found(before: str, number: int, form: str, thousands: bool) -> None:
    shown = f"{number:,}" if thousands else str(number)
    assert integer(f"{before} \\boxed{{{form.format(shown)}}} and not 17") == number


def nested(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(st.one_of(inner, inner.map(lambda text: "{" + text + "}")), max_size=4).map("".join)


@given(TEXTS, st.recursive(st.sampled_from(["x", "1", "\\{", "\\}", "\\frac", " ", "\n"]), nested, max_leaves=12))
def test_a_box_is_read_back_complete(before: str, content: str) -> None:
    closed = before.replace("\\", "").replace("{", "")
    assert boxed(f"{closed}\\boxed{{{content}}} end") == content.strip()


def boxed_by_counting(text: str) -> str | None:
    """A reference implementation that tries every box, in quadratic time."""
    for start in reversed([found.end() for found in re.finditer(r"\\f?box(?:ed)?\s*\{", text)]):
        depth = 1
        for index in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[index], 0) if text[index - 1] != "\\" else 0
            if depth == 0:
                return text[start:index].strip()
    return None


@given(st.lists(st.sampled_from(["\\boxed{", "\\fbox {", "{", "}", "\\{", "\\}", "x", " "]), max_size=25).map("".join))
def test_boxes_equal_those_of_the_reference_implementation(text: str) -> None:
    assert boxed(text) == boxed_by_counting(text)


def solution(text: str) -> str | None:
    return tagged(text, "solution")


@pytest.mark.parametrize(
    "piece",
    [
        "\\boxed{",
        "\\boxed{1}",
        "{",
        "}",
        "Answer: ",
        "Answer: A or B ",
        "**",
        "A. ",
        "1,",
        "9",
        " \n",
        "####",
        "<solution>",
        "answer ",
        "\n\n",
        "1 234 ",
        "½",
        "答案",
        "\\text{",
        "C is correct ",
    ],
)
def test_a_model_that_repeats_itself_is_read_in_linear_time(piece: str) -> None:
    """32,768 tokens of one piece: the time must not grow quadratically."""
    text = piece * 32_768
    start = time.process_time()
    for read in (
        boxed,
        marked,
        integer,
        bold,
        sentences,
        lambda text: letter(text, "ABCD"),
        without_thinking,
        solution,
    ):
        read(text)
    assert time.process_time() - start < 5


@given(TEXTS)
def test_sentences_are_parts_of_the_text(text: str) -> None:
    parts = sentences(text)
    rest = text
    for part in parts:
        before, found, rest = rest.partition(part)
        assert found
        assert not re.search(r"\w", before)
    assert not re.search(r"\w", rest)
    assert len(parts) <= 1 + len(re.findall(r"[.!?]", text))
