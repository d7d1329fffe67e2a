"""Convert evalscope's predictions and reviews (as version 1.14 writes them) to samples and transcripts."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from flagrelease.errors import SmokeFailed
from flagrelease.evaluation.chat import ENDS
from flagrelease.evaluation.grading.thinking import without_thinking
from flagrelease.evaluation.harnesses.evalscope_data import prompt
from flagrelease.evaluation.request import Ask, Evaluation
from flagrelease.evaluation.transcripts import Replies
from flagrelease.ports.evalscope_program import VERSION
from flagrelease.redact import redact
from flagrelease.verdict.samples import Sample

__all__ = ["LOG", "answered", "has_predictions", "keep_replies", "read_run"]

LOG = "evalscope.log"

Row = dict[str, Any]

_LONGEST = 1000  # characters; a longer "extracted" answer is the complete reply
_FAILED = re.compile(r"Processing item in subset=.* failed: (.*\n.*)")
_VERSION_HINT = f"its files are read as {VERSION} writes them; `evalscope --version` prints yours"


def read_run(folder: Path, evaluation: Evaluation, asks: Sequence[Ask]) -> list[Sample]:
    """One sample for each ask, in their order, from evalscope's `out/predictions` and `out/reviews`.

    Raises SmokeFailed where evalscope reviewed an answer twice, reviewed one that was not requested, or sent another
    prompt.
    """
    predictions = {line["index"]: line for line in _lines(folder, "predictions")}
    reviews: dict[int, Row] = {}
    for line in _lines(folder, "reviews"):
        index = line["index"]
        if index in reviews or not 0 <= index < len(asks):
            raise SmokeFailed(f"evalscope reviewed answer {index} twice or without a request", hint=_VERSION_HINT)
        reviews[index] = line
    reasons = _FAILED.findall(_log(folder))
    why = Counter(reasons).most_common(1)[0][0] if reasons else "none of its files has it"
    samples = []
    for index, ask in enumerate(asks):
        blank = _blank(evaluation.benchmark, ask)
        if index in predictions and index in reviews:
            samples.append(_sample(blank, ask, predictions[index], reviews[index]))
        else:
            samples.append(replace(blank, error=f"evalscope has no answer: {' '.join(why.split())}"[:300]))
    return samples


def _sample(blank: Sample, ask: Ask, prediction: Row, review: Row) -> Sample:
    try:
        content = next(message["content"] for message in review["messages"] if message["role"] == "user")
        text = content if isinstance(content, str) else content[0]["text"]
        output, score = prediction["model_output"], review["sample_score"]["score"]
        value, usage = score["value"], output.get("usage") or {}
        finish = output["choices"][0].get("stop_reason") if output["choices"] else None
        grade = None if not value else value[score.get("main_score_name") or next(iter(value))]
    except (KeyError, IndexError, TypeError, StopIteration) as error:
        raise SmokeFailed("evalscope's files cannot be read", why=repr(error), hint=_VERSION_HINT) from None
    if text != prompt(ask.question):
        raise SmokeFailed(
            f"evalscope did not ask {ask.question.id} in the given words", why=f"…{text[-120:]!r}", hint=_VERSION_HINT
        )
    if output.get("error"):
        return replace(blank, error=str(output["error"])[:300])
    if not isinstance(grade, int | float) or not 0 <= grade <= 1:
        return replace(blank, error=f"evalscope gave no grade: {value!r}"[:300])
    if finish == "content_filter":
        return replace(blank, error="the answer ended with finish_reason 'content_filter'")
    tokens, seconds = usage.get("output_tokens"), output.get("time")
    answer = score.get("extracted_prediction")
    return replace(
        blank,
        correct=bool(grade) if grade in (0, 1) else float(grade),
        answer=answer if isinstance(answer, str) and 0 < len(answer) <= _LONGEST else None,
        finish_reason=ENDS.get(str(finish or "").lower()),
        completion_tokens=tokens if type(tokens) is int and tokens >= 0 else None,
        latency_s=round(seconds, 6) if isinstance(seconds, int | float) and seconds >= 0 else None,
    )


def keep_replies(folder: Path, evaluation: Evaluation, asks: Sequence[Ask], into: Path) -> None:
    """Append the reply of each prediction to the transcript next to the samples file `into`."""
    with Replies(into) as replies:
        for line in _lines(folder, "predictions"):
            with suppress(KeyError, IndexError, TypeError):  # a prediction without a message has no reply
                content = line["model_output"]["choices"][0]["message"]["content"]
                parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
                text = "".join(part["text"] for part in parts if part["type"] == "text")
                replies.keep(asks[line["index"]].key(evaluation.benchmark), without_thinking(text))


def answered(folder: Path) -> int:
    """The number of predictions written so far."""
    return sum(path.read_bytes().count(b"\n") for path in _files(folder, "predictions"))


def graded(folder: Path) -> int:
    """The number of reviews written so far."""
    return sum(path.read_bytes().count(b"\n") for path in _files(folder, "reviews"))


def has_predictions(folder: Path) -> bool:
    """Whether there is a complete prediction, so that evalscope can resume."""
    return any(_lines(folder, "predictions"))


def _blank(benchmark: str, ask: Ask) -> Sample:
    return Sample(
        benchmark=benchmark,
        subset=ask.question.subset,
        question_id=ask.question.id,
        prompt_sha256=ask.question.prompt_sha256,
        repeat=ask.repeat,
        correct=False,
        answer=None,
        finish_reason=None,
        completion_tokens=None,
        latency_s=None,
        error=None,
    )


def _lines(folder: Path, kind: str) -> Iterator[Row]:
    """All complete lines of the predictions or reviews; a truncated line is skipped."""
    for path in _files(folder, kind):
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("index"), int):
                yield row


def _files(folder: Path, kind: str) -> list[Path]:
    return sorted((folder / "out" / kind).rglob("*.jsonl"))


def _log(folder: Path) -> str:
    path = folder / LOG
    return redact(path.read_text(errors="replace")) if path.exists() else ""
