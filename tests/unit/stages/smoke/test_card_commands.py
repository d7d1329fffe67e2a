"""The card's commands are run as the card prints them, and what was not run is said."""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import support.finished_cell as given
from flagrelease.contract.results import WEIGHTS
from flagrelease.recipe import user_commands
from flagrelease.serving.inside import CheckFailed, Inside
from flagrelease.stages.smoke import card_commands
from flagrelease.stages.smoke.card_commands import CardCommands
from flagrelease.stages.smoke.endpoint_checks import Skipped
from support.contexts import Executing, served


@dataclass
class Service:
    """A chat endpoint on loopback."""

    text: str = "seven"
    status: int = 200
    finish: str | None = "stop"
    port: int = 0
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """(Authorization, body)."""


@contextmanager
def serving(service: Service) -> Iterator[Service]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(json.dumps({"data": []}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            service.requests.append((self.headers.get("Authorization", ""), body))
            if not body.get("stream"):
                self.reply(json.dumps({"choices": [{"message": {"content": service.text}}]}))
                return
            pieces = [{"delta": {"content": letter}} for letter in service.text]
            events = [{"choices": [piece]} for piece in [*pieces, {"delta": {}, "finish_reason": service.finish}]]
            self.reply("".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n")

        def reply(self, text: str) -> None:
            self.send_response(service.status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def on_this_machine(argv: Any) -> str:
    """What a program prints; the machine takes the place of the container."""
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout


def card(tmp_path: Path, service: Service, **image: Any) -> CardCommands:
    server = replace(
        served(Executing(on_this_machine)),
        base_url=f"http://127.0.0.1:{service.port}/v1",
        port_inside=service.port,
    )
    context = given.context(tmp_path, registry=None)
    made = given.image(**image)
    inside = Inside(
        cell=given.job().cell,
        context=context,
        server=server,
        image=made,
        weights=context.finished.result(WEIGHTS),
    )
    return CardCommands(container=inside)


def test_anything_llm_is_proven_by_the_requests_that_it_makes(tmp_path: Path) -> None:
    with serving(Service()) as service:
        said = card_commands.anything_llm(card(tmp_path, service).container)
    assert said == "system prompt, conversation and question: 6 chunks and 5 characters"
    assert {key for key, _ in service.requests} == {"Bearer EMPTY"}
    streamed, whole = sorted((body for _, body in service.requests), key=lambda body: "stream" not in body)
    assert streamed == {**whole, "stream": True}
    assert (whole["model"], whole["temperature"], whole["max_tokens"]) == ("SmolLM2-135M-Instruct", 0.7, 256)
    assert [message["role"] for message in whole["messages"]] == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize(
    ("service", "why"),
    [
        (Service(text=""), "an answer is empty"),
        (Service(finish=None), "the stream ended without a finish_reason"),
    ],
)
def test_what_anything_llm_cannot_use_is_refused(service: Service, why: str, tmp_path: Path) -> None:
    with serving(service), pytest.raises(CheckFailed, match=why):
        card_commands.anything_llm(card(tmp_path, service).container)


def test_curl_is_run_as_printed_except_for_the_port(tmp_path: Path) -> None:
    with serving(Service()) as service:
        tried = card(tmp_path, service)
        assert card_commands.curl(tried) == "curl got 'seven'"
    assert service.requests[0][1]["messages"] == [{"role": "user", "content": user_commands.QUESTION}]
    assert tried.commands() == {name: tried.texts[name] for name in ("wait", "chat")}
    told = json.loads(tried.report())
    assert told["run"][1] == {
        "name": "chat",
        "text": user_commands.chat(given.job().cell.model),
        "replaced": {"http://localhost:8000/v1": f"http://localhost:{service.port}/v1"},
        "output": '{"choices": [{"message": {"content": "seven"}}]}',
    }


@pytest.mark.slow  # importing openai's client takes two seconds, and the integration test of smoke runs it as well
def test_python_is_run_in_an_empty_folder(tmp_path: Path) -> None:
    with serving(Service()) as service:
        tried = card(tmp_path, service)
        for name in (user_commands.PYTHON, user_commands.PYTHON_STREAM):
            assert card_commands.python(tried, name) == "Python got 'seven'"
    assert [body.get("stream", False) for _, body in service.requests] == [False, True]
    assert list(tried.commands()) == ["python", "python, streaming"]


def test_what_is_not_run_has_a_reason_and_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(card_commands.OFFLINE, "1")
    tried = card(tmp_path, Service(), runner="process")
    for check in (card_commands.download, card_commands.pull):
        with pytest.raises(Skipped):
            check(tried)
    assert tried.commands() == {}
    assert tried.not_run == {
        "download": "FLAGRELEASE_OFFLINE is set",
        "verify": "FLAGRELEASE_OFFLINE is set",
        "pull": "served by processes, without Docker",
    }
    assert json.loads(tried.report()) == {"run": [], "not_run": tried.not_run}


def test_the_download_runs_while_the_service_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(card_commands.OFFLINE, "1")
    with serving(Service()) as service:
        tried = card(tmp_path, service)
        checks = dict(tried.all_of())
        assert list(checks)[-1] == "card: download"
        checks["card: curl"]()
        with pytest.raises(Skipped, match="FLAGRELEASE_OFFLINE is set"):
            checks["card: download"]()
    assert list(tried.commands()) == ["wait", "chat"]
    assert list(tried.not_run) == ["download", "verify"]
