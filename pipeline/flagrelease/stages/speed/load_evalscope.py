"""Load from `evalscope perf`, an optional tool in a separate Python environment outside the container.

`FLAGRELEASE_EVALSCOPE` is the path of the program. Its request table (benchmark_data.db) is read instead of its
summary, so that every metric follows the definitions in load.py.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from flagrelease.errors import SmokeFailed
from flagrelease.ports.evalscope_program import PROGRAM, lacking
from flagrelease.ports.http import past_proxies
from flagrelease.stages.speed.load import Load, LoadPoint, LoadTool, reported_load, reported_request

if TYPE_CHECKING:
    from flagrelease.ports.command import Command

__all__ = ["LOAD_TOOL", "EvalscopePerf", "argv", "parse"]

_DATABASE = "benchmark_data.db"
_COLUMNS = (
    "start_time, completed_time, latency, first_chunk_latency, prompt_tokens, completion_tokens, success, "
    "inter_token_latencies"
)


class EvalscopePerf:
    """Runs evalscope's `program`; `tokenizer` is a folder with the model's tokenizer on this host."""

    name = "evalscope perf"

    def __init__(
        self, program: str, command: Command, *, base_url: str, model: str, tokenizer: Path, seconds: float = 7200.0
    ) -> None:
        self._program = program
        self._command = command
        self._base_url = base_url
        self._model = model
        self._tokenizer = tokenizer
        self._seconds = seconds

    def measure(self, points: Sequence[LoadPoint], seed: int) -> list[Load]:
        """See LoadGenerator.measure. Raises CommandFailed, or EnvironmentFault if the program is missing."""
        return [self._measure(point, seed) for point in points]

    def _measure(self, point: LoadPoint, seed: int) -> Load:
        with tempfile.TemporaryDirectory(prefix="flagrelease-load-") as folder:
            arguments = argv(point, seed, url=self._base_url, model=self._model, tokenizer=self._tokenizer, into=folder)
            self._command(
                [self._program, *arguments],
                seconds=self._seconds,
                env=past_proxies(),
                hint=f"{PROGRAM} is the path of the program",
            )
            databases = sorted(Path(folder).rglob(_DATABASE))
            if len(databases) != 1:
                raise SmokeFailed(f"evalscope perf wrote {len(databases)} request tables instead of one")
            return parse(databases[0])


def argv(point: LoadPoint, seed: int, *, url: str, model: str, tokenizer: Path, into: str) -> list[str]:
    """The arguments after the program's name."""
    options: dict[str, object] = {
        "url": f"{url}/completions",
        "api": "openai",
        "model": model,
        "tokenizer-path": tokenizer,
        "dataset": "random",
        "min-prompt-length": point.input_tokens,
        "max-prompt-length": point.input_tokens,
        "min-tokens": point.output_tokens,
        "max-tokens": point.output_tokens,
        "parallel": point.concurrency,
        "number": point.requests,
        "seed": seed,
        "extra-args": json.dumps({"ignore_eos": True}),
        "outputs-dir": into,
        "name": "load",
    }
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return ["perf", *arguments, "--stream", "--no-timestamp"]


def parse(database: Path) -> Load:
    """Read evalscope's request table (1.14); all times are in seconds and of the same clock. Raises SmokeFailed."""
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            rows = connection.execute(f"SELECT {_COLUMNS} FROM result ORDER BY start_time").fetchall()  # noqa: S608
    except sqlite3.Error as error:
        raise _unreadable(str(error)) from None
    if not rows:
        raise SmokeFailed("evalscope perf sent no requests", why="its request table is empty")
    try:
        first, last = min(row[0] for row in rows), max(row[1] for row in rows)
        requests = [
            reported_request(
                start=start - first,
                ttft=ttft,
                e2e=latency,
                before=before,
                after=after,
                error="" if success else "failed",
            )
            for start, _end, latency, ttft, before, after, success, _gaps in rows
        ]
        gaps = [gap for row in rows if row[6] for gap in json.loads(row[7] or "[]")]
        return reported_load(requests, seconds=last - first, gaps=gaps)
    except (ValueError, TypeError, RecursionError) as error:
        raise _unreadable(f"{type(error).__name__}: {error}") from None


def _unreadable(why: str) -> SmokeFailed:
    return SmokeFailed(
        "evalscope's request table cannot be read", why=why, hint="use evalscope 1.14, whose format is expected"
    )


LOAD_TOOL = LoadTool(
    make=lambda target, env: EvalscopePerf(
        env[PROGRAM], target.command, base_url=target.base_url, model=target.model, tokenizer=target.tokenizer
    ),
    lacking=lacking,
)
