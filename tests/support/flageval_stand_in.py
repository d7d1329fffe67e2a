"""The FlagEval platform in this process: it speaks the platform's protocol, and misbehaves on demand."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SCORES: dict[str, Any] = {"AIME_0fewshot_@avg1": 0.7333, "MMLU_5fewshot_@avg1": 0.6992, "MUSR_0fewshot_@avg": 0.6071}

Trouble = Callable[[str, int], tuple[int, dict[str, str], bytes] | None]
"""Given path and how often it was called: status, headers and body to answer instead, or nothing. Status 0 drops."""


@dataclass
class Platform:
    """`course` is the states that a request goes through, one for each time it is asked; the last one stays."""

    course: list[str] = field(default_factory=lambda: ["R", "R", "S"])
    scores: dict[str, Any] = field(default_factory=lambda: dict(SCORES))
    token: str = ""
    trouble: Trouble = lambda _path, _count: None
    calls: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    models: dict[str, str] = field(default_factory=dict)
    url: str = ""

    def paths(self) -> list[str]:
        return [path for _, path, _ in self.calls]

    def answer(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if (method, path) == ("POST", "/evaluation"):
            request_id = f"request-{len(self.models)}"
            self.models[request_id] = body["eval_infos"][0]["eval_model"]
            return {"err_code": 0, "err_msg": "eval task begin", "request_id": request_id, "eval_tasks": {}}
        request_id = body["request_id"]
        if request_id not in self.models:
            return {"err_code": 1, "err_msg": "request_id not found"}
        if (method, path) == ("POST", "/evaluation_progress"):
            status = self.course.pop(0) if len(self.course) > 1 else self.course[0]
            done = len(self.scores) if status == "S" else 1
            running = {"running_dataset": "AIME", "running_progress": "3/30"} if status == "R" else {}
            progress = {"finished": status == "S", "status": status, "datasets_progress": f"{done}/{len(self.scores)}"}
            return {"running_dataset": "", "running_progress": "", **progress, **running}
        if (method, path) == ("GET", "/evaldiffs"):
            details = [{"dataset": n, "status": "S", "accuracy": a, "rawDetails": {}} for n, a in self.scores.items()]
            result = {"status": self.course[0], "details": details}
            return {"err_code": 0, "err_msg": "", "eval_results": {self.models[request_id]: result}}
        if (method, path) in (("POST", "/stop_evaluation"), ("POST", "/resume_evaluation")):
            return {"err_code": 0, "err_msg": ""}
        raise AssertionError(f"{method} {path} is not in the protocol")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    platform: Platform

    def _any(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        self.platform.calls.append((self.command, self.path, body))
        trouble = self.platform.trouble(self.path, self.platform.paths().count(self.path))
        if trouble is not None and trouble[0] == 0:
            self.close_connection = True
            self.connection.close()
        elif trouble is not None:
            self._send(*trouble)
        elif self.platform.token and self.headers.get("Authorization") != f"Bearer {self.platform.token}":
            self._send(401, {}, b'{"detail":"who are you?"}')
        else:
            self._send(200, {}, json.dumps(self.platform.answer(self.command, self.path, body)).encode())

    do_GET = do_POST = _any  # noqa: N815 - the names are http.server's

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def platform(**changes: Any) -> Iterator[Platform]:
    one = Platform(**changes)
    handler = type("Handler", (_Handler,), {"platform": one})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    one.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield one
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
