"""Qualify each operator in a separate process, at the model's shapes and similar ones.

Verdicts: correct, wrong, crash, hang, out-of-memory, unsupported, nondeterministic. Each is a row in a JSONL file,
synced before the next operator is counted; a second run does only what is missing."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flagkernels.arguments import add_option, at_least
from flagkernels.errors import ChipFault, NothingToDo, UsageError, did_you_mean
from flagkernels.files import append_line, write_json
from flagkernels.model import trace
from flagkernels.model.trace import Trace
from flagkernels.operators import catalogue
from flagkernels.progress import Progress
from flagkernels.qualify import pool, worker
from flagkernels.qualify.cases import CONTEXT, cases_for, memory_for
from flagkernels.qualify.pool import Outcome
from flagkernels.qualify.rows import VERDICTS, Limits, Row, key_of, read_rows, row_of
from flagkernels.qualify.worker import UNOPENED, Job

__all__ = [
    "Method",
    "add_arguments",
    "choose",
    "free_memory",
    "main",
    "qualify",
    "width_for",
]

UNOPENED_IS_ENOUGH = 3  # give up after this many processes could not import the operators and none could
WHOLE = 0.95
"""Fraction of chip memory that operators may use together."""


def width_for(found: Trace, device: str, *, cores: int | None = None, free: int | None = None) -> int:
    """Number of parallel processes: at most one per core, and as many as fit into chip memory.

    Each needs a context and the memory of its largest case, of which at most a quarter of the chip counts: a process
    whose share is too small for a case drops it, and the operator is judged again alone."""
    cores = cores or len(os.sched_getaffinity(0))
    if device == "cpu":
        return max(cores, 1)
    free = free if free is not None else free_memory(device) or 0
    needs = [memory_for(case.call) for op in found.operators for case in cases_for(found, op)]
    largest = min(max(needs, default=0), free // 4)
    return max(1, min(cores, int(free * WHOLE) // (CONTEXT + largest)))


def free_memory(device: str) -> int | None:
    """Free bytes of chip memory, queried in a child since this process must not use the chip; None on the CPU.

    Raises ChipFault if the device is not available."""
    if device == "cpu":
        return None
    with pool.context().Pool(1) as workers:
        free = workers.apply(_ask_free_memory, (device,))
    if not free:
        raise ChipFault(f"device {device!r} is not available", hint="run on the chip, or with --device cpu")
    return free


def _ask_free_memory(device: str) -> int:
    import torch

    try:
        return int(torch.get_device_module(torch.device(device)).mem_get_info()[0])
    except (RuntimeError, AttributeError, AssertionError):
        return 0


@dataclass(frozen=True, kw_only=True)
class Method:
    """How operators are judged."""

    source: str = "flag_gems"
    """See registry.open_source."""
    device: str = "cuda"
    """torch's device type."""
    real: int = 8
    """Number of real shapes of each overload."""
    seed: int = 0
    """Of the random inputs."""
    configs: int | None = 2
    """Number of LibTuner candidates to compare; None: all."""


def qualify(
    found: Trace, operators: Sequence[str], out: Path, *, method: Method | None = None, limits: Limits | None = None
) -> list[Row]:
    """Qualify the operators missing in `out`; returns all rows, in the order of `operators`. An operator whose share of
    chip memory was too small is judged again alone on the chip."""
    method, limits = method or Method(), limits or Limits()
    present = read_rows(out)
    with tempfile.TemporaryDirectory() as logs:
        work = [_job(found, operator, method, limits, Path(logs)) for operator in operators]
        keys = {job.operator: key for job, key in work}
        jobs = [job for job, key in work if not (key in present and present[key].stands(limits))]
        jobs.sort(key=lambda job: -len(job.cases))  # longest first, so that no long job starts last
        with Progress("qualify", total=len(jobs)) as progress:
            settled = _Settled(method.source, len(jobs))
            alone: list[Job] = []

            def finished(outcome: Outcome[Job]) -> None:
                for ready in settled(outcome):
                    row = row_of(ready, keys[ready.job.operator], limits)
                    if _needs_more_memory(ready, row):
                        alone.append(replace(ready.job, device_fraction=WHOLE))
                        continue
                    append_line(out, row.to_json())
                    present[row.key] = row
                    progress.step(str(row))

            for width, batch in ((limits.width, jobs), (1, alone)):
                pool.run_all(
                    batch,
                    width=width,
                    seconds=limits.seconds,
                    finished=finished,
                    doing=progress.doing,
                    target=worker.run,
                )
    return [present[keys[operator]] for operator in operators]


def _job(found: Trace, operator: str, method: Method, limits: Limits, logs: Path) -> tuple[Job, str]:
    """The job that qualifies one operator, and the key of its verdict."""
    cases = cases_for(found, operator, real=method.real)
    key = key_of(
        operator,
        cases,
        source=method.source,
        device=method.device,
        versions=found.versions,
        repeats=limits.repeats,
    )
    job = Job(
        operator=operator,
        source=method.source,
        device=method.device,
        cases=tuple(case.to_json() for case in cases),
        repeats=limits.repeats,
        seed=method.seed,
        memory=limits.memory,
        device_fraction=WHOLE / limits.width if method.device != "cpu" else None,
        configs=method.configs,
        log=str(logs / f"{operator}.log"),
    )
    return job, key


def _needs_more_memory(outcome: Outcome[Job], row: Row) -> bool:
    """True if a larger share of chip memory could change the verdict."""
    share = outcome.job.device_fraction
    if share is None or share >= WHOLE or row.verdict not in ("correct", "unsupported", "out-of-memory"):
        return False
    return outcome.short > 0 or any(result["verdict"] == "out-of-memory" for result in outcome.results)


class _Settled:
    """Holds outcomes back until some process could import the operators; until then none is a verdict."""

    def __init__(self, source: str, total: int) -> None:
        self.source = source
        self.enough = min(total, UNOPENED_IS_ENOUGH)
        self.opened = False
        self.held: list[Outcome[Job]] = []

    def __call__(self, outcome: Outcome[Job]) -> list[Outcome[Job]]:
        """The outcomes that can be recorded now. If the operators cannot be imported, raises ChipFault for FlagGems,
        UsageError for another source."""
        self.opened |= outcome.ended != UNOPENED
        self.held.append(outcome)
        if self.opened:
            ready, self.held = self.held, []
            return ready
        if len(self.held) < self.enough:
            return []
        if self.source == "flag_gems":
            hint = "run in the chip's base image with the chip visible; `python -c 'import flag_gems'` shows the cause"
            raise ChipFault("flag_gems cannot be imported", why=outcome.reason, hint=hint)
        hint = "--source MODULE:ATTRIBUTE must name a mapping of operator → registration key → function"
        raise UsageError(f"--source {self.source} cannot be used", why=outcome.reason, hint=hint)


def summary(found: Trace, rows: Sequence[Row]) -> dict[str, Any]:
    """The number of operators by verdict, the correct ones, and the excluded ones with reasons."""
    return {
        "model": found.model,
        "versions": found.versions,
        "verdicts": dict(Counter(row.verdict for row in rows)),
        "correct": [row.operator for row in rows if row.verdict == "correct"],
        "excluded": [
            {"operator": row.operator, "verdict": row.verdict, "reason": row.reason, "at": row.at}
            for row in rows
            if row.verdict != "correct"
        ],
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_option(parser, "--trace")
    add_option(parser, "--out", help="verdicts, a JSONL file; a second run does only what is missing")
    add_option(parser, "--device")
    add_option(parser, "--source")
    add_option(parser, "--operators")
    add_option(parser, "--seconds", default=180.0)
    parser.add_argument("--memory", type=at_least(1), default=8192, help="host memory limit of one operator, in MiB")
    add_option(parser, "--width")
    parser.add_argument("--repeats", type=at_least(1), default=3, help="number of runs on the same input")
    add_option(parser, "--real")
    add_option(parser, "--configs", default=2)
    parser.add_argument("--seed", type=int, default=0, help="seed of the random inputs")
    parser.add_argument("--report", type=Path, help="write a summary of the verdicts, JSON, as in a bundle's report")


def choose(found: Trace, names: str | None) -> tuple[str, ...]:
    """The operators named on the command line; default: all in the trace.

    Raises UsageError if the trace lacks one or none is named, NothingToDo if the trace has no operators."""
    if names is None:
        if not found.operators:
            raise NothingToDo("the trace has no operators", hint="serve this model natively")
        return found.operators
    wanted = tuple(name.strip() for name in names.split(",") if name.strip())
    for name in wanted:
        if name not in found.operators:
            near = did_you_mean(name, found.operators)
            raise UsageError(f"the trace has no operator {name!r}", hint=near or f"it has {', '.join(found.operators)}")
    if not wanted:
        raise UsageError("--operators names no operator", hint="leave the option out for all")
    return wanted


def main(args: argparse.Namespace) -> int:
    found = trace.read(args.trace)
    operators = choose(found, args.operators)
    if args.source == "flag_gems":
        catalogue.load()  # fail early, with a hint, if FlagGems is not installed
    free = free_memory(args.device)
    limits = Limits(
        seconds=args.seconds,
        memory=args.memory << 20,
        width=args.width or width_for(found, args.device, free=free),
        repeats=args.repeats,
    )
    method = Method(
        source=args.source, device=args.device, real=args.real, seed=args.seed, configs=args.configs or None
    )
    rows = qualify(found, operators, args.out, method=method, limits=limits)
    if args.report:
        write_json(args.report, summary(found, rows))
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in VERDICTS}
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count))  # noqa: T201
    return 0
