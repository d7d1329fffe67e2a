"""An engine for a test image: streams tokens at the pace that pace.json in the model's folder sets.

`each` seconds a token; its stack `flagos` is `slower` times slower; it ends after `die_after` completions.
"""

import json
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from os import _exit
from pathlib import Path

NAME = "SmolLM2-135M-Instruct"
PACE = json.loads(Path(f"/nfs/models/{NAME}/pace.json").read_text())
EACH = PACE["each"] * (1.0 if sys.argv[1:] == ["native"] else PACE.get("slower", 1.0))


class Handler(BaseHTTPRequestHandler):
    completions = 0

    def answer(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.answer({"data": [{"id": NAME}]})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "messages" in request:
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            choice = {"message": {"content": "fine"}, "finish_reason": "stop"}
            self.answer({"choices": [choice], "model": NAME, "usage": usage})
            return
        Handler.completions += 1
        if "die_after" in PACE and Handler.completions > PACE["die_after"]:
            print("CUDA error: an illegal memory access was encountered", flush=True)
            _exit(9)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for _ in range(request["max_tokens"]):
            time.sleep(EACH)
            self.event({"choices": [{"text": " x", "finish_reason": None}]})
        usage = {"prompt_tokens": len(request["prompt"]), "completion_tokens": request["max_tokens"]}
        self.event({"choices": [{"text": "", "finish_reason": "length"}], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, document: object) -> None:
        self.wfile.write(b"data: " + json.dumps(document).encode() + b"\n\n")
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


signal.signal(signal.SIGTERM, lambda *_: _exit(0))
print("serving", flush=True)
ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
