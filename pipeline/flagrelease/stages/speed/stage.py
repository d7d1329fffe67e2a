"""speed: measure the image under load, alternating with the native stack on the same chip.

An accelerator's memory only fits one server, so each round starts both stacks in sequence, and the interval includes
the variation between starts. Where both fit (a CPU, or a small model) the servers stay colocated and are measured one
at a time: compared runs are then seconds apart, which reduces the effect of other load on the machine.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from flagrelease.config.cell import fingerprint
from flagrelease.config.matrix import Stack, Traffic
from flagrelease.contract import results, speed_results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.contract.stage import Stage
from flagrelease.errors import ConfigError, SmokeFailed
from flagrelease.serving.server import Served, ServeRequest, served
from flagrelease.stages.speed import load_tools
from flagrelease.stages.speed.load import Load, LoadGenerator, LoadPoint, SlowStarter, Target, figures
from flagrelease.store.evidence import Evidence
from flagrelease.store.files import write_atomic
from flagrelease.verdict.speed import speed
from flagrelease.verdict.types import SpeedVerdict, Verdict, worst_verdict

if TYPE_CHECKING:
    from pathlib import Path

BASELINE: Stack = "native"
LOOKS = (3, 8)
"""Numbers of rounds after which load points are tested. Points that are inconclusive at the first look continue."""

ALPHA = 0.05 / len(LOOKS)
"""Error rate per look, for 0.05 over all looks (Bonferroni)."""

COLOCATED = "both servers running, one measured at a time"
SEPARATE = "both servers restarted in each round, one at a time"

_MOST_FAILED = 0.01

Tool = Callable[[Job, Context, Served], LoadGenerator]
_Sides = dict[Stack, dict[LoadPoint, Load]]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Consecutive runs of both stacks at one load point."""

    baseline: Load
    candidate: Load


def inputs(job: Job) -> Mapping[str, Any]:
    cell = job.cell
    return {
        "container": cell.chip.container,
        "serve": cell.model.serve,
        "stack": cell.stack,
        "speed": [asdict(traffic) for traffic in cell.profile.speed],
        "load_tool": load_tools.chosen(cell),
    }


def skip(job: Job) -> str:
    if not job.cell.profile.speed:
        return f"profile {job.cell.profile_name} has no `speed`"
    if job.cell.stack == BASELINE:
        return "the native stack is the baseline of speed"
    return ""


def run(job: Job, context: Context, *, tool: Tool | None = None) -> speed_results.Speed:
    """Raises ConfigError if no load fits the model's window, SmokeFailed or a subclass if a server fails under load."""
    load_tools.check(job.cell, os.environ)
    loads = load_points(job)
    pairs: dict[LoadPoint, list[Pair]] = {point: [] for point in loads}
    judged: dict[LoadPoint, SpeedVerdict] = {}
    undecided = list(loads)
    with ExitStack() as servers:
        measuring = _Measuring(job, context, tool or choose, servers)
        for look in LOOKS:
            for number in range(len(pairs[undecided[0]]), look):
                for point, pair in measuring.round(number, undecided).items():
                    pairs[point].append(pair)
            judged |= {point: _judge(pairs[point], loads[point]) for point in undecided}
            undecided = [point for point in undecided if judged[point].verdict is Verdict.INCONCLUSIVE]
            if not undecided:
                break
    result = _result(job, context, measuring.name, loads, pairs, judged)
    shutil.rmtree(context.workspace.scratch(job.cell.slug, "speed"), ignore_errors=True)
    return result


def load_points(job: Job) -> dict[LoadPoint, Traffic]:
    """The load points of the profile that fit the model's window. Raises ConfigError for none or a duplicate."""
    points: dict[LoadPoint, Traffic] = {}
    for traffic in job.cell.profile.speed:
        for concurrency in traffic.concurrency if _fits(job, traffic) else ():
            point = LoadPoint(
                input_tokens=traffic.input,
                output_tokens=traffic.output,
                concurrency=concurrency,
                requests=concurrency * traffic.requests,
            )
            if any(replace(other, requests=point.requests) == point for other in points):
                raise ConfigError(
                    f"profile {job.cell.profile_name} has the load {point} twice", hint="remove one in matrix.yaml"
                )
            points[point] = traffic
    if not points:
        raise ConfigError(
            f"no load of profile {job.cell.profile_name} fits {job.cell.model_name}",
            why="; ".join(_too_long(job)),
            hint="use another profile, or raise serve.max_model_len",
        )
    return points


def _fits(job: Job, traffic: Traffic) -> bool:
    return traffic.input + traffic.output <= job.cell.model.serve.max_model_len


def _too_long(job: Job) -> tuple[str, ...]:
    window = job.cell.model.serve.max_model_len
    return tuple(
        f"{traffic.input:,} in and {traffic.output:,} out are longer than the window of {window:,} tokens"
        for traffic in job.cell.profile.speed
        if not _fits(job, traffic)
    )


def choose(job: Job, context: Context, server: Served) -> LoadGenerator:
    """The load generator of the cell, for this server."""
    weights = context.result(results.WEIGHTS)
    target = Target(
        base_url=server.base_url,
        model=server.model,
        tokenizer=context.workspace.weights / weights.folder,
        port_inside=server.port_inside,
        folder_inside=server.folder_inside,
        execute=server.running.execute,
        command=context.ports.command,
    )
    return load_tools.LOAD_TOOLS[load_tools.chosen(job.cell)].make(target, os.environ)


class _Measuring:
    """Measures rounds, and saves each to the scratch folder once both stacks are measured, to resume a killed run.

    `servers` owns the servers that stay up between rounds.
    """

    def __init__(self, job: Job, context: Context, tool: Tool, servers: ExitStack) -> None:
        self._job = job
        self._context = context
        self._tool = tool
        self._servers = servers
        self._up: dict[Stack, Served] = {}
        self._warm: set[tuple[Stack, LoadPoint]] = set()
        self.name = ""
        depends = {
            "image": context.result(results.IMAGE).digest,
            "weights": context.result(results.WEIGHTS).digest,
            "inputs": inputs(job),
        }
        self._folder = context.workspace.scratch(job.cell.slug, "speed") / fingerprint(depends)[:16]

    def round(self, number: int, points: Sequence[LoadPoint]) -> dict[LoadPoint, Pair]:
        """Measure both stacks at all `points`, or reuse the saved round of a killed run."""
        path = self._folder / f"round-{number}.json"
        saved = _saved(path)
        if saved is not None and saved.points == tuple(points):
            self.name = saved.tool
            return dict(zip(saved.points, saved.pairs, strict=True))
        stacks: tuple[Stack, ...] = (BASELINE, self._job.cell.stack)
        order = stacks if number % 2 == 0 else stacks[::-1]  # alternate the order to cancel drift
        sides = self._in_turns(order, number, points) or self._one_by_one(order, number, points)
        pairs = tuple(Pair(baseline=sides[stacks[0]][point], candidate=sides[stacks[1]][point]) for point in points)
        write_atomic(path, msgspec.json.encode(_Round(tool=self.name, points=tuple(points), pairs=pairs)))
        return dict(zip(points, pairs, strict=True))

    def _in_turns(self, order: Sequence[Stack], number: int, points: Sequence[LoadPoint]) -> _Sides:
        """Measure both stacks with one start of a slow tool; empty if the tool cannot reach both servers."""
        if not (self._job.cell.holds_both and _one_network(self._job)):
            return {}
        with self._server(order[0]) as first, self._server(order[1]) as second:
            own, other = (self._tool(self._job, self._context, server) for server in (first, second))
            if not (isinstance(own, SlowStarter) and isinstance(other, SlowStarter)):
                return {}
            self.name = own.name
            self._context.progress.doing(f"round {number + 1}, both stacks alternating: {_named(points)}")
            with self._context.meter.waiting():
                pairs = own.in_turns(other, points, _seed(number))
            sides = zip(order, (first, second), zip(*pairs, strict=True), strict=True)
            return {stack: _checked(stack, server, points, loads) for stack, server, loads in sides}

    def _one_by_one(self, order: Sequence[Stack], number: int, points: Sequence[LoadPoint]) -> _Sides:
        sides: _Sides = {stack: {} for stack in order}
        pending = list(points)
        while pending:
            group: Sequence[LoadPoint] = pending
            for stack in order:
                with self._server(stack) as server:
                    generator = self._tool(self._job, self._context, server)
                    if self._job.cell.holds_both and not isinstance(generator, SlowStarter):
                        group = pending[:1]  # keep compared runs seconds apart
                    sides[stack] |= self._measure(stack, server, generator, number, group)
            pending = pending[len(group) :]
        return sides

    @contextmanager
    def _server(self, stack: Stack) -> Iterator[Served]:
        if not self._job.cell.holds_both:
            self._warm.clear()
            with self._start(stack, colocated=False) as server:
                yield server
            return
        if stack not in self._up:
            self._up[stack] = self._servers.enter_context(self._start(stack, colocated=bool(self._up)))
        yield self._up[stack]

    def _start(self, stack: Stack, *, colocated: bool) -> AbstractContextManager[Served]:
        request = ServeRequest(
            image=self._context.result(results.IMAGE),
            weights=self._context.result(results.WEIGHTS),
            stack=stack,
            colocated=colocated,
        )
        return served(self._job, self._context, request)

    def _measure(
        self, stack: Stack, server: Served, generator: LoadGenerator, number: int, group: Sequence[LoadPoint]
    ) -> dict[LoadPoint, Load]:
        context = self._context
        self.name = generator.name
        seed = _seed(number)
        slow = isinstance(generator, SlowStarter)
        cold = [] if slow else [point for point in group if (stack, point) not in self._warm]
        if cold:
            context.progress.doing(f"{stack}: {_named(cold)}, warming up")
            with context.meter.waiting():
                generator.measure([replace(point, requests=point.concurrency) for point in cold], seed + 1)
            self._warm |= {(stack, point) for point in cold}
        context.progress.doing(f"round {number + 1}, {stack}: {_named(group)}")
        with context.meter.waiting():
            loads = generator.measure(group, seed)
        return _checked(stack, server, group, loads)


def _one_network(job: Job) -> bool:
    """Whether a tool next to one server reaches the other at its port of this machine."""
    return job.runner == "process" or job.cell.chip.container.network == "host"


def _seed(number: int) -> int:
    """Seed of a round: new prompts in each round, equal for both stacks."""
    return 2 * number + 1


def _named(points: Sequence[LoadPoint]) -> str:
    others = f" and {len(points) - 1} more loads" if len(points) > 1 else ""
    return f"{points[0]}{others}"


@dataclass(frozen=True, kw_only=True)
class _Round:
    tool: str
    points: tuple[LoadPoint, ...]
    pairs: tuple[Pair, ...]


def _saved(path: Path) -> _Round | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Round)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _checked(stack: Stack, server: Served, points: Sequence[LoadPoint], loads: Sequence[Load]) -> dict[LoadPoint, Load]:
    by_point = dict(zip(points, loads, strict=True))
    for point, load in by_point.items():
        _check(stack, point, load, server)
    return by_point


def _check(stack: Stack, point: LoadPoint, load: Load, server: Served) -> None:
    """Count a few failed requests, but reject a run with many: its rate would not be meaningful."""
    failed = [request.error for request in load.requests if request.error]
    if len(failed) > _MOST_FAILED * len(load.requests) or len(load.requests) != point.requests:
        server.check()
        raise SmokeFailed(
            f"{stack} failed under load: {len(failed)} of {len(load.requests)} requests at {point}",
            why=failed[0] if failed else f"{point.requests} requests were expected",
            hint="too many failures to report a speed; see the server's log, or lower `concurrency` in the profile",
            detail=server.log(),
        )


def _judge(pairs: Sequence[Pair], traffic: Traffic) -> SpeedVerdict:
    return speed(
        [pair.baseline.output_tokens_per_s for pair in pairs],
        [pair.candidate.output_tokens_per_s for pair in pairs],
        gate=traffic.gate,
        alpha=ALPHA,
    )


def _result(
    job: Job,
    context: Context,
    tool: str,
    loads: Mapping[LoadPoint, Traffic],
    pairs: Mapping[LoadPoint, Sequence[Pair]],
    judged: Mapping[LoadPoint, SpeedVerdict],
) -> speed_results.Speed:
    verdict = worst_verdict(result.verdict for result in judged.values())
    decisive = [(point, result) for point, result in judged.items() if result.verdict is verdict]
    worst, slowest = min(decisive, key=lambda item: item[1].interval[0])
    others = f" (and {len(decisive) - 1} more load points)" if len(decisive) > 1 and verdict != "PASS" else ""
    return speed_results.Speed(
        verdict=verdict.value,
        reason=f"{worst}: {slowest.reason}{others}",
        points=tuple(_point(point, loads[point], pairs[point], judged[point]) for point in loads),
        baseline_name=f"{BASELINE} on {job.cell.chip_name}",
        tool=tool,
        turns=COLOCATED if job.cell.holds_both else SEPARATE,
        left_out=_too_long(job),
        evidence=(_evidence(context, job.cell.stack, pairs),),
    )


def _point(point: LoadPoint, traffic: Traffic, pairs: Sequence[Pair], judged: SpeedVerdict) -> speed_results.SpeedPoint:
    return speed_results.SpeedPoint(
        input_tokens=point.input_tokens,
        output_tokens=point.output_tokens,
        concurrency=point.concurrency,
        rounds=judged.runs,
        baseline=figures([pair.baseline for pair in pairs], traffic.slo),
        candidate=figures([pair.candidate for pair in pairs], traffic.slo),
        ratio=judged.ratio,
        interval95=judged.interval,
        gate=judged.gate,
        ttft_slo=traffic.slo.ttft,
        tpot_slo=traffic.slo.tpot,
        verdict=judged.verdict.value,
        reason=judged.reason,
    )


def _evidence(context: Context, stack: Stack, pairs: Mapping[LoadPoint, Sequence[Pair]]) -> Evidence:
    """Write one line per request: load point, round, stack, and measurements."""
    lines = []
    for point, all_rounds in pairs.items():
        for number, pair in enumerate(all_rounds):
            for name, load in ((BASELINE, pair.baseline), (stack, pair.candidate)):
                where = {"load": asdict(point), "round": number, "stack": name, "run_s": load.seconds}
                lines += [msgspec.json.encode({**where, **asdict(request)}) for request in load.requests]
    return context.evidence.put("speed/requests.jsonl", b"\n".join(lines) + b"\n")


STAGE = Stage(
    result=results.SPEED,
    doing="measuring speed",
    inputs=inputs,
    run=run,
    reads=(results.WEIGHTS, results.IMAGE, results.SMOKE),
    on_chip=True,
    skip=skip,
)
