"""Benchmark data that is drawn by a seed instead of read from a file: the table of generators."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flagrelease.config.sources import Generated
from flagrelease.errors import ConfigError, did_you_mean
from flagrelease.evaluation.generated import short_tasks

__all__ = ["GENERATORS", "generate"]

GENERATORS: Mapping[str, Callable[[int], Iterator[Mapping[str, Any]]]] = {
    "short-tasks": short_tasks.rows,
}
"""By the name in `generated://NAME?…`: a function from the seed to an endless sequence of distinct rows."""


def generate(benchmark: str, source: Generated) -> bytes:
    """The rows as JSON lines; the same source gives the same bytes. Raises ConfigError for an unknown generator."""
    if source.name not in GENERATORS:
        raise ConfigError(
            f"benchmark {benchmark} has the unknown generator {source.name!r}",
            hint=did_you_mean(source.name, GENERATORS),
        )
    rows = GENERATORS[source.name](source.seed)
    return "".join(json.dumps(next(rows), ensure_ascii=False) + "\n" for _ in range(source.questions)).encode()
