"""Benchmark each correct operator at its shape classes against the native kernel and the roofline.

Both kernels run as CUDA graphs over rotating inputs (no launch cost, cold cache), in pairs. Each operator runs in a
separate process, one at a time, since other work on the chip would distort the measurement."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import statistics
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from flagkernels.arguments import add_option, at_least
from flagkernels.files import append_line, write_json
from flagkernels.measure.figures import Figure, figures_of
from flagkernels.measure.roofline import Ceilings, floor_seconds, measure, work
from flagkernels.measure.timing import Clock, paired, ratio
from flagkernels.model import trace
from flagkernels.model.trace import Trace, TracedCall
from flagkernels.operators.calls import Call, resolve
from flagkernels.operators.registry import Implementation, active, open_source
from flagkernels.progress import Progress
from flagkernels.qualify import pool, qualify
from flagkernels.qualify.cases import LARGEST, Case
from flagkernels.qualify.guards import Arena
from flagkernels.qualify.inputs import make
from flagkernels.qualify.pool import Outcome
from flagkernels.qualify.rows import correct_operators
from flagkernels.qualify.worker import classify, sender
from flagkernels.tuning.folder import Layout

__all__ = ["BenchJob", "Method", "add_arguments", "bench", "main"]

COLD = 160 << 20  # bytes of rotating inputs: about three times the largest L2 cache (H100: 50 MB)
PREPARING = 4  # parallel processes; one measures while the others start
SHORTEST = 2e-4  # minimum seconds of one timed replay, well above the resolution of events


@dataclass(frozen=True, kw_only=True)
class BenchJob:
    """The job of measuring one operator, as plain values that can be sent to another process."""

    operator: str
    source: str
    device: str
    calls: tuple[tuple[str, dict[str, Any], dict[str, int]], ...]
    """(shape class, call as JSON, calls at each point)."""
    pairs: int
    seed: int
    """Of the inputs."""
    memory: int
    """Limit of host memory, in bytes."""
    configs: int | None
    """Number of LibTuner candidates to compare; None: all."""
    log: str
    """File for the process's output."""
    lock: str
    """Lock file that grants exclusive use of the chip."""
    environment: tuple[tuple[str, str], ...] = ()
    """Variables set before FlagGems is imported."""


def representative(
    found: Trace, operator: str, per_operator: int | None
) -> list[tuple[str, TracedCall, dict[str, int]]]:
    """The most frequent call of each shape class, with the number of calls of the class at each point; the
    `per_operator` classes with the most traffic (calls × bytes), most first."""
    chosen = []
    for name, members in found.classes(operator).items():
        fitting = [m for m in members if m.call.nbytes <= LARGEST]
        if not fitting:
            continue
        counts = {
            str(point): total
            for index, point in enumerate(found.points)
            if (total := sum(m.counts[index] for m in members))
        }
        chosen.append((name, max(fitting, key=lambda m: (sum(m.counts), m.call.nbytes)), counts))
    chosen.sort(key=lambda item: -sum(item[2].values()) * item[1].call.nbytes)
    return chosen[:per_operator]


def run_child(job: BenchJob, pipe: Connection) -> None:
    """Entry point of the process; the messages are those of qualify.worker.run."""
    send = sender(job.log, pipe)
    try:
        os.environ.update(job.environment)
        device = torch.device(job.device)
        implementations = open_source(job.source, configs=job.configs).implementations(job.operator)
        for name, data, counts in job.calls:
            call = Call.from_json(data)
            send({"start": name})
            try:
                with _chip(job.lock):
                    figure = _measure(job, call, name, counts, implementations, device)
            except Exception as error:
                verdict, reason = classify(error)
                send({"result": {"verdict": verdict, "case": name, "reason": reason}})
                if verdict in {"crash", "out-of-memory"}:
                    break
                continue
            send({"result": {"verdict": "correct", "case": name, "figure": figure.to_json()}})
        send({"end": "done"})
    except BaseException as error:
        verdict, reason = classify(error)
        send({"end": verdict, "reason": reason})
    pipe.close()
    os._exit(0)


@contextlib.contextmanager
def _chip(path: str) -> Iterator[None]:
    """Reserve the chip for this process within the block; the others import and wait meanwhile."""
    with open(path, "w") as stream:  # noqa: PTH123
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _measure(
    job: BenchJob,
    call: Call,
    name: str,
    counts: dict[str, int],
    implementations: Mapping[str, Implementation],
    device: torch.device,
) -> Figure:
    target = resolve(call.overload)
    case = Case(call=call, kind="real", regime="spread")
    arena = Arena(device)
    sets = max(1, min(16, COLD // max(call.nbytes, 1)))
    inputs = [make(case, arena, job.seed + index) for index in range(sets)]
    results = target(*inputs[0][0], **inputs[0][1])
    outputs = tuple(
        r for r in (results if isinstance(results, list | tuple) else [results]) if isinstance(r, torch.Tensor)
    )
    bytes_, operations = work(call, outputs)
    del results, outputs
    clock = Clock(device)

    def passes(count: int) -> Any:
        def run() -> None:
            for _ in range(count):
                for args, kwargs in inputs:
                    target(*args, **kwargs)

        return run

    once = statistics.median(clock.times(clock.graph(passes(1)), 3))
    count = max(1, min(64, round(SHORTEST / max(once, 1e-7))))
    first, second = _pairs(clock, passes(count), implementations, device, job.pairs)
    speed = ratio(first, second)
    each = count * sets
    return Figure(
        operator=job.operator,
        shape_class=name,
        call=call.to_json(),
        counts=counts,
        native=statistics.median(first) / each,
        candidate=statistics.median(second) / each,
        ratio=speed.median,
        low=speed.low,
        high=speed.high,
        bytes=bytes_,
        operations=operations,
    )


def _pairs(
    clock: Clock,
    run: Callable[[], None],
    implementations: Mapping[str, Implementation],
    device: torch.device,
    pairs: int,
) -> tuple[list[float], list[float]]:
    """Seconds of the native runs and of the operator's runs, by pair.

    Raises NotImplementedError if the dispatcher never calls the operator."""
    if device.type == "cpu":
        first, second, reached = _paired_eager(clock, run, implementations, device, pairs)
    else:
        native = clock.graph(run)
        with active(implementations, device) as calls:
            candidate = clock.graph(run)
        first, second = paired(clock, native, candidate, pairs=pairs)
        reached = any(calls.values())
    if not reached:
        raise NotImplementedError("the dispatcher never called it")
    return first, second


def _paired_eager(
    clock: Clock,
    run: Callable[[], None],
    implementations: Mapping[str, Implementation],
    device: torch.device,
    pairs: int,
) -> tuple[list[float], list[float], bool]:
    """Pairs without graphs, installing and removing the override between runs; and whether it was called."""
    first, second, reached = [], [], False
    for _ in range(pairs):
        first.append(clock.once(run))
        with active(implementations, device) as calls:
            second.append(clock.once(run))
        reached = reached or any(calls.values())
    return first, second, reached


def _ceilings(device: str) -> Ceilings:
    return measure(torch.device(device))


def measured_ceilings(device: str) -> Ceilings:
    """Measure the chip's limits in a child process: this one must not use the chip."""
    with pool.context().Pool(1) as workers:
        return workers.apply(_ceilings, (device,))


@dataclass(frozen=True, kw_only=True)
class Method:
    """How operators are measured."""

    source: str = "flag_gems"
    """See registry.open_source."""
    device: str = "cuda"
    """torch's device type."""
    pairs: int = 15
    """Paired measurements of native kernel and operator at each shape class."""
    per_operator: int | None = 24
    """Shape classes of each operator, the most-called first; None: all."""
    seconds: float = 300.0
    """Time limit of one operator."""
    configs: int | None = None
    """Number of LibTuner candidates to compare; None: all."""
    environment: Mapping[str, str] | None = None
    """Variables set in each process before FlagGems is imported."""


def bench(
    found: Trace, operators: Sequence[str], out: Path, *, ceilings: Ceilings, logs: Path, method: Method
) -> list[Figure]:
    """Measure the shape classes missing in `out`; returns all figures of these operators."""
    present = {(figure.operator, figure.shape_class): figure for figure in figures_of(out)}
    jobs = [job for operator in operators if (job := _job(found, operator, method, logs, present))]
    with Progress("bench", total=len(jobs)) as progress:

        def finished(outcome: Outcome[BenchJob]) -> None:
            for result in outcome.results:
                if "figure" not in result:
                    append_line(out, {"operator": outcome.job.operator, **result})
                    continue
                figure = _with_limits(Figure(**result["figure"]), ceilings)
                append_line(out, figure.to_json())
                present[figure.operator, figure.shape_class] = figure
            done = sum("figure" in result for result in outcome.results)
            ended = "" if outcome.ended == "done" else f"  {outcome.ended}: {outcome.reason} at {outcome.at}"
            progress.step(f"{outcome.job.operator:<20} {done}/{len(outcome.job.calls)} {outcome.seconds:.1f} s{ended}")

        pool.run_all(
            jobs,
            width=1 if method.device == "cpu" else PREPARING,
            seconds=method.seconds,
            finished=finished,
            doing=progress.doing,
            target=run_child,
        )
    return [figure for figure in present.values() if figure.operator in set(operators)]


def _job(
    found: Trace, operator: str, method: Method, logs: Path, present: Container[tuple[str, str]]
) -> BenchJob | None:
    """The job that measures the operator's shape classes that are not `present`; None if there are none."""
    chosen = representative(found, operator, method.per_operator)
    missing = [(name, t.call.to_json(), counts) for name, t, counts in chosen if (operator, name) not in present]
    if not missing:
        return None
    return BenchJob(
        operator=operator,
        source=method.source,
        device=method.device,
        calls=tuple(missing),
        pairs=method.pairs,
        seed=0,
        memory=32 << 30,
        configs=method.configs,
        log=str(logs / f"{operator}.log"),
        lock=str(logs / "chip.lock"),
        environment=tuple((method.environment or {}).items()),
    )


def _with_limits(figure: Figure, ceilings: Ceilings) -> Figure:
    floor = floor_seconds(ceilings, figure.bytes, figure.operations)
    values = {**figure.to_json(), "floor": floor, "share": floor / figure.candidate}
    return Figure(**{**values, "native_share": floor / figure.native})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_option(parser, "--trace")
    add_option(parser, "--verdicts")
    add_option(parser, "--out", help="figures, a JSONL file; a second run does only what is missing")
    parser.add_argument("--ceilings", type=Path, help="write the chip's measured bandwidth and rate, JSON")
    add_option(parser, "--device")
    add_option(parser, "--source")
    add_option(parser, "--operators", help="comma-separated operators; default: all correct ones")
    add_option(parser, "--tuned")
    parser.add_argument("--pairs", type=at_least(1), default=15, help="paired measurements at each shape class")
    parser.add_argument(
        "--per-operator",
        type=at_least(1),
        default=24,
        help="shape classes to measure of each operator, the most-called first",
    )
    add_option(parser, "--configs", default=0)
    add_option(parser, "--seconds", default=300.0)


def main(args: argparse.Namespace) -> int:
    found = trace.read(args.trace)
    operators = correct_operators(args.verdicts, qualify.choose(found, args.operators))
    qualify.free_memory(args.device)
    ceilings = measured_ceilings(args.device)
    if args.ceilings:
        write_json(args.ceilings, ceilings.to_json())
    print(f"{ceilings.device}: {ceilings.bandwidth / 1e12:.2f} TB/s, {ceilings.rate / 1e12:.0f} TFLOP/s")  # noqa: T201
    logs = args.out.parent / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    method = Method(
        source=args.source,
        device=args.device,
        pairs=args.pairs,
        per_operator=args.per_operator,
        seconds=args.seconds,
        configs=args.configs or None,
        environment=Layout(args.tuned).environment() if args.tuned else None,
    )
    figures = bench(found, operators, args.out, ceilings=ceilings, logs=logs, method=method)
    args.out.touch()  # create the file even if no class could be measured: `select` reads it
    for figure in sorted(figures, key=lambda f: (f.operator, -f.ratio)):
        print(figure)  # noqa: T201
    return 0
