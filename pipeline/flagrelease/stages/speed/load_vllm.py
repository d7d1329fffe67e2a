"""Load from `vllm bench serve`, upstream's tool, run inside the serving container; every vLLM image contains it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

from flagrelease.errors import SmokeFailed
from flagrelease.stages.speed.load import Load, LoadPoint, LoadTool, Request, reported_load, reported_request

__all__ = ["LOAD_TOOL", "VllmBench", "argv", "parse"]

_FOLDER = "/tmp"  # noqa: S108 - in the container

# Importing vLLM takes longer than a small run, so one interpreter imports it and forks for every command line.
_RUN_ALL = """
import json, os, sys
import vllm.benchmarks.serve
from vllm.entrypoints.cli.main import main
for line in json.loads(sys.argv[1]):
    print("$", *line, flush=True)
    child = os.fork()
    if child == 0:
        sys.argv = line
        sys.exit(main())
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        sys.exit(code if code > 0 else 128 - code)
"""

Execute = Callable[..., tuple[int, str]]
"""Running.execute: runs a program in the container; returns its exit code and output."""


class VllmBench:
    """Runs the tool with `execute` in the container, in which the server has `port` and the model is in `tokenizer`."""

    name = "vllm bench serve"

    def __init__(self, execute: Execute, *, model: str, tokenizer: str, port: int, seconds: float = 7200.0) -> None:
        self._execute = execute
        self._model = model
        self._tokenizer = tokenizer
        self._port = port
        self._seconds = seconds

    def measure(self, points: Sequence[LoadPoint], seed: int) -> list[Load]:
        """See LoadGenerator.measure."""
        return self._run([(self._port, point) for point in points], seed)

    def in_turns(self, other: VllmBench, points: Sequence[LoadPoint], seed: int) -> list[tuple[Load, Load]]:
        """See SlowStarter.in_turns. The other server's model and tokenizer are the same."""
        ports = (self._port, other._port)
        orders = [ports if number % 2 == 0 else ports[::-1] for number in range(len(points))]
        runs = [(port, point) for order, point in zip(orders, points, strict=True) for port in order]
        loads = self._run(runs, seed)
        pairs = zip(orders, loads[::2], loads[1::2], strict=True)
        return [(first, second) if order == ports else (second, first) for order, first, second in pairs]

    def _run(self, runs: Sequence[tuple[int, LoadPoint]], seed: int) -> list[Load]:
        """Run (port, point) pairs one after the other."""
        files = [f"{_FOLDER}/flagrelease-load-{number}.json" for number in range(len(runs))]
        lines = [
            argv(point, seed, model=self._model, tokenizer=self._tokenizer, port=port, file=file)
            for (port, point), file in zip(runs, files, strict=True)
        ]
        code, printed = self._execute(["python3", "-c", _RUN_ALL, json.dumps(lines)], seconds=self._seconds)
        if code:
            points = dict.fromkeys(point for _, point in runs)
            raise SmokeFailed(
                f"{self.name} ended with {code} ({', then '.join(map(str, points))})",
                why=printed.strip().rpartition("\n")[2][:200] or "no output",
                hint="the end of its output is below",
                detail="\n".join(printed.splitlines()[-40:]),
            )
        texts = [self._execute(["cat", file], seconds=60)[1] for file in files]
        self._execute(["rm", "-f", *files], seconds=60)
        return [parse(text) for text in texts]


def argv(point: LoadPoint, seed: int, *, model: str, tokenizer: str, port: int, file: str) -> list[str]:
    """The command line of upstream's performance test, with the results written to `file`."""
    folder, _, name = file.rpartition("/")
    options: dict[str, object] = {
        "backend": "openai",
        "base-url": f"http://127.0.0.1:{port}",
        "endpoint": "/v1/completions",
        "model": model,
        "tokenizer": tokenizer,
        "dataset-name": "random",
        "random-input-len": point.input_tokens,
        "random-output-len": point.output_tokens,
        "num-prompts": point.requests,
        "num-warmups": point.concurrency,
        "max-concurrency": point.concurrency,
        "seed": seed,
        "temperature": 0,
        "result-dir": folder,
        "result-filename": name,
    }
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return ["vllm", "bench", "serve", *arguments, "--ignore-eos", "--save-result", "--save-detailed", "--disable-tqdm"]


def parse(text: str) -> Load:
    """Parse the file of `--save-result --save-detailed`. Older versions write neither latencies nor start times.

    Raises SmokeFailed.
    """
    try:
        report: dict[str, Any] = json.loads(text)
        ttfts, itls = report["ttfts"], report["itls"]
        starts: Sequence[float] = report.get("start_times") or [0.0] * len(ttfts)
        first = min(starts, default=0.0)
        latencies = report.get("latencies") or [ttft + sum(gaps) for ttft, gaps in zip(ttfts, itls, strict=True)]
        rows = zip(
            starts,
            ttfts,
            latencies,
            report["input_lens"],
            report["output_lens"],
            report.get("errors") or list(repeat("", len(ttfts))),
            strict=True,
        )
        requests = [_request(start - first, *row) for start, *row in rows]
        gaps = [gap for request, own in zip(requests, itls, strict=True) if not request.error for gap in own]
        return reported_load(requests, seconds=report["duration"], gaps=gaps)
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise SmokeFailed(
            "the result of vllm bench serve cannot be read",
            why=f"{type(error).__name__}: {error}",
            hint="check its version; --save-detailed must write ttfts, itls, input_lens and output_lens",
        ) from None


def _request(start: float, ttft: float, e2e: float, before: int, after: int, error: str) -> Request:
    # A request that failed without an error text has no output.
    failed = (error.strip().rpartition("\n")[2][:200] or "failed") if error or not after else ""
    return reported_request(start=start, ttft=ttft, e2e=e2e, before=before, after=after, error=failed)


LOAD_TOOL = LoadTool(
    make=lambda target, _env: VllmBench(
        target.execute, model=target.model, tokenizer=target.folder_inside, port=target.port_inside
    ),
    engine="vllm",
)
