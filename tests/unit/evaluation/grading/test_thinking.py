"""Thinking is removed from replies of all model families, and a reply that is cut in its thinking has no answer."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagrelease.evaluation.grading.thinking import without_thinking

REPLIES = [
    ("<think>hm</think>\n\nB", "B"),
    ("hm</think>two", "two"),
    ("<think>a</think>b<think>c</think>d", "d"),
    ("<think>still", ""),
    ("plain", "plain"),
    ("analysisMaybe B. ANSWER: B.assistantfinalANSWER: C", "ANSWER: C"),
    ("analysisMaybe B. ANSWER: B.", ""),
    ("<seed:think>Maybe ANSWER: B", ""),
    ("<seed:think>x</seed:think>C", "C"),
    ("[THINK]Maybe ANSWER: B", ""),
    ("[THINK]x[/THINK]C", "C"),
    ("x[/THINK]C", "C"),
    ("<thinking>Maybe ANSWER: B</thinking>\nI cannot tell.", "I cannot tell."),
    ("<reasoning>B</reasoning>\n<answer>C</answer>", "<answer>C</answer>"),
    ("<reasoning>B", ""),
    ("◁think▷B◁/think▷C", "C"),
    ("◁think▷B", ""),
    ("B◁/think▷C", "C"),
    (
        "<|channel|>analysis<|message|>Maybe B<|end|><|start|>assistant<|channel|>final<|message|>ANSWER: C<|return|>",
        "ANSWER: C",
    ),
    ("<|channel|>analysis<|message|>Maybe B", ""),
    ("<|channel|>final<|message|>C", "C"),
    (
        "<|channel|>analysis<|message|>x<|end|><|channel|>commentary to=f <|constrain|>json<|message|>{}",
        "",
    ),
    ("finalANSWER: C", "ANSWER: C"),
    ("<|begin_of_thought|>x<|end_of_thought|>\n<|begin_of_solution|>C", "C"),
    ("<|START_THINKING|>x<|END_THINKING|><|START_RESPONSE|>C<|END_RESPONSE|>", "C"),
    ("<unused94>thought\nx<unused95>C", "C"),
    ("Here is my thought process: B. Here is my response: C", "C"),
    ("Here's my thought process: B.", ""),
    ("ANSWER: B<think>no, C", "ANSWER: B"),
    ("<think>a</think>ANSWER: C</think>", "ANSWER: C"),
    ("<think>a</think>ANSWER: C. The tag `</think>` ends it.", "ANSWER: C. The tag `</think>` ends it."),
    ("<think>a</think><think>b</think>", ""),
    ("<think>a</think>", ""),
    ("<THINK>a</THINK>C", "C"),
    ("< think >a</ think >C", "C"),
    ("ANSWER: C<|im_end|>", "ANSWER: C"),
    ("C<｜end▁of▁sentence｜>", "C"),
    ("C</s>", "C"),
    ("analysis of the data: C", "analysis of the data: C"),
    ("Analysis: B. ANSWER: C", "Analysis: B. ANSWER: C"),
    ("final: C", "final: C"),
    ("<longcat_think>x</longcat_think>C", "C"),
    ("<thought>x</thought>C", "C"),
    ("<|channel>thought\nx<channel|>C", "C"),
    ("I thought </think> was C", "was C"),
    ("analysis We need B. assistant final ANSWER: C", "ANSWER: C"),
    ("<think></think>C", "C"),
    ("<think>\n\n</think>\n\nC", "C"),
]
FAMILIES = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<reasoning>", "</reasoning>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("analysis", "assistantfinal"),
    ("Here is my thought process:", "Here is my response:"),
]
THOUGHT = st.text(alphabet="abAB1 .\n{}", max_size=30).map(lambda text: f"Maybe {text}")


@pytest.mark.parametrize(("text", "left"), REPLIES)
def test_what_is_said_after_thinking_counts(text: str, left: str) -> None:
    assert without_thinking(text) == left


def test_an_unfinished_reply_without_markers_is_thinking() -> None:
    assert without_thinking("still thinking", unfinished=True) == ""
    assert without_thinking("a</think>ANSWER: B", unfinished=True) == "ANSWER: B"


@given(st.sampled_from(FAMILIES), THOUGHT, st.sampled_from(["ANSWER: B", "So \\boxed{7}.", "I do not know"]))
def test_every_family_s_thought_is_removed(markers: tuple[str, str], thought: str, answer: str) -> None:
    opening, closing = markers
    assert without_thinking(f"{opening}{thought}{closing}{answer}") == answer
    assert without_thinking(f"{opening}{thought}") == ""


@given(st.text())
def test_any_text_has_a_part_without_thinking(text: str) -> None:
    assert without_thinking(text) in text


@pytest.mark.parametrize(
    "piece",
    ["<think>", "</think>", "<|channel|>", "<|channel|>analysis<|message|>", "<|a|>", " ", "< ", "assistantfinal"],
)
def test_repeated_markers_take_linear_time(piece: str) -> None:
    start = time.process_time()
    for text in (piece * 20_000, f"analysisMaybe {piece * 20_000}", f"x{piece * 20_000}y"):
        without_thinking(text)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<|channel|>final<|message|>42<|return|>x<|end|>y", "42"),
        ("<|channel|>final<|message|>7<|end|>9<|start|>8", "7"),
        ("<|channel|>final<|message|>5<|start|>assistant", "5"),
        ("<thought>never", ""),
        ("<thought>x</thought>5", "5"),
        ("5 \n<|im_end|> \n<|endoftext|>", "5"),
        ("<|im_end|>", ""),
    ],
)
def test_what_ends_a_message_ends_the_answer(text: str, said: str) -> None:
    assert without_thinking(text) == said
