"""An engine in an image of its own that fails in one chosen way. It goes into test images only."""

import json
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from os import _exit, environ

MODE = sys.argv[1]
ANSWERS = {
    "garbage": b"<html>oops</html>",
    "no-choices": b'{"choices": []}',
    "nan": b'{"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "model": "m", "usage": {"n": NaN}}',
}


class Handler(BaseHTTPRequestHandler):
    chats = 0

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        name = "another" if MODE == "wrong-name" else "SmolLM2-135M-Instruct"
        self.answer(json.dumps({"data": [{"id": name}]}).encode())

    def do_POST(self) -> None:
        Handler.chats += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        if MODE == "later" and Handler.chats > 1:
            print("the last words", flush=True)
            _exit(7)
        choice = {"message": {"content": "fine"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        document = {"choices": [choice], "model": "SmolLM2-135M-Instruct", "usage": usage}
        self.answer(ANSWERS.get(MODE, json.dumps(document).encode()))

    def log_message(self, *_: object) -> None:
        pass


signal.signal(signal.SIGTERM, lambda *_: _exit(0))
for number in range(300):
    print(f"line {number}", flush=True)
time.sleep(0.3)  # Docker copies stdout and stderr apart; let the lines above arrive first
if MODE == "dies":
    sys.exit("model file is broken")
if MODE == "port":
    sys.exit("bind: Address already in use")
if MODE == "silent":
    time.sleep(600)
server = ThreadingHTTPServer(("0.0.0.0", int(environ.get("FLAGOS_PORT", "8000"))), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
time.sleep(600)
