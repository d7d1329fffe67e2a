"""In a test image: starts an engine into the background as FlagScale does; each answer is real products of torch."""

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NAME = "Tiny"


def start() -> None:
    """`flagscale serve NAME CONFIG --port N`."""
    logs = Path(json.loads((Path(sys.argv[3]).parent / "manifest.json").read_text())["serve"]["logs"])
    (logs / "pids").mkdir(parents=True, exist_ok=True)
    with (logs / "host_0_localhost.output").open("wb") as output:
        command = [sys.executable, __file__, sys.argv[sys.argv.index("--port") + 1]]
        engine = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    (logs / "pids/host_0_localhost.pid").write_text(str(engine.pid))


class Handler(BaseHTTPRequestHandler):
    def answer(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.answer({"data": [{"id": NAME}]})

    def do_POST(self) -> None:
        import torch

        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        tokens = len(request["messages"][0]["content"].split())
        rows = torch.ones(tokens, 64, dtype=torch.bfloat16) @ torch.ones(64, 64, dtype=torch.bfloat16)
        choice = {"message": {"content": f"{(-rows)[0, 0].item():.0f}"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1}
        self.answer({"choices": [choice], "model": NAME, "usage": usage})

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    import torch  # noqa: F401 -- an engine has it loaded before it answers

    print("bundle", os.environ.get("FLAGKERNELS_BUNDLE"), flush=True)
    ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
