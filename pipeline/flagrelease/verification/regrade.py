"""Grade the stored answers of a release again."""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from flagrelease.config.harness_names import DEFAULT_HARNESS
from flagrelease.evaluation.grading.worker import GradingFailedError, GradingWorker, grade
from flagrelease.evaluation.question import Grade, Question, Reply, Task
from flagrelease.evaluation.spec import EvalSpec
from flagrelease.evaluation.tasks.livebench import CODING
from flagrelease.verdict.samples import Sample
from flagrelease.verification.answers import Asked, Side
from flagrelease.verification.findings import Check, agrees, differs, not_checked

__all__ = ["checks"]

_CHECK = "answers"
_CUT = " characters left out …]\n"
"""In a reply that is stored in part (evaluation/transcripts.py)."""
_MOST = 10
"""Answers that are named one by one."""
_PARALLEL = 5_000
"""Answers from which a second process is worth its start."""
_CHUNK = 1_000
_WHOLE = 200
"""Characters of an extracted answer that are stored."""


@dataclass(frozen=True, kw_only=True)
class _Item:
    """One answer to grade again."""

    sample: Sample
    question: Question
    reply: Reply
    extracted: bool
    """Whether `reply` is made from the extracted answer, since the reply itself is not stored."""


def checks(asked: Asked, side: Side, *, grader: str, recorded_grader: str, programs: bool) -> Iterator[Check]:
    """Grade one side's answers to one benchmark again. `grader` is the digest of the grader here, `recorded_grader`
    that of the one which graded them, empty if it is not recorded."""
    spec = asked.spec
    name = spec.benchmark
    samples = side.samples.get(name, ())
    subject = f"{name}, {side.name}"
    if not samples:
        return
    if not asked.known:
        yield not_checked(_CHECK, subject, f"{len(samples)} answers are not graded again: {asked.why}")
        return
    if spec.evaluation.harness != DEFAULT_HARNESS:
        yield not_checked(_CHECK, subject, f"{len(samples)} answers were graded by {spec.evaluation.harness}")
        return
    problems, items, skipped = _sorted_out(spec, side, samples, programs=programs)
    graded = _grade(spec.evaluation.task, items)
    changed = [text for item, each in zip(items, graded, strict=True) if (text := _difference(item, each))]
    other = bool(recorded_grader) and recorded_grader != grader
    yield from (differs(_CHECK, subject, problem) for problem in problems[:_MOST])
    if other and changed:
        why = f"{len(changed)} answers get another grade, by another version of the grader; such as {changed[0]}"
        yield not_checked(_CHECK, subject, why, decisive=True)
    else:
        yield from (differs(_CHECK, subject, text) for text in changed[:_MOST])
        if len(changed) > _MOST:
            yield differs(_CHECK, subject, f"{len(changed) - _MOST} more answers get another grade")
    if items and not changed and not problems:
        yield agrees(_CHECK, subject, f"{len(items):,} of {len(samples):,} have the recorded grade when graded again")
    if extracted := sum(item.extracted for item in items):
        letters = spec.evaluation.task.scoring == "letter"
        what = "log-probabilities of the letters are" if letters else "replies are"
        why = f"{extracted:,} answers were graded as they were extracted: the {what} not stored"
        yield not_checked(_CHECK, subject, why)
    yield from (not_checked(_CHECK, subject, f"{count} answers: {why}") for why, count in skipped.items())


def _sorted_out(
    spec: EvalSpec, side: Side, samples: Sequence[Sample], *, programs: bool
) -> tuple[list[str], list[_Item], Counter[str]]:
    """What is wrong without grading, the answers to grade, and why the others cannot be."""
    known = {(question.subset, question.id): question for question in spec.questions}
    task, own = spec.evaluation.task, {sample.key for sample in samples}
    problems = [
        f"a reply to {_name(*key[1:])}, which has no answer"
        for key in side.replies
        if key[0] == spec.benchmark and key not in own
    ]
    items: list[_Item] = []
    skipped: Counter[str] = Counter()
    for sample in samples:
        question = known.get((sample.subset, sample.question_id))
        if question is None:
            problems.append(f"{_named(sample)} answers a question that the benchmark has not")
        elif question.prompt_sha256 != sample.prompt_sha256:
            problems.append(f"{_named(sample)} was asked with another prompt than the benchmark's")
        elif sample.error is not None:
            continue  # a failed request; reading it has checked that it counts as wrong
        elif not programs and sample.subset in CODING and task.name == "livebench":
            skipped["their programs are run with --programs only"] += 1
        else:
            item = _item(task, question, sample, side.replies.get(sample.key))
            if isinstance(item, _Item):
                items.append(item)
            else:
                skipped[item] += 1
    return problems, items, skipped


def _item(task: Task, question: Question, sample: Sample, text: str | None) -> _Item | str:
    """The answer with the reply to grade, or why there is none."""
    if text is not None and _CUT not in text:
        reply = _reply(sample, text)
        return _Item(sample=sample, question=question, reply=reply, extracted=False)
    why = "the reply is not stored" if text is None else "the reply is stored in part"
    made = _from_extracted(task, sample)
    if made is None:
        return f"{why}, and the extracted answer alone does not decide the grade"
    return _Item(sample=sample, question=question, reply=made, extracted=True)


def _reply(sample: Sample, text: str, letters: Mapping[str, float] | None = None) -> Reply:
    return Reply(
        text=text, finish_reason=sample.finish_reason, completion_tokens=sample.completion_tokens, letters=letters
    )


def _from_extracted(task: Task, sample: Sample) -> Reply | None:
    """A reply from which the grader extracts the sample's answer; None where the grade depends on more than that."""
    answer = sample.answer
    if task.scoring == "letter":
        return _reply(sample, "", {} if answer is None else {answer: 0.0})
    match task.name:
        case "multiple-choice-cot":
            return _reply(sample, "" if answer is None else f"ANSWER: {answer}")
        case "integer":
            return _reply(sample, "" if answer is None else f"\\boxed{{{answer}}}")
        case "exact" if answer is None or len(answer) < _WHOLE:
            return _reply(sample, answer or "")
    return None


def _grade(task: Task, items: Sequence[_Item]) -> list[Grade | str]:
    """The grade of each item, or why there is none."""
    if task.slow:
        return asyncio.run(_grade_slowly(task, items))
    cores = len(os.sched_getaffinity(0))
    if len(items) < _PARALLEL or cores < 2:
        return [_graded(task, item) for item in items]
    # Forked, so that questions and replies need not be sent to it.
    _SHARED[:] = [(task, items)]
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("fork")) as pool:
        parts = pool.map(_grade_part, range(0, len(items), _CHUNK))
        return [each for part in parts for each in part]


_SHARED: list[tuple[Task, Sequence[_Item]]] = []


def _grade_part(start: int) -> list[Grade | str]:
    task, items = _SHARED[0]
    return [_graded(task, item) for item in items[start : start + _CHUNK]]


def _graded(task: Task, item: _Item) -> Grade | str:
    try:
        return grade(task, item.question, item.reply)
    except GradingFailedError as error:
        return str(error)


async def _grade_slowly(task: Task, items: Sequence[_Item]) -> list[Grade | str]:
    """Grade in processes with limits on time and memory, as the evaluation does."""
    graded: list[Grade | str] = [""] * len(items)
    numbers = iter(range(len(items)))

    async def work(worker: GradingWorker) -> None:
        for number in numbers:
            try:
                graded[number] = await worker.grade(items[number].question, items[number].reply)
            except GradingFailedError as error:
                graded[number] = str(error)

    workers = [GradingWorker(task) for _ in os.sched_getaffinity(0)]
    try:
        await asyncio.gather(*map(work, workers))
    finally:
        for worker in workers:
            worker.__exit__(None, None, None)
    return graded


def _difference(item: _Item, graded: Grade | str) -> str:
    """How the grade differs from the recorded one, in words; empty if it does not."""
    sample = item.sample
    if isinstance(graded, str):
        return f"{_named(sample)} cannot be graded: {graded}"
    if not math.isclose(float(graded.correct), float(sample.correct), abs_tol=1e-9):
        return (
            f"{_named(sample)} is {_word(graded.correct)}, recorded as {_word(sample.correct)}: {_short(graded.answer)}"
        )
    if graded.answer != sample.answer:
        return f"{_named(sample)}: the answer is {_short(graded.answer)}, recorded as {_short(sample.answer)}"
    return ""


def _word(correct: bool | float) -> str:
    return f"{correct:g}" if 0 < correct < 1 else "right" if correct else "wrong"


def _short(answer: str | None) -> str:
    return "no answer" if answer is None else repr(answer if len(answer) <= 60 else f"{answer[:59]}…")


def _named(sample: Sample) -> str:
    return _name(sample.subset, sample.question_id, sample.repeat)


def _name(subset: str, question: str, repeat: int) -> str:
    return f"{subset}/{question} repeat {repeat}"
