"""The harness `own`: asynchronous, resumable, and strict about who failed.

The event loop has a thread of its own, so that the calling thread stays free to watch the server, to report and to be
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
from flagrelease.evaluation.chat import GarbageError, parse
from flagrelease.evaluation.grading.worker import GradingFailedError, Referee
from flagrelease.evaluation.harness import Adapter, Patience, forget_failures
from flagrelease.evaluation.harnesses.own_http import Response, TransportError, Wire
from flagrelease.evaluation.question import Grade, Question, Reply
from flagrelease.evaluation.request import Ask, Endpoint, Evaluation, EvaluationRequest, Tally
from flagrelease.evaluation.transcripts import Replies
from flagrelease.ports.http import retry_after
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
            asking = _Asking(request.endpoint, evaluation, writer, self._patience, replies)
            stack.enter_context(asking.running())
            watched = synced = time.monotonic()
            while not asking.ended.wait(_REPORT_SECONDS):
                now = time.monotonic()
                if asking.suspicious.is_set() or now - watched >= _WATCH_SECONDS:
                    asking.suspicious.clear()
                    request.watch()
                    watched = now
                if now - synced >= _SYNC_SECONDS:
                    writer.sync()
                    synced = now
                request.report(asking.tally())
            if asking.failure is not None:
                request.watch()  # a server that is gone explains every failure better
                raise asking.failure
            request.report(asking.tally())
            return asking.tally()


class _RefusedError(Exception):
    """The endpoint will not answer this request, now or later."""


class _AgainError(Exception):
    """Worth another attempt. `seconds` is what Retry-After asked for."""

    def __init__(self, why: str, seconds: float | None = None) -> None:
        super().__init__(why)
        self.seconds = seconds


class _Asking:
    """One evaluation in progress. Its counts are written by the loop's thread alone."""

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
        self._loop: asyncio.AbstractEventLoop | None = None
        self._work: asyncio.Task[None] | None = None
        self.ended = threading.Event()
        self.suspicious = threading.Event()
        self.failure: BaseException | None = None

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
        )

    def running(self) -> _Running:
        return _Running(self)

    def main(self) -> None:
        """The loop's thread."""
        try:
            asyncio.run(self._all())
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
            with suppress(RuntimeError):  # it has just ended by itself
                self._loop.call_soon_threadsafe(self._work.cancel)

    async def _all(self) -> None:
        self._loop, self._work = asyncio.get_running_loop(), asyncio.current_task()
        asks = iter(self._missing)
        with ExitStack() as stack:
            referee = stack.enter_context(Referee(self._evaluation.task)) if self._evaluation.task.slow else None
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._evaluation.concurrency, len(self._missing))):
                    group.create_task(self._worker(asks, referee))

    async def _worker(self, asks: Iterator[Ask], referee: Referee | None) -> None:
        url = self._endpoint.base_url.rstrip("/") + "/chat/completions"
        async with Wire(url, key=self._endpoint.key) as wire:
            for ask in asks:
                self._keep(await self._answer(wire, ask, referee))

    def _keep(self, sample: Sample) -> None:
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
            f"{self._patience.allowed(self._total)} of {self._total} may",
            why=reasons[0],
            hint="that is no score; see the server's log, mend the endpoint and run again: answers are kept",
            detail="\n".join(reasons),
        )

    async def _answer(self, wire: Wire, ask: Ask, referee: Referee | None) -> Sample:
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
            start, response = await self._patiently(wire, body)
            latency = round(time.monotonic() - start, 6)
            reply = parse(response.body, self._evaluation.task, thinking=self._evaluation.thinking)
            if self._replies is not None:
                self._replies.keep(blank.key, reply.text)
            grade = await self._grade(question, reply, referee)
        except (_RefusedError, _AgainError, GarbageError, GradingFailedError) as error:
            return replace(blank, error=str(error)[:300], latency_s=round(time.monotonic() - start, 6))
        return replace(
            blank,
            correct=grade.correct,
            answer=grade.answer,
            # One token was all that was wanted there, so its "length" is no truncation.
            finish_reason=reply.finish_reason if self._text else None,
            completion_tokens=reply.completion_tokens,
            latency_s=latency,
        )

    async def _grade(self, question: Question, reply: Reply, referee: Referee | None) -> Grade:
        if referee is None:
            return self._evaluation.task.grade(question, reply)
        return await referee.grade(question, reply)

    async def _patiently(self, wire: Wire, body: bytes) -> tuple[float, Response]:
        """The response and when its request was sent. Raises _RefusedError, or _AgainError after the last attempt."""
        attempts = Attempts(self._patience.backoff, time.monotonic)
        while True:
            await asyncio.sleep(max(0.0, self._not_before - time.monotonic()))
            start = time.monotonic()
            try:
                return start, await self._once(wire, body)
            except _AgainError as again:
                pause = attempts.failed(again.seconds)
                if pause is None:
                    raise
                if again.seconds is not None:
                    # The server speaks for all requests, so all of them wait.
                    self._not_before = max(self._not_before, time.monotonic() + pause)
                await asyncio.sleep(pause)

    async def _once(self, wire: Wire, body: bytes) -> Response:
        try:
            response = await wire.post(body, seconds=self._patience.request_seconds)
        except TransportError as error:
            self.suspicious.set()
            raise _AgainError(f"no answer: {error}") from None
        if response.status == 200:
            return response
        text = " ".join(response.body[:200].decode(errors="replace").split())
        said = f"HTTP {response.status}: {text}" if text else f"HTTP {response.status}"
        if retriable(response.status):
            raise _AgainError(said, retry_after(response.headers.get("retry-after", "")))
        raise _RefusedError(said)


class _Running:
    """The loop's thread, from start to end on every path."""

    def __init__(self, asking: _Asking) -> None:
        self._asking = asking
        self._thread = threading.Thread(target=asking.main, name="asking", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        while self._thread.is_alive():
            self._asking.stop()
            self._thread.join(0.1)


def _root(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


ADAPTER = Adapter(make=lambda _env: OwnHarness())
