"""Client of the FlagEval platform, which asks an endpoint its own questions and reports a score per data set.

The protocol (JSON over HTTP, flagos.md §6.2): POST /evaluation starts an evaluation and
returns its request id; POST /evaluation_progress reports its state (R running, S done, F failed, C cancelled, OOR out
of retries); GET /evaldiffs, with a JSON body, reports the scores; POST /stop_evaluation and /resume_evaluation. It
reports no answers, so nothing can be paired by question.
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
    """An evaluation as it is submitted to the platform."""

    eval_url: str
    """Our endpoint's URL as the platform reaches it."""
    model: str
    """The model's name at the endpoint."""
    eval_model: str
    """The name under which the platform keeps the scores: `qwen3-8b-metax-flagos`."""
    base_model_name: str
    """The model's title."""
    chip: str
    """The name of the chip's device."""
    gen_kwargs: str
    """Sampling parameters, `a=1,b=2`."""
    num_concurrent: int
    """Requests in flight."""
    thinking: bool
    """Whether the model reasons before it answers."""
    tokenizer: str = ""
    """Empty for the platform's default."""
    api_key: str = field(default="EMPTY", repr=False)
    """The endpoint's key."""

    def body(self) -> dict[str, Any]:
        info = {**asdict(self), "batch_size": 1, "num_retry": 10, "max_gen_toks": -1, "retry_time": -1}
        where = {"domain": "NLP", "mode": "FlagRelease", "region": "bj", "special_event": "Chips", "user_id": 0}
        return {"eval_infos": [info], **where}


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The platform's progress with a request."""

    status: str
    """R, S, F, C or OOR (see the module)."""
    done: int
    """Data sets finished."""
    total: int
    """Data sets in all."""
    running: str
    """The running data set and its progress, as text."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Intervals and limits in seconds. Polls as upstream does: 30 s five times, 60 s ten times, then 120 s."""

    polls: tuple[tuple[int, float], ...] = ((5, 30.0), (15, 60.0))
    """(number of the last poll, pause before each poll up to it)."""
    then: float = 120.0
    """The pause before every further poll."""
    deadline: float = 24 * 3600.0
    """The limit of one evaluation."""
    request: float = 30.0
    """The timeout of one request to the platform."""
    watch: float = 1.0
    """The interval at which our own server is checked."""
    backoff: Backoff = _BACKOFF
    """The backoff after connection failures and retriable statuses."""

    def poll(self, number: int) -> float:
        """The pause before poll `number`, counted from 1."""
        return next((seconds for until, seconds in self.polls if number <= until), self.then)


@dataclass(frozen=True, kw_only=True)
class _SavedRequest:
    """A request at the platform, as saved on disk."""

    url: str
    """The platform's URL."""
    eval_url: str
    """Our endpoint's URL."""
    asked: Mapping[str, Any]
    """The submission without URL and key."""
    request_id: str
    """The platform's id of the request."""
    scores: Mapping[str, float] | None = None
    """The score (a fraction of 1) of each data set, once done."""
    resumed: bool = True
    """Whether this run started or resumed the request."""


def _read(state: Path) -> _SavedRequest | None:
    try:
        return _SavedRequest(**json.loads(state.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _write(state: Path, saved: _SavedRequest) -> None:
    state.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(state, json.dumps(asdict(saved)).encode())


class FlagEval:
    """A client of the platform at `url`; `token` is a bearer token, empty where none is required."""

    def __init__(self, url: str, token: str = "", pace: Pace | None = None, clock: Clock | None = None) -> None:
        self._url = url.rstrip("/")
        self._pace = pace or Pace()
        self._clock = clock or SystemClock()
        import requests  # takes a third of a second and only this harness needs it

        self._session = requests.Session()
        self._session.trust_env = False  # ignore ~/.netrc: send no other key
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
        """The score (a fraction of 1) of each of the platform's data sets, by the platform's name.

        The file `state` holds the request's id, and then its scores: a run that was stopped continues the same
        request, or reads the scores. `watch` is called about once a second; any exception stops the request at the
        platform. Raises SmokeFailed if the evaluation failed, UpstreamRefused, HubUnavailable.
        """
        saved = self._begin(submission, state)
        if saved.scores is None:
            try:
                self._wait(saved.request_id, saved.resumed, watch, report)
            except BaseException:
                with suppress(FlagreleaseError):
                    self.stop(saved.request_id)
                raise
            saved = replace(saved, scores=self.scores(saved.request_id, submission.eval_model))
            _write(state, saved)
        return dict(saved.scores or {})

    def _begin(self, submission: Submission, state: Path) -> _SavedRequest:
        """The saved request, or a new one."""
        asked = {name: value for name, value in asdict(submission).items() if name not in ("eval_url", "api_key")}
        saved = _read(state)
        if saved is not None and saved.asked == asked and saved.url == self._url:
            if saved.scores is not None or saved.eval_url == submission.eval_url:
                return replace(saved, resumed=False)
            with suppress(FlagreleaseError):  # its endpoint no longer exists
                self.stop(saved.request_id)
        request_id = self.submit(submission)
        saved = _SavedRequest(url=self._url, eval_url=submission.eval_url, asked=asked, request_id=request_id)
        _write(state, saved)
        return saved

    def _wait(
        self, request_id: str, resumed: bool, watch: Callable[[], None], report: Callable[[Progress], None]
    ) -> None:
        """Wait until the request is done. If an earlier run's request has failed in the meantime, resume it once."""
        start = self._clock.monotonic()
        poll = 0
        while True:
            progress = self.progress(request_id)
            report(progress)
            if progress.status == "S":
                return
            if progress.status in _ENDED:
                if resumed:
                    raise SmokeFailed(
                        f"FlagEval did not finish {request_id}",
                        why=f"{_ENDED[progress.status]} after {progress.done} of {progress.total} data sets",
                        hint="run again to resume it; see the platform's log",
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
                    why=f"{progress.done} of {progress.total} data sets are done",
                    hint="run again to resume it",
                )

    def submit(self, submission: Submission) -> str:
        """Start an evaluation and return its request id. Never sends a request again that may have arrived."""
        answer = self._call("POST", "/evaluation", submission.body(), once=True)
        return _text(_accepted("/evaluation", answer), "request_id")

    def progress(self, request_id: str) -> Progress:
        answer = self._call("POST", "/evaluation_progress", {"request_id": request_id, "domain": "NLP"})
        counts = re.fullmatch(r"(\d+)/(\d+)", str(answer.get("datasets_progress", "")))
        running = " ".join(str(answer.get(name) or "") for name in ("running_dataset", "running_progress")).strip()
        done, total = (int(counts[1]), int(counts[2])) if counts else (0, 0)
        return Progress(status=_text(answer, "status"), done=done, total=total, running=running[:80])

    def scores(self, request_id: str, eval_model: str) -> dict[str, float]:
        """The score of each data set. Raises UpstreamRefused for a missing score, NaN, text, or a percentage."""
        answer = _accepted("/evaldiffs", self._call("GET", "/evaldiffs", {"request_id": request_id}))
        results = answer.get("eval_results")
        result = results.get(eval_model) if isinstance(results, dict) else None
        details = result.get("details") if isinstance(result, dict) else None
        if not isinstance(details, list) or not details:
            raise _invalid_response("/evaldiffs", f"no scores of {eval_model}")
        scores: dict[str, float] = {}
        for detail in details:
            name = detail.get("dataset") if isinstance(detail, dict) else None
            if not isinstance(name, str) or name in scores:
                raise _invalid_response("/evaldiffs", f"invalid or repeated data set {name!r}")
            score = detail.get("accuracy")
            if detail.get("status") != "S":
                raise SmokeFailed(f"FlagEval did not finish {name}", why=f"status {detail.get('status')!r}")
            if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
                raise _invalid_response("/evaldiffs", f"the score of {name} is {score!r}, not a fraction of 1")
            scores[name] = float(score)
        return scores

    def stop(self, request_id: str) -> None:
        self._call("POST", "/stop_evaluation", {"request_id": request_id})

    def resume(self, request_id: str) -> None:
        _accepted("/resume_evaluation", self._call("POST", "/resume_evaluation", {"request_id": request_id}))

    def _call(self, method: str, path: str, body: Mapping[str, Any], *, once: bool = False) -> dict[str, Any]:
        """Send a request, retrying within the budget of the pace's backoff, and return the response.

        With `once`, retry only if the request certainly had no effect.
        """
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
                f"{SERVICE} is not a usable URL", why=redact(str(error))[:200], hint=f"set {SERVICE} to an http(s) URL"
            ) from None
        if response.status_code == 200:
            return _document(path, response)
        text = redact(" ".join(response.text[:2000].split()))[:200]
        why = f"HTTP {response.status_code}: {text}"
        if response.status_code in (401, 403):
            hint = f"set {TOKEN} to its key, which is sent over https only"
            raise UpstreamRefused(f"FlagEval refused {path}", why=why, hint=hint)
        if not retriable(response.status_code) or (once and response.status_code != 429):
            raise UpstreamRefused(f"FlagEval refused {path}", why=why)
        failing = _unavailable(path, why)
        failing.after = retry_after(response.headers.get("Retry-After", ""))
        raise failing


def _unavailable(path: str, why: str) -> HubUnavailable:
    return HubUnavailable(f"FlagEval does not answer {path}", why=why, hint="run again to continue")


def _lost(path: str, error: Exception, *, final: bool) -> HubUnavailable:
    """The error of a connection without a response; `final` if the request may have had an effect."""
    why = f"no response: {type(error).__name__}"
    if not final:
        return _unavailable(path, why)
    unknown = HubUnavailable(
        "FlagEval did not confirm whether it started the evaluation",
        why=why,
        hint="check the platform before you run again: it may be sending requests to your endpoint",
    )
    unknown.retriable = False
    return unknown


def public_url(template: str, base_url: str) -> str:
    """Our endpoint's URL as the platform reaches it: the template with `{port}` replaced by the local port."""
    port = re.search(r":(\d+)/", base_url)
    return template.replace("{port}", port[1] if port else "80").rstrip("/")


def dataset_name(name: str) -> str:
    """Normalize the name of a data set or benchmark: `MUSR_0fewshot_@avg` and `MuSR` become `musr`."""
    return re.sub(r"[^a-z0-9]", "", _SUFFIX.sub("", name).lower())


def _never_sent(error: Exception) -> bool:
    """Whether the connection was never established."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return type(error).__name__ == "ConnectTimeout" or type(reason).__name__ in (
        "NewConnectionError",
        "NameResolutionError",
    )


def _document(path: str, response: requests.Response) -> dict[str, Any]:
    try:
        document = json.loads(response.content)
    except (ValueError, RecursionError) as error:
        raise _invalid_response(path, f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise _invalid_response(path, f"a {type(document).__name__} instead of an object")
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
        raise _invalid_response("a request", f"{name} is {value!r}")
    return value


def _invalid_response(path: str, why: str) -> UpstreamRefused:
    hint = "report this to its operators"
    return UpstreamRefused(f"FlagEval sent an invalid response to {path}", why=why[:200], hint=hint)
