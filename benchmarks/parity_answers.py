"""Answers in the many forms that models use, right and wrong, for the endpoint of evalscope_parity.py. No I/O.

Every form is a function of the answer that it gives (`x`) and of another answer, as a distractor (`y`).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ifeval_parity import made_up

from flagrelease.evaluation.question import Question

__all__ = ["Said", "answered", "instructed", "scored"]

Form = Callable[[str, str], "Said"]


@dataclass(frozen=True)
class Said:
    """A message of the endpoint."""

    text: str | None
    """Its content."""
    finish: str = "stop"
    """Its finish_reason."""
    reasoning: str | None = None
    """Its reasoning_content."""
    form: str = ""
    """Name of the form."""
    top: tuple[str, ...] = ()
    """The likeliest first tokens, in order, for requests of log-probabilities."""


CHOICE: Mapping[str, Form] = {
    "ANSWER: X": lambda x, _y: Said(f"Let me think.\n\nANSWER: {x}"),
    "Answer: X": lambda x, _y: Said(f"Thinking.\nAnswer: {x}"),
    "ANSWER: X.": lambda x, _y: Said(f"ANSWER: {x}."),
    "ANSWER: (X)": lambda x, _y: Said(f"ANSWER: ({x})"),
    "ANSWER: [X]": lambda x, _y: Said(f"ANSWER: [{x}]"),
    "ANSWER: `X`": lambda x, _y: Said(f"ANSWER: `{x}`"),
    "ANSWER: $X$": lambda x, _y: Said(f"ANSWER: ${x}$"),
    "**Answer: X**": lambda x, _y: Said(f"**Answer: {x}**"),
    "**Answer:** X": lambda x, _y: Said(f"**Answer:** {x}"),
    "ANSWER: X) text": lambda x, _y: Said(f"ANSWER: {x}) the one that fits"),
    "Answer: X because": lambda x, _y: Said(f"Answer: {x} because it fits"),
    "ANSWER: X, not Y": lambda x, y: Said(f"ANSWER: {x}, not {y}"),
    "ANSWER: X or Y": lambda x, y: Said(f"ANSWER: {x} or {y}"),
    "Y?, then ANSWER: X": lambda x, y: Said(f"It might be {y}.\nANSWER: {x}"),
    "ANSWER: Y, then ANSWER: X": lambda x, y: Said(f"ANSWER: {y}\n\nWait, that is wrong.\n\nANSWER: {x}"),
    "boxed Y, then ANSWER: X": lambda x, y: Said(f"It seems \\boxed{{{y}}}. No:\nANSWER: {x}"),
    "ANSWER: X, then the form": lambda x, _y: Said(f"ANSWER: {x}\n\n(As asked: `ANSWER: LETTER`.)"),
    "boxed": lambda x, _y: Said(f"\\boxed{{{x}}}"),
    "boxed text, marked": lambda x, _y: Said(f"The final answer is $\\boxed{{\\text{{{x}}}}}$."),
    "The answer is (X).": lambda x, _y: Said(f"The answer is ({x})."),
    "The correct option is X.": lambda x, _y: Said(f"The correct option is {x}."),
    "bare X": lambda x, _y: Said(x),
    "**X**": lambda x, _y: Said(f"**{x}**"),
    "(X)": lambda x, _y: Said(f"({x})"),
    "lower case, marked": lambda x, _y: Said(f"answer: {x.lower()}"),
    "lower case, bare": lambda x, _y: Said(x.lower()),
    "prose": lambda x, _y: Said(f"So {x} seems to fit best, as far as one can tell."),
    "none": lambda _x, _y: Said("That cannot be told from what is given."),
    "I cannot tell": lambda _x, _y: Said("I cannot tell."),
    "empty": lambda _x, _y: Said(""),
    "cut": lambda _x, y: Said(f"Each option has to be looked at. {y} says that", "length"),
    "think, then ANSWER: X": lambda x, y: Said(f"<think>So ANSWER: {y}</think>\n\nANSWER: {x}"),
    "think opened in the prompt": lambda x, y: Said(f"So ANSWER: {y}\n</think>\n\nANSWER: {x}"),
    "think, then nothing": lambda _x, y: Said(f"<think>So ANSWER: {y}</think>\n\n"),
    "think, cut": lambda x, _y: Said(f"<think>It looks like ANSWER: {x}", "length"),
    "reasoning_content": lambda x, y: Said(f"ANSWER: {x}", reasoning=f"So ANSWER: {y}"),
    "reasoning_content, cut": lambda x, _y: Said(None, "length", f"So ANSWER: {x}"),
}

NUMBER: Mapping[str, Form] = {
    "boxed": lambda x, _y: Said(f"So \\boxed{{{x}}}"),
    "boxed, marked": lambda x, _y: Said(f"The final answer is $\\boxed{{{x}}}$."),
    "boxed Y, then X": lambda x, y: Said(f"\\boxed{{{y}}} but in fact \\boxed{{{x}}}"),
    "boxed, then numbers": lambda x, y: Said(f"We get \\boxed{{{x}}}, in 3 steps and not {y}."),
    "boxed equation": lambda x, _y: Said(f"\\boxed{{n = {x}}}"),
    "**Answer:** X": lambda x, _y: Said(f"**Answer:** {x}"),
    "ANSWER: X": lambda x, _y: Said(f"ANSWER: {x}"),
    "The answer is X.": lambda x, _y: Said(f"The answer is {x}."),
    "bare X": lambda x, _y: Said(x),
    "we get X": lambda x, _y: Said(f"we get {x}"),
    "none": lambda _x, _y: Said("That cannot be told."),
    "empty": lambda _x, _y: Said(""),
    "cut": lambda _x, y: Said(f"First, we see that {y} plus", "length"),
    "think, then boxed": lambda x, y: Said(f"<think>So \\boxed{{{y}}}</think>\n\n\\boxed{{{x}}}"),
    "think opened in the prompt": lambda x, y: Said(f"So \\boxed{{{y}}}\n</think>\n\n\\boxed{{{x}}}"),
    "think, cut": lambda x, _y: Said(f"<think>It looks like \\boxed{{{x}}}", "length"),
    "reasoning_content": lambda x, y: Said(f"\\boxed{{{x}}}", reasoning=f"So \\boxed{{{y}}}"),
    "reasoning_content, cut": lambda x, _y: Said(None, "length", f"So \\boxed{{{x}}}"),
}

INTEGER: Mapping[str, Form] = {
    **NUMBER,
    "boxed, thousands": lambda x, _y: Said(f"\\boxed{{{int(x):,}}}"),
    "boxed, X.0": lambda x, _y: Said(f"\\boxed{{{x}.0}}"),
    "boxed with unit": lambda x, _y: Said(f"\\boxed{{{x}\\text{{ apples}}}}"),
    "boxed degrees": lambda x, _y: Said(f"\\boxed{{{x}^\\circ}}"),
    "#### X": lambda x, _y: Said(f"So it is\n#### {x}"),
}

MATH: Mapping[str, Form] = {
    **NUMBER,
    "boxed, \\dfrac": lambda x, _y: Said(f"\\boxed{{{x.replace(chr(92) + 'frac', chr(92) + 'dfrac')}}}"),
    "ANSWER: $X$": lambda x, _y: Said(f"ANSWER: ${x}$"),
    "The answer is $X$.": lambda x, _y: Said(f"The answer is ${x}$."),
    "so \\[ X \\]": lambda x, _y: Said(f"so\n\\[ {x} \\]"),
}

SCORED: Mapping[str, Form] = {
    "X likeliest": lambda x, y: Said(x, top=(x, y)),
    " X likeliest": lambda x, y: Said(f" {x}", top=(f" {x}", y)),
    "The, then X": lambda x, y: Said(f"The answer is {x}.", top=("The", x, y)),
    "(, then X": lambda x, y: Said(f"({x})", top=("(", x, y)),
    "no letter": lambda _x, _y: Said("That cannot be told.", top=("That", "Well", "Hm")),
}


def _given(forms: Mapping[str, Form], prompt: str, right: str, wrong: str) -> Said:
    """A form chosen by the prompt's digest, with the right answer in three of four cases."""
    number = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big")
    form = list(forms)[number % len(forms)]
    said = forms[form](right, wrong) if number // len(forms) % 4 else forms[form](wrong, right)
    return replace(said, form=form)


def answered(task: str, question: Question) -> Said:
    """The answer to a question of the tasks multiple-choice, multiple-choice-cot, integer or math."""
    prompt = question.messages[-1]["content"]
    if task.startswith("multiple-choice"):
        letters, right = question.reference
        wrong = letters[(letters.index(right) + 1) % len(letters)]
        return _given(SCORED if task == "multiple-choice" else CHOICE, prompt, right, wrong)
    right = str(question.reference)
    if task == "integer":
        return _given(INTEGER, prompt, right, str(int(right) + 1))
    return _given(MATH, prompt, right, "q_{77}")


def instructed(question: Question, texts: list[str]) -> Said:
    """A text that follows about half of an IFEval prompt's instructions; one in five has a thinking part."""
    prompt = question.messages[-1]["content"]
    rng = random.Random(prompt)
    names, given = zip(*question.reference, strict=True)
    text = made_up({"instruction_id_list": names, "kwargs": given}, texts, rng)
    if rng.random() < 0.2:
        return Said(f"<think>{rng.choice(texts)}</think>\n\n{text}", form="think")
    return Said(text, form="plain")


def scored(said: Said) -> list[dict[str, object]]:
    """`top` as the top_logprobs of a first token."""
    return [{"token": token, "logprob": -0.5 - index} for index, token in enumerate(said.top)]
