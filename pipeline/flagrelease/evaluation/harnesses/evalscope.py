"""Run evalscope, installed in a separate Python environment, as a harness.

`FLAGRELEASE_EVALSCOPE` names the program. It is given our prompts word for word, one row of data for each ask, so a
group-sequential design can choose the questions; it sends the requests, extracts the answers and grades them. Fields
that it does not report are null; a request that it gave up is an answer with an error. The key is passed in its
environment.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from subprocess import Popen
from typing import Any

from flagrelease.config.cell import fingerprint
from flagrelease.config.matrix import Benchmark
from flagrelease.errors import CommandFailed, ConfigError, EnvironmentFault, SmokeFailed
from flagrelease.evaluation.harness import Adapter, Patience, forget_failures
from flagrelease.evaluation.harnesses.evalscope_data import BENCHMARKS, refuse, write_data
from flagrelease.evaluation.harnesses.evalscope_output import (
    LOG,
    answered,
    graded,
    has_predictions,
    keep_replies,
    read_run,
)
from flagrelease.evaluation.harnesses.own_pace import Pace
from flagrelease.evaluation.request import Ask, Endpoint, Evaluation, EvaluationRequest, Tally
from flagrelease.evaluation.tasks import task_named
from flagrelease.ports.command import service
from flagrelease.ports.evalscope_program import PROGRAM, VERSION, lacking, outdated
from flagrelease.ports.http import past_proxies
from flagrelease.redact import redact
from flagrelease.store.files import translate_disk_errors
from flagrelease.verdict.samples import Sample, SampleWriter

__all__ = ["ADAPTER", "EvalscopeHarness", "argv"]

_WATCH_SECONDS = 1.0


class EvalscopeHarness:
    """Runs evalscope's `program`, for at most `seconds` per evaluation."""

    def __init__(self, program: str, patience: Patience | None = None, *, seconds: float = 24 * 3600.0) -> None:
        self._program = program
        self._patience = patience or Patience()
        self._seconds = seconds

    def evaluate(self, request: EvaluationRequest) -> Tally:
        """See Harness.evaluate. Raises CommandFailed, and EnvironmentFault where the program does not exist.

        A run that was stopped is resumed by the next one with the same asks: evalscope keeps its predictions.
        """
        evaluation, into = request.evaluation, request.into
        refuse(evaluation.task, evaluation.benchmark)
        with translate_disk_errors("keeping answers"):
            forget_failures(into, {ask.key(evaluation.benchmark) for ask in evaluation.asks})
            with SampleWriter(into) as writer:
                missing = [ask for ask in evaluation.asks if ask.key(evaluation.benchmark) not in writer.done]
                progress = _Progress(
                    evaluation, [sample for sample in writer.samples if sample.benchmark == evaluation.benchmark]
                )
                if not missing:
                    return progress.tally(())
                folder = into.parent / f"evalscope-{_name(evaluation, missing)}"
                self._run(request, missing, folder, lambda done: request.report(progress.running(done)))
                samples = read_run(folder, evaluation, missing)
                for sample in samples:
                    writer.write(sample)
                keep_replies(folder, evaluation, missing, into)
        shutil.rmtree(folder)
        self._check(evaluation, samples)
        tally = progress.tally(samples)
        request.report(tally)
        return tally

    def _run(
        self, request: EvaluationRequest, asks: Sequence[Ask], folder: Path, progress: Callable[[int], None]
    ) -> None:
        endpoint, evaluation = request.endpoint, request.evaluation
        write_data(BENCHMARKS[evaluation.task.name], asks, folder / "data")
        arguments = argv(endpoint, evaluation, folder)
        # evalscope caches data by name: with a shared cache, a run may get the questions of an earlier one.
        env = {name: str(folder / "cache") for name in ("HF_HOME", "MODELSCOPE_CACHE", "EVALSCOPE_CACHE")}
        env |= {"EVALSCOPE_API_KEY": endpoint.key or "EMPTY", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        env |= past_proxies()
        env |= {"TQDM_DISABLE": ""}  # it crashes with progress bars disabled
        log = folder / LOG
        log.unlink(missing_ok=True)
        try:
            with service([self._program, *arguments], log=log, env=env, cwd=folder) as process:
                self._wait(process, folder, request, progress)
        except FileNotFoundError:
            raise EnvironmentFault(
                f"{self._program} is not installed", hint=f"{PROGRAM} names the program `evalscope` ({VERSION})"
            ) from None
        if process.returncode and not has_predictions(folder):
            request.watch()  # if the server has died, that is the better explanation
            tail = redact(log.read_text(errors="replace")).strip().splitlines()[-40:]
            raise CommandFailed(
                f"evalscope exited with {process.returncode}",
                why=tail[-1] if tail else "it printed nothing",
                hint=f"version {VERSION} is expected; `evalscope eval` was run in {folder}",
                detail="\n".join(tail),
            )

    def _wait(
        self, process: Popen[bytes], folder: Path, request: EvaluationRequest, progress: Callable[[int], None]
    ) -> None:
        """Wait for evalscope's end. Raises SmokeFailed if the server stops answering it."""
        start = time.monotonic()
        pace = _pace(request, self._patience)
        pace.sent(start)
        written = 0
        while process.poll() is None:
            now = time.monotonic()
            if now - start > self._seconds:
                raise CommandFailed(f"evalscope took longer than {self._seconds:.0f} s", hint="run again: it resumes")
            request.watch()
            before, written = written, answered(folder) + graded(folder)
            if written > before:
                pace.responded(now)
                pace.sent(now)
            if pace.hangs(now):
                raise _stopped_answering(request.evaluation.benchmark, pace, now)
            progress(answered(folder))
            time.sleep(_WATCH_SECONDS)

    def _check(self, evaluation: Evaluation, samples: Sequence[Sample]) -> None:
        errors = Counter(sample.error for sample in samples if sample.error is not None)
        if errors.total() > self._patience.allowed(len(evaluation.asks)):
            raise SmokeFailed(
                f"{evaluation.benchmark}: {errors.total()} of {len(samples)} requests failed",
                why=str(errors.most_common(1)[0][0]),
                hint="too many failures to report a score; fix the endpoint and run again: answers are kept",
                detail="\n".join(f"{count} × {reason}" for reason, count in errors.most_common()),
            )


_GENERATION = ("temperature", "top_p", "top_k", "max_tokens")
"""The request parameters that evalscope has an option for; it puts the others, of one engine, into `extra_body`."""


def argv(endpoint: Endpoint, evaluation: Evaluation, folder: Path) -> list[str]:
    """evalscope's arguments, without the program's name."""
    benchmark = BENCHMARKS[evaluation.task.name]
    options: dict[str, Any] = {"local_path": str(folder / "data"), "prompt_template": benchmark.template}
    if benchmark.name != "ifeval":
        options |= {"few_shot_num": 0}
    if benchmark.config != "default":
        options |= {"subset_list": [benchmark.config]}
    sampling = {name: value for name, value in evaluation.parameters.items() if name in _GENERATION}
    if extra := {name: value for name, value in evaluation.parameters.items() if name not in _GENERATION}:
        sampling["extra_body"] = extra
    values: dict[str, object] = {
        "model": endpoint.model,
        "api-url": endpoint.base_url,
        "eval-type": "openai_api",
        "datasets": benchmark.name,
        "dataset-args": json.dumps({benchmark.name: options}),
        "generation-config": json.dumps(sampling),
        "eval-batch-size": evaluation.concurrency,
        "work-dir": folder / "out",
    }
    arguments = [argument for name, value in values.items() for argument in (f"--{name}", str(value))]
    resume = ["--use-cache", str(folder / "out"), "--rerun-review"] if has_predictions(folder) else []
    return ["eval", *arguments, "--no-timestamp", "--ignore-errors", *resume]


def _pace(request: EvaluationRequest, patience: Patience) -> Pace:
    """evalscope does not say how long its answers take, so only what was measured before is known."""
    return Pace(
        most_tokens=int(request.evaluation.parameters.get("max_tokens", 0)),
        most_seconds=patience.request_seconds,
        least_seconds=patience.least_seconds,
        slowest=request.endpoint.token_seconds,
    )


def _stopped_answering(benchmark: str, pace: Pace, now: float) -> SmokeFailed:
    return SmokeFailed(
        f"{benchmark}: the server has stopped answering",
        why=f"evalscope got no answer for {pace.silent(now):.0f} s; one should take at most {pace.limit:.0f} s",
        hint="see the server's log; run again: answers are kept",
    )


def _name(evaluation: Evaluation, asks: Iterable[Ask]) -> str:
    keys = [[*ask.key(evaluation.benchmark), ask.question.prompt_sha256] for ask in asks]
    return fingerprint({"asks": keys, "parameters": dict(evaluation.parameters)})[:16]


class _Progress:
    """The tally of an evaluation, including earlier answers."""

    def __init__(self, evaluation: Evaluation, earlier: Sequence[Sample]) -> None:
        wanted = {ask.key(evaluation.benchmark) for ask in evaluation.asks}
        self._total = len(wanted)
        self._earlier = [sample for sample in earlier if sample.key in wanted]
        self._start = time.monotonic()

    def tally(self, new: Sequence[Sample]) -> Tally:
        samples = [*self._earlier, *new]
        return Tally(
            total=self._total,
            done=len(samples),
            score=float(sum(sample.correct for sample in samples)),
            errors=sum(sample.error is not None for sample in samples),
            truncated=sum(sample.finish_reason == "length" for sample in samples),
            asked=len(new),
            seconds=time.monotonic() - self._start,
        )

    def running(self, done: int) -> Tally:
        """The tally while evalscope runs: it has answered `done`, and reports grades only at the end."""
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
