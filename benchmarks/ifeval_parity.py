"""Our IFEval checkers beside those of if-verifiable (the authors' code), verdict by verdict.

Answers are made up so that about half of the instructions are followed. Needs if-verifiable and langdetect:

    pip install if-verifiable==0.1.2
    PYTHONPATH=pipeline python benchmarks/ifeval_parity.py DATA/ifeval/input_data.jsonl
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flagrelease.evaluation.instructions import followed

ANSWERS = 6


def nth_paragraph(given: dict[str, Any]) -> str:
    words = ["other"] * given["num_paragraphs"]
    words[given["nth_paragraph"] - 1] = given["first_word"]
    return "\n\n".join(f"{word} text" for word in words)


def sections(given: dict[str, Any]) -> str:
    return "\n".join(f"{given['section_spliter']} {number + 1}\nx" for number in range(given["num_sections"]))


# The text so far, turned into one that follows the instruction.
OBEY: dict[str, Callable[[str, dict[str, Any]], str]] = {
    "existence": lambda text, given: " ".join([text, *given["keywords"]]),
    "postscript": lambda text, given: f"{text}\n{given['postscript_marker']} more",
    "end_checker": lambda text, given: f"{text} {given['end_phrase']}",
    "number_bullet_lists": lambda text, given: text + "\n* x" * given["num_bullets"],
    "number_highlighted_sections": lambda text, given: text + " *hi* **yo**" * given["num_highlights"],
    "number_paragraphs": lambda text, given: "\n***\n".join([text] * given["num_paragraphs"]),
    "nth_paragraph_first_word": lambda _text, given: nth_paragraph(given),
    "repeat_prompt": lambda text, given: f"{given['prompt_to_repeat']} {text}",
    "title": lambda text, _given: f"{text} <<t>>",
    "two_responses": lambda text, _given: f"{text}\n******\n{text} again",
    "json_format": lambda _text, _given: '```json\n{"a": [1, 2]}\n```',
    "quotation": lambda text, _given: f'"{text}"',
    "multiple_sections": lambda text, given: f"{text} {sections(given)}",
    "constrained_response": lambda _text, _given: "My answer is no.",
    "english_lowercase": lambda text, _given: text.lower(),
    "english_capital": lambda text, _given: text.upper(),
    "no_comma": lambda text, _given: text.replace(",", ""),
    "number_placeholders": lambda text, given: text + " [a]" * given["num_placeholders"],
}


def made_up(row: dict[str, Any], texts: list[str], rng: random.Random) -> str:
    """A text that follows each instruction of the row more often than not."""
    text = rng.choice(texts)
    for name, given in zip(row["instruction_id_list"], row["kwargs"], strict=True):
        if rng.random() < 0.6:
            text = OBEY.get(name.partition(":")[2], lambda same, _given: same)(text, given)
    return text


def main(path: Path) -> int:
    from if_verifiable import IFEvalSample, evaluate_output_for_sample  # type: ignore[import-not-found]

    rows = [json.loads(line) for line in path.read_text().splitlines()]
    texts = [row["prompt"] for row in rows]
    rng = random.Random(1)
    compared, kept, differ, lacking = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for row in rows * ANSWERS:
        text = made_up(row, texts, rng)
        for name, given in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            one = IFEvalSample(key=row["key"], prompt=row["prompt"], instruction_id_list=[name], kwargs=[given])
            try:
                (theirs,), _ = evaluate_output_for_sample("ifeval", one, text)
            except LookupError:  # NLTK's tokenizer data is not here
                lacking[name] += 1
                continue
            compared[name] += 1
            kept[name] += theirs.strict_pass
            if theirs.strict_pass != followed(name, given, text):
                differ[name] += 1
    for name in sorted(compared):
        print(f"{name:45} {compared[name]:5} compared {kept[name]:5} followed {differ[name]:3} differ")
    print(f"{'all':45} {compared.total():5} compared {kept.total():5} followed {differ.total():3} differ")
    print(f"not compared, NLTK's data is missing: {dict(lacking)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
