"""Measure how close the harness comes to the maximum request rate of a server.

The server answers each request after 50 ms, regardless of their number; with 64 requests in flight the ideal is 1,280
per second. It runs in a separate process. For comparison the same load is sent with httpx.

    python benchmarks/harness_saturation.py [--requests 6000] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from flagrelease.evaluation.harnesses.own import OwnHarness
from flagrelease.evaluation.question import Question
from flagrelease.evaluation.request import Endpoint, Evaluation, EvaluationRequest
from flagrelease.evaluation.spec import asks
from flagrelease.evaluation.tasks import TASKS

SECONDS = 0.050
AT_ONCE = 64
GOAL = 0.90


TOP = [{"token": letter, "logprob": -1.0 - index} for index, letter in enumerate("BACDEFGHIJKLMNOPQRST")]
CHOICE = {
    "index": 0,
    "message": {"role": "assistant", "content": "B"},
    "finish_reason": "length",
    "logprobs": {"content": [{"token": "B", "logprob": -1.0, "top_logprobs": TOP}]},
}
BODY = json.dumps({"choices": [CHOICE], "usage": {"prompt_tokens": 128, "completion_tokens": 1}}).encode()
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


class Answering(asyncio.Protocol):
    """Answers a letter question with log-probabilities, as llama.cpp and vLLM do."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, blank, rest = self.received.partition(b"\r\n\r\n")
        if not blank:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(rest) >= length:
            self.received = rest[length:]
            asyncio.get_running_loop().call_later(SECONDS, self.transport.write, ANSWER)


def serve(pipe: Connection) -> None:
    async def forever() -> None:
        server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0, backlog=256)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(forever())


def through_harness(port: int, requests: int) -> float:
    """Requests per second, including writing the samples."""
    text = "word " * 100
    questions = [
        Question(
            subset="all",
            id=f"q{number}",
            messages=({"role": "user", "content": f"{text}{number}"},),
            reference=("ABCD", "B"),
        )
        for number in range(requests)
    ]
    evaluation = Evaluation(
        benchmark="saturation",
        task=TASKS["multiple-choice"],
        asks=asks(questions, range(1)),
        parameters={"temperature": 0, "max_tokens": 1, "logprobs": True, "top_logprobs": 20},
        concurrency=AT_ONCE,
    )
    endpoint = Endpoint(base_url=f"http://127.0.0.1:{port}/v1", model="m")
    with tempfile.TemporaryDirectory() as folder:
        tally = OwnHarness().evaluate(
            EvaluationRequest(endpoint=endpoint, evaluation=evaluation, into=Path(folder) / "samples.jsonl")
        )
    assert tally.score == requests
    return requests / tally.seconds


def through_httpx(port: int, requests: int) -> float:
    """Requests per second with one httpx client per worker (a shared client is much slower)."""
    import httpx

    message = {"model": "m", "messages": [{"role": "user", "content": "word " * 100}], "max_tokens": 1}
    waiting = iter(range(requests))

    async def worker() -> None:
        async with httpx.AsyncClient(trust_env=False, verify=False) as client:  # noqa: S501  no TLS here
            for _ in waiting:
                answer = await client.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=message)
                json.loads(answer.content)

    async def run_workers() -> None:
        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))

    start = time.perf_counter()
    asyncio.run(run_workers())
    return requests / (time.perf_counter() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    try:
        port = ours.recv()
        ideal = AT_ONCE / SECONDS
        rates = {"harness": through_harness(port, arguments.requests), "httpx": through_httpx(port, arguments.requests)}
    finally:
        server.terminate()
    share = {name: rate / ideal for name, rate in rates.items()}
    if arguments.json:
        print(json.dumps({"ideal": ideal, "rates": rates, "share": share, "goal": GOAL}))
    else:
        print(f"ideal    {ideal:6.0f} requests/s ({AT_ONCE} at once, {1000 * SECONDS:.0f} ms each)")
        for name, rate in rates.items():
            print(f"{name:8} {rate:6.0f} requests/s, {share[name]:.0%} of ideal")
    return 0 if share["harness"] >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
