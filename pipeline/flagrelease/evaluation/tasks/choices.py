"""Multiple-choice tasks: MMLU, MMLU-Pro, GPQA, ARC, MuSR, in the layouts that their authors and hubs use."""

from __future__ import annotations

import ast
import hashlib
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from flagrelease.errors import ConfigError
from flagrelease.evaluation.datasets import DataFile, DataSet, Row
from flagrelease.evaluation.grading.letters import letter
from flagrelease.evaluation.question import Grade, Message, Question, Reply, Task, stable_id

__all__ = ["LETTER", "REASONED", "REASONED_PROMPT", "Choice", "read_choices"]

REASONED_PROMPT = (
    "Answer the following multiple choice question. Think step by step. The last line of your answer has to be of the "
    "form `ANSWER: LETTER`, where LETTER is one of {letters}.\n\n{question}\n\n{choices}"
)
"""Letters as `A,B,C`, choices as lines `A) …`: equal to what evalscope renders, so that both ask the same."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_OPTION = re.compile(r"^([A-Z])[.)] ?", re.MULTILINE)
_EXAMPLES = ("dev", "val", "validation", "train")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One question, independent of the layout of its row."""

    subset: str
    """The subject or set, `all` where there is only one."""
    id: str
    """The row's id, else derived from its text."""
    text: str
    """The question without its options."""
    options: tuple[str, ...]
    """The texts of the options, in the order asked."""
    right: int
    """The index of the right option."""

    @property
    def letters(self) -> str:
        return LETTERS[: len(self.options)]

    def lines(self, mark: str) -> str:
        return "\n".join(f"{name}{mark} {option}" for name, option in zip(self.letters, self.options, strict=True))


def read_choices(file: DataFile) -> Iterator[Choice]:
    """All questions of a file. Raises ConfigError naming the first invalid row."""
    for number, row in enumerate(file.rows(), start=1):
        try:
            choices = [_checked(choice) for choice in _layout(row)(row, _subset(file))]
        except (KeyError, ValueError, TypeError, IndexError, SyntaxError) as error:
            raise ConfigError(
                f"{file.name}, row {number}: not a multiple-choice question",
                why=f"{type(error).__name__}: {error}",
                hint="docs/evaluation.md lists the layouts that are read",
            ) from None
        yield from choices


def _checked(choice: Choice) -> Choice:
    if not (2 <= len(choice.options) <= len(LETTERS)):
        raise ValueError(f"{len(choice.options)} choices")
    if not 0 <= choice.right < len(choice.options):
        raise ValueError(f"the right answer is number {choice.right} of {len(choice.options)}")
    if not choice.text.strip():
        raise ValueError("the question is empty")
    return choice


def _subset(file: DataFile) -> str:
    """`test/anatomy_test.csv` is anatomy, `small_murder_mystery.json` murder_mystery, `test.jsonl` nothing."""
    stem = PurePosixPath(file.member or file.name).stem.lower()
    parts = re.split(r"[-_]", re.sub(r"-\d+-of-\d+", "", stem))
    return "_".join(part for part in parts if part not in (*_EXAMPLES, "test", "small")) or "all"


def _layout(row: Row) -> Callable[[Row, str], Iterable[Choice]]:
    if "Correct Answer" in row:
        return _gpqa
    if "context" in row and "questions" in row:
        return _musr
    if "narrative" in row:
        return _musr_hub
    if "choice0" in row:
        return _mmlu_csv
    if "answerKey" in row:
        return _arc
    return _plain


def _plain(row: Row, subset: str) -> Iterator[Choice]:
    """Columns `question`; `options` or `choices`, a list or a text with a line `A. …` for each; `answer`, the index,
    letter or text of the right one."""
    options = _options(row["options"] if "options" in row else row["choices"])
    # MMLU-Pro has both, which disagree on one question; its authors' program uses the letter.
    answer = row["answer"] if row.get("answer") is not None else row["answer_index"]
    subject = str(row.get("category") or row.get("subject") or subset)
    yield Choice(
        subset=subject.replace(" ", "_"),
        id=str(row.get("question_id") or row.get("id") or stable_id(row["question"], *options)),
        text=row["question"],
        options=options,
        right=_right(answer, options),
    )


def _options(given: Any) -> tuple[str, ...]:
    if isinstance(given, str) and given.lstrip().startswith("["):
        given = ast.literal_eval(given)
    if isinstance(given, str):
        # A choice may contain a line that starts with a letter: only A, B, C … in order start a choice.
        starts: list[re.Match[str]] = []
        for match in _OPTION.finditer(given):
            if match[1] == LETTERS[len(starts)]:
                starts.append(match)
        ends = [match.start() for match in starts[1:]] + [len(given)]
        return tuple(given[match.end() : end].strip() for match, end in zip(starts, ends, strict=True))
    return tuple(str(option) for option in given)


def _right(answer: Any, options: Sequence[str]) -> int:
    if type(answer) is int:
        return answer
    text = str(answer).strip()
    if text.isdigit() and text not in options:
        return int(text)
    if re.fullmatch(r"[A-Z]", text):
        return LETTERS.index(text)
    if text in options:
        return options.index(text)
    match = _OPTION.match(text)
    if match is None:
        raise ValueError(f"answer {text[:40]!r} is not one of the choices")
    return LETTERS.index(match[1])


def _mmlu_csv(row: Row, subset: str) -> Iterator[Choice]:
    options = tuple(row[f"choice{index}"] for index in range(4))
    question_id = stable_id(row["question"], *options)
    yield Choice(subset=subset, id=question_id, text=row["question"], options=options, right=int(row["answer"]))


def _arc(row: Row, _subset: str) -> Iterator[Choice]:
    choices = row["choices"]
    # A few have the labels 1 to 4; all are asked as A to D.
    right = list(choices["label"]).index(row["answerKey"])
    yield Choice(subset="all", id=str(row["id"]), text=row["question"], options=tuple(choices["text"]), right=right)


def _gpqa(row: Row, subset: str) -> Iterator[Choice]:
    """Shuffle the choices by a hash of the question's text, as evalscope does: the order is the same for both sides
    and both harnesses, and no letter is favoured."""
    options = [row[f"Incorrect Answer {index}"].strip() for index in (1, 2, 3)] + [row["Correct Answer"].strip()]
    text = row["Question"]
    order = [0, 1, 2, 3]
    seed = hashlib.sha256(text.strip().encode()).digest()[:8]
    random.Random(int.from_bytes(seed, "big")).shuffle(order)
    shuffled = tuple(options[index] for index in order)
    name = str(row.get("Record ID") or stable_id(text, *options))
    yield Choice(subset=subset, id=name, text=text, options=shuffled, right=order.index(3))


def _musr(row: Row, subset: str) -> Iterator[Choice]:
    """Questions that share a story have it in their id, so that their errors are not treated as independent."""
    questions = ast.literal_eval(row["questions"]) if isinstance(row["questions"], str) else row["questions"]
    story = stable_id(row["context"])
    for number, each in enumerate(questions):
        yield Choice(
            subset=subset,
            id=f"{story}#{number}",
            text=f"{row['context']}\n\n{each['question']}",
            options=tuple(each["choices"]),
            right=int(each["answer"]),
        )


def _musr_hub(row: Row, subset: str) -> Iterator[Choice]:
    options = _options(row["choices"])
    yield Choice(
        subset=subset,
        id=f"{stable_id(row['narrative'])}#{stable_id(row['question'], *options)}",
        text=f"{row['narrative']}\n\n{row['question']}",
        options=options,
        right=int(row["answer_index"]),
    )


def _is_example(file: DataFile) -> bool:
    """`dev/anatomy_dev.csv`, `validation-00000-of-00001.parquet`, `all_dev.jsonl`."""
    return any(word in re.split(r"[/_.-]", file.name.lower()) for word in _EXAMPLES)


def _read(data: DataSet, shots: int, ask: Callable[[Choice, Sequence[Choice]], str]) -> list[Question]:
    asked, pool = _split(data, shots)
    questions: list[Question] = []
    seen: dict[tuple[str, str], int] = defaultdict(int)
    for choice in asked:
        examples = pool[choice.subset][:shots]
        if len(examples) < shots:
            raise ConfigError(
                f"benchmark {data.benchmark}: {choice.subset} has {len(examples)} examples, {shots} shots need as many",
                hint="put the authors' dev split next to the test split, under dev/",
            )
        count = seen[choice.subset, choice.id]
        seen[choice.subset, choice.id] += 1
        message: Message = {"role": "user", "content": ask(choice, examples)}
        name = f"{choice.id}-{count + 1}" if count else choice.id  # a duplicate question in the data
        reference = (choice.letters, choice.letters[choice.right])
        questions.append(Question(subset=choice.subset, id=name, messages=(message,), reference=reference))
    return questions


def _split(data: DataSet, shots: int) -> tuple[list[Choice], dict[str, list[Choice]]]:
    """The questions to ask, and the examples of each subset."""
    files = [file for file in data.files if not _is_example(file)]
    asked = [choice for file in files for choice in read_choices(file)]
    if sum(bool(file.member) for file in files) > 1:
        asked = [_in_nested_sets(choice) for choice in asked]
    pool: dict[str, list[Choice]] = defaultdict(list)
    if shots:
        for file in data.files:
            if _is_example(file):
                for choice in read_choices(file):
                    pool[choice.subset].append(choice)
    return asked, pool


def _in_nested_sets(choice: Choice) -> Choice:
    """Name a question QUESTION#SET where several of GPQA's sets are asked. The sets are nested, so a question occurs up
    to three times; with this id its answers are treated as dependent."""
    family, _, part = choice.subset.partition("_")
    return replace(choice, subset=family, id=f"{choice.id}#{part or family}")


def _letter_prompt(choice: Choice, examples: Sequence[Choice]) -> str:
    about = f" about {choice.subset.replace('_', ' ')}" if choice.subset != "all" else ""
    if not examples:
        head = f"Answer this multiple choice question{about} with the letter of the right choice and nothing else.\n\n"
    else:
        head = f"The following are multiple choice questions (with answers){about}.\n\n"
    shots = [f"{shot.text}\n{shot.lines('.')}\nAnswer: {shot.letters[shot.right]}\n\n" for shot in examples]
    return f"{head}{''.join(shots)}{choice.text}\n{choice.lines('.')}\nAnswer:"


def _reasoned_prompt(choice: Choice, examples: Sequence[Choice]) -> str:
    shots = [f"{shot.text}\n{shot.lines(')')}\nANSWER: {shot.letters[shot.right]}\n\n" for shot in examples]
    asked = REASONED_PROMPT.format(letters=",".join(choice.letters), question=choice.text, choices=choice.lines(")"))
    return f"{''.join(shots)}{asked}"


def read_letter(data: DataSet, shots: int) -> list[Question]:
    return _read(data, shots, _letter_prompt)


def read_reasoned(data: DataSet, shots: int) -> list[Question]:
    return _read(data, shots, _reasoned_prompt)


def grade_letter(question: Question, reply: Reply) -> Grade:
    """The likeliest of the question's letters, the earlier one on a tie; wrong without an answer if none is listed."""
    letters, right = question.reference
    scored = {name: value for name, value in (reply.letters or {}).items() if name in letters}
    if not scored:
        return Grade(False, None)
    answer = max(sorted(scored), key=scored.__getitem__)
    return Grade(answer == right, answer)


def grade_reasoned(question: Question, reply: Reply) -> Grade:
    letters, right = question.reference
    answer = letter(reply.text, letters)
    return Grade(answer == right, answer)


def guess(question: Question) -> float:
    letters, _ = question.reference
    return 1 / len(letters)


LETTER = Task(name="multiple-choice", read=read_letter, grade=grade_letter, scoring="letter", guess=guess)
REASONED = Task(name="multiple-choice-cot", read=read_reasoned, grade=grade_reasoned, guess=guess)
