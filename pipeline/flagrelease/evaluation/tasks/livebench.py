"""LiveBench's text tasks (White et al. 2024, arXiv 2406.19314), the release of 2024-11-25.

The scores follow the authors' scorers (github LiveBench/LiveBench, livebench/process_results); the extraction of an
answer from the text is our own. The public files lack coding and language; they are asked if a data folder has them,
coding only with a sandbox (see programs.py). The score of a part is labelled as one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches

from flagrelease.errors import ConfigError
from flagrelease.evaluation.datasets import DataSet, Row
from flagrelease.evaluation.grading import programs, tables
from flagrelease.evaluation.grading.algebra import equal
from flagrelease.evaluation.grading.instructions import CHECKS, followed
from flagrelease.evaluation.grading.text import bold, boxed, listed, marked, tagged
from flagrelease.evaluation.question import Grade, Question, Reply, Task

__all__ = ["LIVEBENCH"]

RELEASE = "2024-11-25"
CODING = ("LCB_generation", "coding_completion")

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(number) for number, word in enumerate(_WORDS)}


def read_livebench(data: DataSet, shots: int) -> list[Question]:
    """The questions that are active in the release, coding questions only if a sandbox is available."""
    runs_programs = bool(programs.sandbox())
    if shots:
        raise ConfigError(f"benchmark {data.benchmark} is asked without examples", hint="set shots: 0")
    questions = []
    for file in data.files:
        for number, row in enumerate(file.rows(), start=1):
            try:
                if not _active(row):
                    continue
                kind, turns = row["task"], row["turns"]
                if kind in CODING and not runs_programs:
                    continue
                if kind not in _GRADERS or len(turns) != 1:
                    where = f"{file.name}, row {number}"
                    raise ConfigError(f"{where}: the task {kind!r} cannot be graded", why="not a text task")
                reference = (kind, _reference(row), turns[0])
                message = {"role": "user", "content": turns[0]}
                questions.append(Question(subset=kind, id=row["question_id"], messages=(message,), reference=reference))
            except (KeyError, TypeError) as error:
                raise ConfigError(f"{file.name}, row {number}: not a LiveBench question", why=repr(error)) from None
    return questions


def _active(row: Row) -> bool:
    removed = row["livebench_removal_date"]
    return bool(row["livebench_release_date"] <= RELEASE and (not removed or removed > RELEASE))


def _reference(row: Row) -> object:
    if row["task"] in CODING:
        function = json.loads(row["original_json"]["metadata"]).get("func_name")
        tests = {name: row[name] for name in ("public_test_cases", "private_test_cases")}
        return tests, function, row.get("partial_solution") or ""
    if "instruction_id_list" not in row:
        return str(row["ground_truth"])
    unknown = set(row["instruction_id_list"]) - set(CHECKS)
    if unknown:
        raise KeyError(f"unknown instruction {min(unknown)}")
    # The rows have every existing argument; the null ones belong to other instructions.
    arguments = [{name: value for name, value in given.items() if value is not None} for given in row["kwargs"]]
    return tuple(zip(row["instruction_id_list"], arguments, strict=True))


def grade_livebench(question: Question, reply: Reply) -> Grade:
    kind, reference, prompt = question.reference
    return _GRADERS[kind](reply.text, reference, prompt)


def _instructions(text: str, reference: tuple[tuple[str, Mapping[str, object]], ...], _prompt: str) -> Grade:
    """The mean of "all followed" (0 or 1) and the share of instructions followed."""
    results = [followed(name, arguments, text) for name, arguments in reference]
    score = (all(results) + sum(results) / len(results)) / 2
    return Grade(score, f"{sum(results)} of {len(results)} instructions")


def _competition(text: str, reference: str, _prompt: str) -> Grade:
    """AMC and SMC: the letter four times in a row, as the prompt asks, or boxed. AIME: the digits at the end."""
    if reference.isdigit():
        end = text.strip()[-50:]
        return Grade(reference in end, end.splitlines()[-1] if end else None)
    solution = tagged(text, "solution")
    answer = next((letter for letter in "ABCDEF" if letter * 4 in text), None)
    for candidate in (solution, _plain(boxed(text))):
        if answer is None and candidate and len(set(candidate)) == 1:
            answer = candidate[0].upper()
    return Grade(reference * 4 in text or answer == reference, answer)


def _plain(latex: str | None) -> str | None:
    return latex.replace("\\text{", "").replace("\\textbf{", "").strip("{}()\\ ") if latex else None


def _exact(text: str, reference: str, prompt: str) -> Grade:
    """AMPS_Hard: the last boxed expression equals the reference."""
    answer = boxed(text)
    return Grade(answer is not None and equal(answer, reference, asked=prompt), answer)


def _proof(text: str, reference: str, _prompt: str) -> Grade:
    """Olympiad: 1 − edit distance / length, of the list of formula numbers."""
    wanted = [part.strip() for part in reference.split(",")]
    answer = marked(text) or boxed(text) or (text.strip().splitlines() or [""])[-1]
    given = ["".join(letter for letter in part if letter.isdigit()) for part in answer.split(",")]
    score = 1 - _distance(given, wanted) / max(len(given), len(wanted))
    return Grade(score, ",".join(given))


def _distance(given: list[str], wanted: list[str]) -> int:
    """The Levenshtein distance of two lists."""
    row = list(range(len(wanted) + 1))
    for index, mine in enumerate(given, start=1):
        before, row = row, [index]
        for at, theirs in enumerate(wanted):
            row.append(min(before[at + 1] + 1, row[at] + 1, before[at] + (mine != theirs)))
    return row[-1]


def _spatial(text: str, reference: str, _prompt: str) -> Grade:
    """The last text in bold, or boxed, or else the last word; a number may be spelled out."""
    words = text.split()
    answer = bold(text) or _plain(boxed(text)) or (words[-1] if words else None)
    given = answer.strip(" .*").lower() if answer else ""
    return Grade(_NUMBERS.get(given, given) == _NUMBERS.get(reference.lower(), reference.lower()), answer)


def _lies(text: str, reference: str, _prompt: str) -> Grade:
    """Three words, yes or no, in bold, in a solution tag, or at the end."""
    answer = tagged(text, "solution") or bold(text) or _plain(boxed(text)) or text
    given = [word for word in listed(answer) if word in ("yes", "no", "unknown")]
    wanted = listed(reference)
    return Grade(given[-len(wanted) :] == wanted, ", ".join(given[-len(wanted) :]))


def _zebra(text: str, reference: str, _prompt: str) -> Grade:
    """The mean of "all right" (0 or 1) and the share of right answers."""
    lines = text.strip().splitlines()
    answer = tagged(text, "solution") or _plain(boxed(text)) or (lines[-1] if lines else "")
    wanted, given = listed(reference.replace("-", " ")), listed(answer.replace("-", " "))
    right = sum(want in give for want, give in zip(wanted, given, strict=False))
    return Grade(((right == len(wanted)) + right / len(wanted)) / 2, answer or None)


def _column(text: str, reference: str, _prompt: str) -> Grade:
    """CTA: the name of the column, or an answer that ends with it."""
    given, wanted = (part.strip().strip("`'\".").lower() for part in (_plain(boxed(text)) or text, reference))
    lines = given.splitlines()
    return Grade(
        bool(lines) and (given == wanted or lines[-1].strip(" `'\".*") == wanted), lines[-1] if lines else None
    )


def _join(text: str, reference: str, _prompt: str) -> Grade:
    """F1 of the column pairs, rounded to two digits."""
    wanted = tables.mapping(reference) or {}
    given = tables.mapping(tables.fenced(text)) or {}
    right = sum(wanted.get(name) == value for name, value in given.items())
    wrong = len(given) - right
    missed = sum(given.get(name) != value for name, value in wanted.items())
    score = round(2 * right / (2 * right + wrong + missed), 2) if given and wanted else 0.0
    return Grade(score, str(given) if given else None)


def _reformat(text: str, reference: str, prompt: str) -> Grade:
    """The same table: equal columns, rows in order, values equal as numbers or as text."""
    kind = tables.asked_format(prompt)
    wanted, given = (tables.parse(kind, part) for part in (reference, tables.fenced(text)))
    return Grade(wanted is not None and given is not None and tables.same(given, wanted), None)


def _coding(text: str, reference: tuple[Row, str | None, str], _prompt: str) -> Grade:
    """The program in the last fenced block passes every test case."""
    tests, function, partial = reference
    code = programs.program(text, partial)
    return Grade(programs.passes(code, programs.cases(tests), function), code[:200] or None)


def _typos(text: str, reference: str, _prompt: str) -> Grade:
    """The answer contains the corrected text, ignoring line ends."""
    answer = " ".join(line for line in text.split("\n") if line)
    return Grade(reference in answer, None)


def _connections(text: str, reference: str, prompt: str) -> Grade:
    """The share of complete groups of four words: in the solution tag if the prompt asks for one, else the best of the
    texts in bold."""
    wanted = _fours(reference)
    if "<solution>" in prompt:
        candidates = [tagged(text, "solution") or _plain(boxed(text)) or ""]
    else:
        candidates = re.findall(r"\*\*(.*?)\*\*", text.replace("\n", ""))
    right = [sum(group in _fours(candidate) for group in wanted) for candidate in candidates]
    best = max(right, default=0)
    return Grade(best / len(wanted), (candidates[right.index(best)] or None) if right else None)


def _fours(words: str) -> list[frozenset[str]]:
    names = [word.strip().lower() for word in words.replace("\n", "").split(",")]
    return [frozenset(names[at : at + 4]) for at in range(0, len(names), 4)]


def _plot(text: str, reference: str, _prompt: str) -> Grade:
    """1 − edit distance / length of the order of sentences; each sentence is matched by similarity."""
    wanted = [part.strip() for part in reference.split(".") if part.strip()]
    _, tag, summary = text.partition("<PLOT_SUMMARY>")
    given = [part.strip() for part in (summary if tag else text).split(".") if part.strip()]
    order = [given.index(near[0]) for part in wanted if (near := get_close_matches(part, given, n=1, cutoff=0.0))]
    distance = _distance([str(index) for index in order], [str(index) for index in range(len(wanted))])
    return Grade(max(0.0, 1 - distance / len(wanted)), ",".join(map(str, order)) or None)


_GRADERS: Mapping[str, Callable[..., Grade]] = {
    "paraphrase": _instructions,
    "simplify": _instructions,
    "story_generation": _instructions,
    "summarize": _instructions,
    "math_comp": _competition,
    "AMPS_Hard": _exact,
    "olympiad": _proof,
    "spatial": _spatial,
    "web_of_lies_v2": _lies,
    "zebra_puzzle": _zebra,
    "LCB_generation": _coding,
    "coding_completion": _coding,
    "typos": _typos,
    "connections": _connections,
    "plot_unscrambling": _plot,
    "cta": _column,
    "tablejoin": _join,
    "tablereformat": _reformat,
}

LIVEBENCH = Task(
    name="livebench",
    read=read_livebench,
    grade=grade_livebench,
    slow=True,
    needs=("langdetect", "math_verify"),
)
