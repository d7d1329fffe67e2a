"""The harness `own`: asynchronous, resumable, and counting failed requests apart from wrong answers.

The event loop runs in a separate thread, so that the calling thread can watch the server, report progress and be
stopped: an exception raised there ends the loop, and everything answered by then is on disk.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace

from flagrelease.errors import SmokeFailed
from flagrelease.evaluation import chat
from flagrelease.evaluation.chat import AbortedError, InvalidResponseError, parse
from flagrelease.evaluation.grading.worker import GradingFailedError, GradingWorker, grade
from flagrelease.evaluation.harness import Adapter, Patience, forget_failures
from flagrelease.evaluation.harnesses.own_http import JsonConnection, Response, TransportError
from flagrelease.evaluation.harnesses.own_pace import Pace
from flagrelease.evaluation.question import Grade, Question, Reply
from flagrelease.evaluation.request import Ask, Endpoint, Evaluation, EvaluationRequest, Tally
from flagrelease.evaluation.transcripts import Replies
from flagrelease.ports.http import refusal, retry_after
from flagrelease.ports.retry import Attempts, retriable
from flagrelease.store.files import translate_disk_errors
from flagrelease.verdict.samples import Sample, SampleWriter

__all__ = ["ADAPTER", "OwnHarness"]

_REPORT_SECONDS = 0.2
_WATCH_SECONDS = 1.0
_SYNC_SECONDS = 2.0


class OwnHarness:
    def __init__(self, patience: Patience | None = None) -> None:
        self._patience = patience or Patience()

    def evaluate(self, request: EvaluationRequest) -> Tally:
        """See Harness.evaluate."""
        with translate_disk_errors("keeping answers"), ExitStack() as stack:
            evaluation, into = request.evaluation, request.into
            forget_failures(into, {ask.key(evaluation.benchmark) for ask in evaluation.asks})
            writer = stack.enter_context(SampleWriter(into))
            replies = stack.enter_context(Replies(into)) if evaluation.task.scoring == "text" else None
            run = _Run(request.endpoint, evaluation, writer, self._patience, replies)
            stack.enter_context(run.running())
            watched = synced = time.monotonic()
            while not run.ended.wait(_REPORT_SECONDS):
                now = time.monotonic()
                if run.transport_failed.is_set() or now - watched >= _WATCH_SECONDS:
                    run.transport_failed.clear()
                    request.watch()
                    watched = now
                if now - synced >= _SYNC_SECONDS:
                    writer.sync()
                    synced = now
                request.report(run.tally())
                run.check_pace()
            if run.failure is not None:
                request.watch()  # if the server has died, that is the better explanation
                raise run.failure
            request.report(run.tally())
            return run.tally()


class _RefusedError(Exception):
    """The endpoint rejected this request for good."""


class _RetryableError(Exception):
    """A failure that may pass. `seconds` is the pause that Retry-After requests."""

    def __init__(self, why: str, seconds: float | None = None) -> None:
        super().__init__(why)
        self.seconds = seconds


class _Run:
    """One evaluation in progress. Only the loop's thread writes its counts."""

    def __init__(
        self,
        endpoint: Endpoint,
        evaluation: Evaluation,
        writer: SampleWriter,
        patience: Patience,
        replies: Replies | None,
    ) -> None:
        self._endpoint = endpoint
        self._evaluation = evaluation
        self._writer = writer
        self._patience = patience
        self._replies = replies
        wanted = {ask.key(evaluation.benchmark): ask for ask in evaluation.asks}
        if len(wanted) != len(evaluation.asks):
            raise ValueError(f"{evaluation.benchmark}: a question is asked twice")
        earlier = [sample for sample in writer.samples if sample.key in wanted]
        self._missing = [ask for key, ask in wanted.items() if key not in writer.done]
        self._total = len(wanted)
        self._score = float(sum(sample.correct for sample in earlier))
        self._truncated = sum(sample.finish_reason == "length" for sample in earlier) if self._text else 0
        self._asked = 0
        self._errors: Counter[str] = Counter()
        self._not_before = 0.0
        self._start = time.monotonic()
        self._pace = Pace(
            most_tokens=int(evaluation.parameters.get("max_tokens", 0)),
            most_seconds=patience.request_seconds,
            least_seconds=patience.least_seconds,
            slowest=endpoint.token_seconds,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._work: asyncio.Task[None] | None = None
        self.ended = threading.Event()
        self.transport_failed = threading.Event()
        self.failure: BaseException | None = None

    def _finish_reason(self, reply: Reply) -> str | None:
        """As reported, but no `length` where a longer reply would have the same grade: a letter is one token, and an
        answer that exceeds the task's longest one is wrong."""
        if not self._text:
            return None
        longest = self._evaluation.task.longest
        cut_at_longest = longest is not None and self._evaluation.parameters["max_tokens"] == longest
        return None if cut_at_longest and reply.finish_reason == "length" else reply.finish_reason

    @property
    def _text(self) -> bool:
        return self._evaluation.task.scoring == "text"

    def tally(self) -> Tally:
        return Tally(
            total=self._total,
            done=self._total - len(self._missing) + self._asked,
            score=self._score,
            errors=self._errors.total(),
            truncated=self._truncated,
            asked=self._asked,
            seconds=time.monotonic() - self._start,
            silent=self._pace.silent(time.monotonic()),
        )

    def check_pace(self) -> None:
        """Raises SmokeFailed if the server hangs: it would take all attempts of all requests to end otherwise."""
        now = time.monotonic()
        if self._pace.hangs(now):
            raise SmokeFailed(
                f"{self._evaluation.benchmark}: the server has stopped answering",
                why=f"there was no response for {self._pace.silent(now):.0f} s; one should take at most "
                f"{self._pace.limit:.0f} s, by its speed so far",
                hint="see the server's log; run again: answers are kept",
            )

    def running(self) -> _Running:
        return _Running(self)

    def main(self) -> None:
        """Run the loop; the target of its thread."""
        try:
            asyncio.run(self._ask_all())
        except asyncio.CancelledError:
            pass
        except BaseExceptionGroup as group:
            self.failure = _root(group)
        except BaseException as error:
            self.failure = error
        finally:
            self.ended.set()

    def stop(self) -> None:
        """End the loop from another thread."""
        if self._loop is not None and self._work is not None:
            with suppress(RuntimeError):  # the loop has just ended
                self._loop.call_soon_threadsafe(self._work.cancel)

    async def _ask_all(self) -> None:
        self._loop, self._work = asyncio.get_running_loop(), asyncio.current_task()
        asks = iter(self._missing)
        with ExitStack() as stack:
            grader = stack.enter_context(GradingWorker(self._evaluation.task)) if self._evaluation.task.slow else None
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._evaluation.concurrency, len(self._missing))):
                    group.create_task(self._worker(asks, grader))

    async def _worker(self, asks: Iterator[Ask], grader: GradingWorker | None) -> None:
        url = self._endpoint.base_url.rstrip("/") + "/chat/completions"
        async with JsonConnection(url, key=self._endpoint.key) as connection:
            for ask in asks:
                self._record(await self._answer(connection, ask, grader))

    def _record(self, sample: Sample) -> None:
        self._writer.write(sample)
        self._asked += 1
        self._score += float(sample.correct)
        if sample.finish_reason == "length" and self._text:
            self._truncated += 1
        if sample.error is not None:
            self._errors[sample.error] += 1
            if self._errors.total() > self._patience.allowed(self._total):
                raise self._too_many()

    def _too_many(self) -> SmokeFailed:
        reasons = [f"{count} × {reason}" for reason, count in self._errors.most_common()]
        return SmokeFailed(
            f"{self._evaluation.benchmark}: {self._errors.total()} of {self._asked} requests failed; "
            f"the limit is {self._patience.allowed(self._total)} of {self._total}",
            why=reasons[0],
            hint="too many failures to report a score; see the server's log, fix the endpoint and run again; answers "
            "are kept",
            detail="\n".join(reasons),
        )

    async def _answer(self, connection: JsonConnection, ask: Ask, grader: GradingWorker | None) -> Sample:
        question = ask.question
        blank = Sample(
            benchmark=self._evaluation.benchmark,
            subset=question.subset,
            question_id=question.id,
            prompt_sha256=question.prompt_sha256,
            repeat=ask.repeat,
            correct=False,
            answer=None,
            finish_reason=None,
            completion_tokens=None,
            latency_s=None,
            error=None,
        )
        body = chat.request(self._endpoint.model, question, ask.repeat, self._evaluation.parameters)
        start = time.monotonic()
        try:
            latency, reply = await self._ask_with_retries(connection, body)
            if self._replies is not None:
                self._replies.keep(blank.key, reply.text)
            graded = await self._grade(question, reply, grader)
        except (_RefusedError, _RetryableError, InvalidResponseError, GradingFailedError) as error:
            return replace(blank, error=str(error)[:300], latency_s=round(time.monotonic() - start, 6))
        return replace(
            blank,
            correct=graded.correct,
            answer=graded.answer,
            finish_reason=self._finish_reason(reply),
            completion_tokens=reply.completion_tokens,
            latency_s=latency,
        )

    async def _grade(self, question: Question, reply: Reply, grader: GradingWorker | None) -> Grade:
        if grader is not None:
            return await grader.grade(question, reply)
        return grade(self._evaluation.task, question, reply)

    async def _ask_with_retries(self, connection: JsonConnection, body: bytes) -> tuple[float, Reply]:
        """The reply and the seconds it took.

        Raises _RefusedError and InvalidResponseError, or _RetryableError after the last attempt.
        """
        attempts = Attempts(self._patience.backoff, time.monotonic)
        while True:
            await asyncio.sleep(max(0.0, self._not_before - time.monotonic()))
            start = time.monotonic()
            try:
                response = await self._post_once(connection, body)
                latency = round(time.monotonic() - start, 6)
                reply = self._parse(response)
                self._pace.answered(latency, reply.completion_tokens)
                return latency, reply
            except _RetryableError as error:
                pause = attempts.failed(error.seconds)
                if pause is None:
                    raise
                if error.seconds is not None:
                    # Retry-After applies to the server, so all requests wait.
                    self._not_before = max(self._not_before, time.monotonic() + pause)
                await asyncio.sleep(pause)

    def _parse(self, response: Response) -> Reply:
        try:
            return parse(response.body, self._evaluation.task, thinking=self._evaluation.thinking)
        except AbortedError as error:
            raise _RetryableError(str(error)) from None

    async def _post_once(self, connection: JsonConnection, body: bytes) -> Response:
        self._pace.sent(time.monotonic())
        try:
            response = await connection.post(body, seconds=self._pace.limit)
        except TransportError as error:
            self._pace.lost()
            self.transport_failed.set()
            raise _RetryableError(f"no response: {error}") from None
        self._pace.responded(time.monotonic())
        if response.status == 200:
            return response
        why = refusal(response.status, response.body)
        if retriable(response.status):
            raise _RetryableError(why, retry_after(response.headers.get("retry-after", "")))
        raise _RefusedError(why)


class _Running:
    """Starts the loop's thread, and stops it on every way out."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._thread = threading.Thread(target=run.main, name="evaluation", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        while self._thread.is_alive():
            self._run.stop()
            self._thread.join(0.1)


def _root(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


ADAPTER = Adapter(make=lambda _env: OwnHarness())
