"""An engine for a test image: answers letter questions, and ends after as many as the file die-after says."""

import json
import signal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from os import _exit
from pathlib import Path

NAME = "SmolLM2-135M-Instruct"
LIMIT = Path(f"/nfs/models/{NAME}/die-after")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    questions = 0

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
        if "top_logprobs" in request:
            Handler.questions += 1
            if LIMIT.exists() and Handler.questions > int(LIMIT.read_text()):
                print("CUDA error: an illegal memory access was encountered", flush=True)
                _exit(9)
        top = [{"token": letter, "logprob": -1.0 - index} for index, letter in enumerate("BACD")]
        logprobs = {"content": [{"token": "B", "logprob": -1.0, "top_logprobs": top}]}
        choice = {"message": {"content": "B"}, "finish_reason": "length", "logprobs": logprobs}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        self.answer({"choices": [choice], "model": NAME, "usage": usage})

    def log_message(self, *_: object) -> None:
        pass


# The first process of a container has no default action for SIGTERM; the engine would wait for 10 s.
signal.signal(signal.SIGTERM, lambda *_: _exit(0))
print("serving", flush=True)
ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
