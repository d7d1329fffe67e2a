"""evalscope behind the harness port, in a Python environment of its own, for those who must use it.

`FLAGRELEASE_EVALSCOPE` names the program. It gets our prompts word by word, one row of data for each ask, so a
sequential design chooses what is asked as it does with our own engine; it asks, reads the answers and grades them. Its
predictions and reviews (as 1.14 writes them) become our samples. What it does not tell is null; a request that it gave
up is an answer with an error. A key goes to it by its environment.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import Popen
from typing import Any

from flagrelease.config.cell import fingerprint
from flagrelease.config.matrix import Benchmark
from flagrelease.errors import CommandFailed, ConfigError, EnvironmentFault, SmokeFailed
from flagrelease.evaluation.chat import without_thinking
from flagrelease.evaluation.harness import Adapter, Patience, forget_failures
from flagrelease.evaluation.question import Question, Task
from flagrelease.evaluation.request import Ask, Endpoint, Evaluation, EvaluationRequest, Tally
from flagrelease.evaluation.tasks import task_named
from flagrelease.evaluation.transcripts import Replies
from flagrelease.ports.command import service
from flagrelease.ports.evalscope_program import PROGRAM, VERSION, lacking, outdated
from flagrelease.redact import redact
from flagrelease.store.files import translate_disk_errors, write_atomic
from flagrelease.verdict.samples import Sample, SampleWriter

__all__ = ["ADAPTER", "EvalscopeHarness", "read_run", "refuse"]

Row = dict[str, Any]

_WATCH_SECONDS = 1.0
_LONGEST = 1000  # an "extracted" answer beyond this is the whole reply
_OPTION = re.compile(r"^([A-Z])\) ", re.MULTILINE)
_FAILED = re.compile(r"Processing item in subset=.* failed: (.*\n.*)")
_FINISH = {"stop": "stop", "max_tokens": "length", "model_length": "length", "content_filter": "content_filter"}


def _prompt(question: Question) -> str:
    """Raises ConfigError for a question that is not one message of a user."""
    if len(question.messages) != 1 or question.messages[0]["role"] != "user":
        raise ConfigError(f"question {question.id} cannot be asked by evalscope", why="it is more than one message")
    return question.messages[0]["content"]


def _choice_row(question: Question) -> Row:
    """evalscope writes the options behind the question itself: they are taken off the prompt, and are put back."""
    letters, right = question.reference
    text = _prompt(question)
    for head in reversed([found.start() for found in re.finditer(r"\n\nA\) ", text)]):
        begins: list[re.Match[str]] = []
        for found in _OPTION.finditer(text, head + 2):
            if len(begins) < len(letters) and found[1] == letters[len(begins)]:
                begins.append(found)
        if len(begins) == len(letters):
            ends = [found.start() - 1 for found in begins[1:]] + [len(text)]
            options = [text[found.end() : end] for found, end in zip(begins, ends, strict=True)]
            choices = {"text": options, "label": list(letters)}
            return {"id": question.id, "question": text[:head], "choices": choices, "answerKey": right}
    raise ConfigError(f"question {question.id} cannot be asked by evalscope", why="its options are not at its end")


def _math_row(question: Question) -> Row:
    answer = str(question.reference)
    return {"problem": _prompt(question), "answer": answer, "solution": "", "level": 1, "unique_id": question.id}


def _instruction_row(question: Question) -> Row:
    names = [name for name, _ in question.reference]
    arguments = [dict(given) for _, given in question.reference]
    return {"key": question.id, "prompt": _prompt(question), "instruction_id_list": names, "kwargs": arguments}


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """A benchmark of evalscope's with the grader that one of our tasks needs. `config` names its subset."""

    name: str
    row: Callable[[Question], Row]
    template: str = "{question}"
    config: str = "default"
    split: str = "test"


_KINDS: Mapping[str, _Kind] = {
    "integer": _Kind(name="aime24", row=_math_row),
    "math": _Kind(name="math_500", row=_math_row),
    "multiple-choice-cot": _Kind(
        name="arc", row=_choice_row, template="{question}\n\n{choices}", config="ARC-Challenge"
    ),
    "ifeval": _Kind(name="ifeval", row=_instruction_row, template="", split="train"),
}
_LACKING = {
    "multiple-choice": "it reads a letter that was generated, and this task scores log-probabilities; use the task "
    "multiple-choice-cot",
    "livebench": "it has no LiveBench",
}


def refuse(task: Task, benchmark: str) -> None:
    """Raises ConfigError where evalscope cannot ask this task."""
    if task.name not in _KINDS:
        raise ConfigError(
            f"evalscope cannot ask {benchmark} (task {task.name})",
            why=_LACKING.get(task.name, "it has no such task"),
            hint=f"set `harness: own` for {benchmark}; evalscope can ask {', '.join(_KINDS)}",
        )


class EvalscopeHarness:
    """`program` is evalscope's. One run of it may take `seconds`."""

    def __init__(self, program: str, patience: Patience | None = None, *, seconds: float = 24 * 3600.0) -> None:
        self._program = program
        self._patience = patience or Patience()
        self._seconds = seconds

    def evaluate(self, request: EvaluationRequest) -> Tally:
        """See Harness.evaluate. Raises CommandFailed, and EnvironmentFault where the program is not there.

        A run that was stopped is taken up by the next one with the same asks: evalscope keeps its predictions.
        """
        evaluation, into = request.evaluation, request.into
        refuse(evaluation.task, evaluation.benchmark)
        with translate_disk_errors("keeping answers"):
            forget_failures(into, {ask.key(evaluation.benchmark) for ask in evaluation.asks})
            with SampleWriter(into) as writer:
                missing = [ask for ask in evaluation.asks if ask.key(evaluation.benchmark) not in writer.done]
                counting = _Counting(
                    evaluation, [one for one in writer.samples if one.benchmark == evaluation.benchmark]
                )
                if not missing:
                    return counting.tally(())
                folder = into.parent / f"evalscope-{_name(evaluation, missing)}"
                self._run(request, missing, folder, lambda done: request.report(counting.running(done)))
                found = read_run(folder, evaluation, missing)
                for sample in found:
                    writer.write(sample)
                _keep_replies(folder, evaluation, missing, into)
        shutil.rmtree(folder)
        self._check(evaluation, found)
        tally = counting.tally(found)
        request.report(tally)
        return tally

    def _run(
        self, request: EvaluationRequest, asks: Sequence[Ask], folder: Path, progress: Callable[[int], None]
    ) -> None:
        endpoint, evaluation = request.endpoint, request.evaluation
        _lay_out(_KINDS[evaluation.task.name], asks, folder / "data")
        words = argv(endpoint, evaluation, folder)
        # It caches data by name: without a cache of its own, a run may get the questions of an earlier one.
        env = {name: str(folder / "cache") for name in ("HF_HOME", "MODELSCOPE_CACHE", "EVALSCOPE_CACHE")}
        env |= {"EVALSCOPE_API_KEY": endpoint.key or "EMPTY", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        env |= {"TQDM_DISABLE": ""}  # it falls over where progress bars are turned off
        log = folder / "evalscope.log"
        log.unlink(missing_ok=True)
        try:
            with service([self._program, *words], log=log, env=env, cwd=folder) as process:
                self._wait(process, folder, request.watch, progress)
        except FileNotFoundError:
            raise EnvironmentFault(
                f"{self._program} is not installed", hint=f"{PROGRAM} names the program `evalscope` ({VERSION})"
            ) from None
        if process.returncode and not any(_lines(folder, "predictions")):
            request.watch()  # a server that is gone explains it better
            tail = redact(log.read_text(errors="replace")).strip().splitlines()[-40:]
            raise CommandFailed(
                f"evalscope ended with {process.returncode}",
                why=tail[-1] if tail else "it printed nothing",
                hint=f"it is used as {VERSION} is; `evalscope eval` was run in {folder}",
                detail="\n".join(tail),
            )

    def _wait(
        self, process: Popen[bytes], folder: Path, watch: Callable[[], None], progress: Callable[[int], None]
    ) -> None:
        deadline = time.monotonic() + self._seconds
        while process.poll() is None:
            if time.monotonic() > deadline:
                raise CommandFailed(f"evalscope took longer than {self._seconds:.0f} s", hint="run again: it resumes")
            watch()
            progress(sum(path.read_bytes().count(b"\n") for path in _files(folder, "predictions")))
            time.sleep(_WATCH_SECONDS)

    def _check(self, evaluation: Evaluation, found: Sequence[Sample]) -> None:
        errors = Counter(one.error for one in found if one.error is not None)
        if errors.total() > self._patience.allowed(len(evaluation.asks)):
            raise SmokeFailed(
                f"{evaluation.benchmark}: {errors.total()} of {len(found)} requests failed",
                why=str(errors.most_common(1)[0][0]),
                hint="that is no score; mend the endpoint and run again: answers are kept",
                detail="\n".join(f"{count} × {reason}" for reason, count in errors.most_common()),
            )


def argv(endpoint: Endpoint, evaluation: Evaluation, folder: Path) -> list[str]:
    """The words after the program's name."""
    kind = _KINDS[evaluation.task.name]
    options: dict[str, Any] = {"local_path": str(folder / "data"), "prompt_template": kind.template}
    if kind.name != "ifeval":
        options |= {"few_shot_num": 0}
    if kind.config != "default":
        options |= {"subset_list": [kind.config]}
    sampling = dict(evaluation.parameters)
    if extra := {name: sampling.pop(name) for name in ("chat_template_kwargs",) if name in sampling}:
        sampling["extra_body"] = extra
    values: dict[str, object] = {
        "model": endpoint.model,
        "api-url": endpoint.base_url,
        "eval-type": "openai_api",
        "datasets": kind.name,
        "dataset-args": json.dumps({kind.name: options}),
        "generation-config": json.dumps(sampling),
        "eval-batch-size": evaluation.concurrency,
        "work-dir": folder / "out",
    }
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    resumed = ["--use-cache", str(folder / "out"), "--rerun-review"] if any(_lines(folder, "predictions")) else []
    return ["eval", *words, "--no-timestamp", "--ignore-errors", *resumed]


def read_run(folder: Path, evaluation: Evaluation, asks: Sequence[Ask]) -> list[Sample]:
    """One sample for each ask, in their order, out of evalscope's `out/predictions` and `out/reviews`.

    Raises SmokeFailed where it asked something else, twice, or more than it was to.
    """
    said = {line["index"]: line for line in _lines(folder, "predictions")}
    graded: dict[int, Row] = {}
    for line in _lines(folder, "reviews"):
        index = line["index"]
        if index in graded or not 0 <= index < len(asks):
            raise SmokeFailed(f"evalscope reviewed answer {index} twice, or was never asked it", hint=_differs())
        graded[index] = line
    reasons = _FAILED.findall(_log(folder))
    why = Counter(reasons).most_common(1)[0][0] if reasons else "it is in none of its files"
    found = []
    for index, ask in enumerate(asks):
        blank = _blank(evaluation.benchmark, ask)
        if index in said and index in graded:
            found.append(_sample(blank, ask, said[index], graded[index]))
        else:
            found.append(replace(blank, error=f"evalscope has no answer: {' '.join(why.split())}"[:300]))
    return found


def _sample(blank: Sample, ask: Ask, said: Row, graded: Row) -> Sample:
    try:
        prompt = next(one["content"] for one in graded["messages"] if one["role"] == "user")
        text = prompt if isinstance(prompt, str) else prompt[0]["text"]
        output, score = said["model_output"], graded["sample_score"]["score"]
        value, usage = score["value"], output.get("usage") or {}
        finish = output["choices"][0].get("stop_reason") if output["choices"] else None
        grade = None if not value else value[score.get("main_score_name") or next(iter(value))]
    except (KeyError, IndexError, TypeError, StopIteration) as error:
        raise SmokeFailed("evalscope's files cannot be read", why=repr(error), hint=_differs()) from None
    if text != _prompt(ask.question):
        raise SmokeFailed(
            f"evalscope did not ask {ask.question.id} as it was to", why=f"…{text[-120:]!r}", hint=_differs()
        )
    if output.get("error"):
        return replace(blank, error=str(output["error"])[:300])
    if not isinstance(grade, int | float) or not 0 <= grade <= 1:
        return replace(blank, error=f"evalscope gave no grade: {value!r}"[:300])
    tokens, seconds = usage.get("output_tokens"), output.get("time")
    answer = score.get("extracted_prediction")
    return replace(
        blank,
        correct=bool(grade) if grade in (0, 1) else float(grade),
        answer=answer if isinstance(answer, str) and 0 < len(answer) <= _LONGEST else None,
        finish_reason=_FINISH.get(finish or ""),
        completion_tokens=tokens if type(tokens) is int and tokens >= 0 else None,
        latency_s=round(seconds, 6) if isinstance(seconds, int | float) and seconds >= 0 else None,
    )


def _keep_replies(folder: Path, evaluation: Evaluation, asks: Sequence[Ask], into: Path) -> None:
    with Replies(into) as replies:
        for line in _lines(folder, "predictions"):
            with suppress(KeyError, IndexError, TypeError):  # without a message there is nothing to keep
                content = line["model_output"]["choices"][0]["message"]["content"]
                parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
                text = "".join(part["text"] for part in parts if part["type"] == "text")
                replies.keep(asks[line["index"]].key(evaluation.benchmark), without_thinking(text))


def _differs() -> str:
    return f"its files are read as {VERSION} writes them; `evalscope --version` tells yours"


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


def _lay_out(kind: _Kind, asks: Iterable[Ask], folder: Path) -> None:
    """The data as evalscope wants it: a repository of the hub. The same asks give the same files."""
    rows = "".join(json.dumps(kind.row(ask.question), ensure_ascii=False) + "\n" for ask in asks)
    head = f"---\nconfigs:\n- config_name: {kind.config}\n  data_files:\n"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{kind.split}.jsonl", rows.encode())
    readme = f"{head}  - split: {kind.split}\n    path: {kind.split}.jsonl\n---\n"
    write_atomic(folder / "README.md", readme.encode())


def _lines(folder: Path, what: str) -> Iterator[Row]:
    """All whole lines of evalscope's predictions or reviews; a line that is cut is not there."""
    for path in _files(folder, what):
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict) and isinstance(found.get("index"), int):
                yield found


def _files(folder: Path, what: str) -> list[Path]:
    return sorted((folder / "out" / what).rglob("*.jsonl"))


def _log(folder: Path) -> str:
    path = folder / "evalscope.log"
    return redact(path.read_text(errors="replace")) if path.exists() else ""


def _name(evaluation: Evaluation, asks: Iterable[Ask]) -> str:
    keys = [[*ask.key(evaluation.benchmark), ask.question.prompt_sha256] for ask in asks]
    return fingerprint({"asks": keys, "parameters": dict(evaluation.parameters)})[:16]


class _Counting:
    """The tally of an evaluation, with what was answered before."""

    def __init__(self, evaluation: Evaluation, earlier: Sequence[Sample]) -> None:
        wanted = {ask.key(evaluation.benchmark) for ask in evaluation.asks}
        self._total = len(wanted)
        self._earlier = [one for one in earlier if one.key in wanted]
        self._start = time.monotonic()

    def tally(self, found: Sequence[Sample]) -> Tally:
        every = [*self._earlier, *found]
        return Tally(
            total=self._total,
            done=len(every),
            score=float(sum(one.correct for one in every)),
            errors=sum(one.error is not None for one in every),
            truncated=sum(one.finish_reason == "length" for one in every),
            asked=len(found),
            seconds=time.monotonic() - self._start,
        )

    def running(self, done: int) -> Tally:
        """While evalscope runs: how many it has answered; it grades for itself."""
        before = self.tally(())
        return replace(before, done=before.done + done, asked=done)


def _refuse_benchmark(name: str, benchmark: Benchmark) -> None:
    refuse(task_named(benchmark.task, name), name)
    if "#" in benchmark.data:
        raise ConfigError(
            f"evalscope cannot ask {name}",
            why="it reads its questions from files, and those of a zip are kept in memory only",
            hint=f"set `harness: own` for {name}",
        )


ADAPTER = Adapter(
    make=lambda env: EvalscopeHarness(env[PROGRAM]),
    refuse=_refuse_benchmark,
    lacking=lacking,
    outdated=outdated,
)
