"""The FlagEval platform: it asks an endpoint of ours its own questions, and tells a score for each of its data sets.

The protocol (JSON over HTTP, flagos.md §6.2): POST /evaluation starts and names a request; POST /evaluation_progress
tells its state (R running, S done, F failed, C cancelled, OOR out of retries); GET /evaldiffs, with a JSON body, tells
the scores; POST /stop_evaluation and /resume_evaluation. It tells no answers, so nothing can be paired by question.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flagrelease.errors import EnvironmentFault, FlagreleaseError, HubUnavailable, SmokeFailed, UpstreamRefused
from flagrelease.ports.clock import Clock, SystemClock
from flagrelease.ports.http import retry_after
from flagrelease.ports.retry import Backoff, retriable, retry
from flagrelease.redact import redact
from flagrelease.store.files import write_atomic

if TYPE_CHECKING:
    import requests

__all__ = ["ENDPOINT", "SERVICE", "TOKEN", "FlagEval", "Pace", "Progress", "Submission", "dataset_name", "public_url"]

SERVICE = "FLAGRELEASE_FLAGEVAL"
ENDPOINT = "FLAGRELEASE_FLAGEVAL_ENDPOINT"
TOKEN = "FLAGRELEASE_FLAGEVAL_TOKEN"  # noqa: S105  the name of a variable

_BACKOFF = Backoff(first=2.0, most=30.0, budget=300.0)
_ENDED = {"F": "it failed", "C": "it was cancelled", "OOR": "it ran out of retries"}
_SUFFIX = re.compile(r"[-_]\d+(few)?shot.*$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What is to be evaluated. `eval_url` is our endpoint as the platform reaches it; `eval_model` is the name under
    which it keeps the scores (`qwen3-8b-metax-flagos`); `gen_kwargs` are sampling parameters, `a=1,b=2`."""

    eval_url: str
    model: str
    eval_model: str
    base_model_name: str
    chip: str
    gen_kwargs: str
    num_concurrent: int
    thinking: bool
    tokenizer: str = ""
    api_key: str = field(default="EMPTY", repr=False)

    def body(self) -> dict[str, Any]:
        info = {**asdict(self), "batch_size": 1, "num_retry": 10, "max_gen_toks": -1, "retry_time": -1}
        where = {"domain": "NLP", "mode": "FlagRelease", "region": "bj", "special_event": "Chips", "user_id": 0}
        return {"eval_infos": [info], **where}


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the platform is: data sets, and what it says of the one that runs."""

    status: str
    done: int
    total: int
    running: str


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds. Upstream's polling: 30 s five times, 60 s ten times, then 120 s."""

    polls: tuple[tuple[int, float], ...] = ((5, 30.0), (15, 60.0))
    """Up to which poll, with which pause before each."""
    then: float = 120.0
    """The pause before every further poll."""
    deadline: float = 24 * 3600.0
    """For one evaluation."""
    request: float = 30.0
    """For one answer of the platform."""
    watch: float = 1.0
    """The pause between two looks at our own server."""
    backoff: Backoff = _BACKOFF
    """For a platform that does not answer, or answers with a status that is retriable."""

    def poll(self, number: int) -> float:
        """Seconds before poll `number`, from 1."""
        return next((seconds for until, seconds in self.polls if number <= until), self.then)


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """A request at the platform, as it is kept on disk; `resumed` says that it was started or resumed by this run."""

    url: str
    eval_url: str
    asked: Mapping[str, Any]
    request_id: str
    scores: Mapping[str, float] | None = None
    resumed: bool = True


def _read(state: Path) -> _Kept | None:
    try:
        return _Kept(**json.loads(state.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _write(state: Path, kept: _Kept) -> None:
    state.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(state, json.dumps(asdict(kept)).encode())


class FlagEval:
    """`url` is the platform's; `token`, where it asks for one, is a bearer token."""

    def __init__(self, url: str, token: str = "", pace: Pace | None = None, clock: Clock | None = None) -> None:
        self._url = url.rstrip("/")
        self._pace = pace or Pace()
        self._clock = clock or SystemClock()
        import requests  # a third of a second that only this harness needs

        self._session = requests.Session()
        self._session.trust_env = False  # no ~/.netrc: a key goes where it was meant to go
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def evaluate(
        self,
        submission: Submission,
        state: Path,
        *,
        watch: Callable[[], None],
        report: Callable[[Progress], None],
    ) -> dict[str, float]:
        """The score (a fraction of 1) of each of the platform's data sets, by its name there.

        `state` keeps the request's id, and then its scores: a run that was stopped goes on with the same request, and
        one that was stopped later asks nothing. `watch` is called about once a second; whatever ends this early stops
        the request at the platform. Raises SmokeFailed where the evaluation failed, UpstreamRefused, HubUnavailable.
        """
        kept = self._begin(submission, state)
        if kept.scores is None:
            try:
                self._wait(kept.request_id, kept.resumed, watch, report)
            except BaseException:
                with suppress(FlagreleaseError):
                    self.stop(kept.request_id)
                raise
            kept = replace(kept, scores=self.scores(kept.request_id, submission.eval_model))
            _write(state, kept)
        return dict(kept.scores or {})

    def _begin(self, submission: Submission, state: Path) -> _Kept:
        """What was begun before, or a new request."""
        asked = {name: value for name, value in asdict(submission).items() if name not in ("eval_url", "api_key")}
        kept = _read(state)
        if kept is not None and kept.asked == asked and kept.url == self._url:
            if kept.scores is not None or kept.eval_url == submission.eval_url:
                return replace(kept, resumed=False)
            with suppress(FlagreleaseError):  # it asks where nothing listens any more
                self.stop(kept.request_id)
        request_id = self.submit(submission)
        kept = _Kept(url=self._url, eval_url=submission.eval_url, asked=asked, request_id=request_id)
        _write(state, kept)
        return kept

    def _wait(
        self, request_id: str, resumed: bool, watch: Callable[[], None], report: Callable[[Progress], None]
    ) -> None:
        """Until it is done. A request of an earlier run that ended meanwhile is resumed, once."""
        start = self._clock.monotonic()
        poll = 0
        while True:
            now = self.progress(request_id)
            report(now)
            if now.status == "S":
                return
            if now.status in _ENDED:
                if resumed:
                    raise SmokeFailed(
                        f"FlagEval did not finish {request_id}",
                        why=f"{_ENDED[now.status]} after {now.done} of {now.total} data sets",
                        hint="run again: it is resumed there; the platform's own log says more",
                    )
                self.resume(request_id)
                resumed = True
            poll += 1
            until = self._clock.monotonic() + self._pace.poll(poll)
            while self._clock.monotonic() < until:
                watch()
                self._clock.sleep(min(self._pace.watch, self._pace.poll(poll)))
            if self._clock.monotonic() - start > self._pace.deadline:
                raise HubUnavailable(
                    f"FlagEval did not finish {request_id} within {self._pace.deadline:.0f} s",
                    why=f"{now.done} of {now.total} data sets are done",
                    hint="run again: it is resumed where it stood",
                )

    def submit(self, submission: Submission) -> str:
        """Start an evaluation; the request's id. A request that may have arrived is not sent twice."""
        answer = self._call("POST", "/evaluation", submission.body(), once=True)
        return _text(_accepted("/evaluation", answer), "request_id")

    def progress(self, request_id: str) -> Progress:
        answer = self._call("POST", "/evaluation_progress", {"request_id": request_id, "domain": "NLP"})
        counts = re.fullmatch(r"(\d+)/(\d+)", str(answer.get("datasets_progress", "")))
        running = " ".join(str(answer.get(name) or "") for name in ("running_dataset", "running_progress")).strip()
        done, total = (int(counts[1]), int(counts[2])) if counts else (0, 0)
        return Progress(status=_text(answer, "status"), done=done, total=total, running=running[:80])

    def scores(self, request_id: str, eval_model: str) -> dict[str, float]:
        """Raises UpstreamRefused for anything that is no score: a missing one, NaN, text, or a percentage."""
        answer = _accepted("/evaldiffs", self._call("GET", "/evaldiffs", {"request_id": request_id}))
        results = answer.get("eval_results")
        result = results.get(eval_model) if isinstance(results, dict) else None
        details = result.get("details") if isinstance(result, dict) else None
        if not isinstance(details, list) or not details:
            raise _garbage("/evaldiffs", f"no scores of {eval_model}")
        found: dict[str, float] = {}
        for detail in details:
            name = detail.get("dataset") if isinstance(detail, dict) else None
            if not isinstance(name, str) or name in found:
                raise _garbage("/evaldiffs", f"a data set is called {name!r}, or told twice")
            score = detail.get("accuracy")
            if detail.get("status") != "S":
                raise SmokeFailed(f"FlagEval did not finish {name}", why=f"status {detail.get('status')!r}")
            if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
                raise _garbage("/evaldiffs", f"the score of {name} is {score!r}, no fraction of 1")
            found[name] = float(score)
        return found

    def stop(self, request_id: str) -> None:
        self._call("POST", "/stop_evaluation", {"request_id": request_id})

    def resume(self, request_id: str) -> None:
        _accepted("/resume_evaluation", self._call("POST", "/resume_evaluation", {"request_id": request_id}))

    def _call(self, method: str, path: str, body: Mapping[str, Any], *, once: bool = False) -> dict[str, Any]:
        """The platform's answer, within the budget of the pace's backoff. With `once`, only a request that surely did
        nothing is sent again."""
        return retry(lambda: self._send(method, path, body, once=once), self._pace.backoff, self._clock)

    def _send(self, method: str, path: str, body: Mapping[str, Any], *, once: bool) -> dict[str, Any]:
        from requests import exceptions

        try:
            response = self._session.request(
                method, self._url + path, json=body, timeout=self._pace.request, allow_redirects=False
            )
        except (exceptions.ConnectionError, exceptions.Timeout) as error:
            raise _lost(path, error, final=once and not _never_sent(error)) from None
        except exceptions.RequestException as error:
            raise EnvironmentFault(
                f"{SERVICE} cannot be called", why=redact(str(error)[:200]), hint=f"{SERVICE} is an http(s) URL"
            ) from None
        if response.status_code == 200:
            return _document(path, response)
        text = redact(" ".join(response.text[:200].split()))
        why = f"HTTP {response.status_code}: {text}"
        if response.status_code in (401, 403):
            raise UpstreamRefused(f"FlagEval refused {path}", why=why, hint=f"{TOKEN} is its key")
        if not retriable(response.status_code) or (once and response.status_code != 429):
            raise UpstreamRefused(f"FlagEval refused {path}", why=why)
        failing = _unavailable(path, why)
        failing.after = retry_after(response.headers.get("Retry-After", ""))
        raise failing


def _unavailable(path: str, why: str) -> HubUnavailable:
    return HubUnavailable(f"FlagEval does not answer {path}", why=why, hint="run again: it goes on")


def _lost(path: str, error: Exception, *, final: bool) -> HubUnavailable:
    """A connection that gave no answer; `final` where the request may have done something."""
    why = f"no answer: {type(error).__name__}"
    if not final:
        return _unavailable(path, why)
    unknown = HubUnavailable(
        "FlagEval did not say whether it has started the evaluation",
        why=why,
        hint="look there before you run again: it may be asking your endpoint",
    )
    unknown.retriable = False
    return unknown


def public_url(template: str, base_url: str) -> str:
    """Our endpoint as the platform reaches it: `{port}` in the template stands for the port that it has here."""
    port = re.search(r":(\d+)/", base_url)
    return template.replace("{port}", port[1] if port else "80").rstrip("/")


def dataset_name(name: str) -> str:
    """A data set's or a benchmark's name in letters and digits alone: `MUSR_0fewshot_@avg`, `MuSR` → `musr`."""
    return re.sub(r"[^a-z0-9]", "", _SUFFIX.sub("", name).lower())


def _never_sent(error: Exception) -> bool:
    """Whether the connection was never made."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return type(error).__name__ == "ConnectTimeout" or type(reason).__name__ in (
        "NewConnectionError",
        "NameResolutionError",
    )


def _document(path: str, response: requests.Response) -> dict[str, Any]:
    try:
        document = json.loads(response.content)
    except ValueError as error:
        raise _garbage(path, f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise _garbage(path, f"a {type(document).__name__} instead of an object")
    return document


def _accepted(path: str, answer: dict[str, Any]) -> dict[str, Any]:
    if answer.get("err_code", 0) != 0:
        raise UpstreamRefused(
            f"FlagEval refused {path}", why=redact(str(answer.get("err_msg", ""))[:200]) or str(answer["err_code"])
        )
    return answer


def _text(answer: Mapping[str, Any], name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str) or not value:
        raise _garbage("its answer", f"{name} is {value!r}")
    return value


def _garbage(path: str, why: str) -> UpstreamRefused:
    return UpstreamRefused(f"FlagEval sent no usable answer to {path}", why=why[:200], hint="tell its operators")
