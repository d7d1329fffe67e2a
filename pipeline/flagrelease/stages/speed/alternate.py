"""Measure both stacks in alternation, in one start of their servers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import TypeVar

from flagrelease.config.matrix import Stack
from flagrelease.contract import results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.contract.speed_results import OtherWork
from flagrelease.errors import SmokeFailed
from flagrelease.serving.server import Served, ServeRequest, served
from flagrelease.stages.speed.inputs import BASELINE
from flagrelease.stages.speed.load import Load, LoadGenerator, LoadPoint, SlowStarter
from flagrelease.stages.speed.other_work import Watch, mean
from flagrelease.stages.speed.pairs import Pair

Tool = Callable[[Job, Context, Served], LoadGenerator]
Save = Callable[[str, dict[LoadPoint, list[Pair]]], None]
"""Called with the load generator's name and all pairs of the start so far, whenever there is another one."""

PAIRS = (4, 20)
"""The fewest and the most pairs of one start at a load point, where both servers are up."""

_LEAST_SECONDS = 4.0
_MOST_FAILED = 0.01
_SEEDS = 1000

T = TypeVar("T")


class Alternation:
    """Measures pairs of runs, both stacks with the same prompts. `seed` decides which stack is first."""

    def __init__(self, job: Job, context: Context, tool: Tool, seed: str) -> None:
        self._job = job
        self._context = context
        self._tool = tool
        self._seed = seed
        self._busy = ""
        self._noted = False
        self._begun = False
        self._slowest = 0.0
        self._pairs: dict[LoadPoint, list[Pair]] = {}
        self.name = ""
        """The load generator's name; empty until it has measured."""

    def start(self, number: int, points: Sequence[LoadPoint], save: Save, *, brief: bool = False) -> None:
        """Start both servers and measure pairs at each point; only one at each if `brief`."""
        self._pairs = {point: [] for point in points}
        order = self._lot((BASELINE, self._job.cell.stack), number, "servers")
        if self._job.cell.holds_both:
            with ExitStack() as servers:
                began = self._context.meter.clock.monotonic()
                up = {
                    stack: servers.enter_context(self._server(stack, colocated=bool(place)))
                    for place, stack in enumerate(order)
                }
                seconds = self._context.meter.clock.monotonic() - began
                self._both_up(number, order, up, seconds=0.0 if brief else max(seconds, _LEAST_SECONDS), save=save)
        else:
            self._one_up(number, order, lambda stack: self._server(stack, colocated=False))
        self._begun = True
        save(self.name, self._pairs)

    def _both_up(
        self, number: int, order: Sequence[Stack], up: dict[Stack, Served], *, seconds: float, save: Save
    ) -> None:
        tools = {stack: self._tool(self._job, self._context, server) for stack, server in up.items()}
        self.name = tools[BASELINE].name
        own, other = (tools[stack] for stack in order)
        if not (isinstance(own, SlowStarter) and isinstance(other, SlowStarter)):
            self._finely(number, up, tools, seconds, save)
        elif _one_network(self._job):
            self._in_turns(number, order, up, own, other)
        else:
            self._one_up(number, order, lambda stack: _entered(up[stack]))

    def _finely(
        self, number: int, up: dict[Stack, Served], tools: dict[Stack, LoadGenerator], seconds: float, save: Save
    ) -> None:
        """Send the concurrent requests of a load point to one server, then to the other, and again.

        Each point gets as much time as the start took, so that neither starts nor pairs dominate, and as much as the
        slowest point took in the last start, so that all are about as precise.
        """
        clock = self._context.meter.clock
        seconds, self._slowest = max(seconds, self._slowest if seconds else 0.0), 0.0
        for point, pairs in self._pairs.items():
            bout = replace(point, requests=point.concurrency)
            self._warm_up(number, bout, up, tools)
            began = clock.monotonic()
            until = began + seconds
            while len(pairs) < (PAIRS[0] if seconds else 1) or (len(pairs) < PAIRS[1] and clock.monotonic() < until):
                busy = f"; {self._busy}" if self._busy else ""
                self._context.progress.doing(f"start {number + 1}, pair {len(pairs) + 1}: {point}{busy}")
                pairs.append(self._pair(number, len(pairs), bout, up, tools))
                self._note(pairs[-1].other)
                save(self.name, self._pairs)
            self._slowest = max(self._slowest, PAIRS[0] * (clock.monotonic() - began) / len(pairs))

    def _pair(
        self, number: int, index: int, bout: LoadPoint, up: dict[Stack, Served], tools: dict[Stack, LoadGenerator]
    ) -> Pair:
        stacks = (BASELINE, self._job.cell.stack)
        first, second = self._lot(stacks, index, f"start {number}, {bout}")
        watch = Watch(*(up[stack].running for stack in stacks))
        loads: dict[Stack, Load] = {}
        cpu: dict[Stack, float | None] = {}
        others = []
        for stack in (first, second):
            loads[stack] = self._measure(stack, up[stack], tools[stack], [bout], _seed(number, index))[0]
            used, other = watch.used()
            cpu[stack] = used[stacks.index(stack)]
            others.append(other)
        return Pair(
            baseline=loads[stacks[0]],
            candidate=loads[stacks[1]],
            baseline_first=first == BASELINE,
            baseline_cpu_s=cpu[stacks[0]],
            candidate_cpu_s=cpu[stacks[1]],
            other=mean(others),
        )

    def _warm_up(
        self, number: int, bout: LoadPoint, up: dict[Stack, Served], tools: dict[Stack, LoadGenerator]
    ) -> None:
        """Send requests of the same shape, with short answers, outside the result."""
        watch = Watch(*(server.running for server in up.values()))
        brief = replace(bout, output_tokens=max(2, bout.output_tokens // 8))
        for stack, tool in tools.items():
            self._context.progress.doing(f"start {number + 1}, {stack}: {bout}, warming up")
            with self._context.meter.waiting():
                tool.measure([brief], _seed(number) + 1)
        self._note(watch.used()[1])

    def _in_turns(
        self, number: int, order: Sequence[Stack], up: dict[Stack, Served], own: SlowStarter, other: SlowStarter
    ) -> None:
        """Measure with one start of a slow tool, which alternates between both servers itself."""
        points = list(self._pairs)
        self._context.progress.doing(f"start {number + 1}, both stacks alternating: {_named(points)}")
        watch = Watch(*(server.running for server in up.values()))
        with self._context.meter.waiting():
            runs = own.in_turns(other, points, _seed(number))
        _used, work = watch.used()
        self._note(work)
        for point, (first, second) in zip(points, runs, strict=True):
            loads = dict(zip(order, (first, second), strict=True))
            for stack, load in loads.items():
                _check(stack, point, load, up[stack])
            self._pairs[point].append(
                Pair(
                    baseline=loads[BASELINE],
                    candidate=loads[self._job.cell.stack],
                    baseline_first=order[0] == BASELINE,
                    other=work,
                )
            )

    def _one_up(
        self, number: int, order: Sequence[Stack], server: Callable[[Stack], AbstractContextManager[Served]]
    ) -> None:
        """Measure one stack at all points, then the other."""
        points = list(self._pairs)
        sides: dict[Stack, list[Load]] = {}
        works = []
        for stack in order:
            with server(stack) as up:
                tool = self._tool(self._job, self._context, up)
                self.name = tool.name
                if not isinstance(tool, SlowStarter):
                    self._context.progress.doing(f"start {number + 1}, {stack}: {_named(points)}, warming up")
                    with self._context.meter.waiting():
                        tool.measure(
                            [replace(point, requests=point.concurrency) for point in points], _seed(number) + 1
                        )
                self._context.progress.doing(f"start {number + 1}, {stack}: {_named(points)}")
                watch = Watch(up.running)
                sides[stack] = self._measure(stack, up, tool, points, _seed(number))
                works.append(watch.used()[1])
                self._note(works[-1])
        for point, baseline, candidate in zip(points, sides[BASELINE], sides[self._job.cell.stack], strict=True):
            first = order[0] == BASELINE
            pair = Pair(baseline=baseline, candidate=candidate, baseline_first=first, other=mean(works))
            self._pairs[point].append(pair)

    def _measure(
        self, stack: Stack, server: Served, tool: LoadGenerator, points: Sequence[LoadPoint], seed: int
    ) -> list[Load]:
        with self._context.meter.waiting():
            loads = tool.measure(points, seed)
        for point, load in zip(points, loads, strict=True):
            _check(stack, point, load, server)
        return loads

    def _server(self, stack: Stack, *, colocated: bool) -> AbstractContextManager[Served]:
        request = ServeRequest(
            image=self._context.result(results.IMAGE),
            weights=self._context.result(results.WEIGHTS),
            stack=stack,
            colocated=colocated,
            fresh=self._begun,
        )
        return served(self._job, self._context, request)

    def _lot(self, stacks: tuple[T, T], index: int, among: str) -> tuple[T, T]:
        """The order of both stacks: drawn for each even index, and reversed for the next, so that each is first as
        often as the other."""
        drawn = random.Random(f"{self._seed}, {among}, {index // 2}").random() < 0.5
        return stacks if drawn is (index % 2 == 0) else stacks[::-1]

    def _note(self, other: OtherWork | None) -> None:
        """Keep for the progress line what other work the machine has, and report it, once."""
        self._busy = "" if other is None else other.text
        if other is not None and other.text and not self._noted:
            self._noted = True
            self._context.progress.note(
                f"speed: {other.text}, so more has to be measured; end other programs to save time"
            )


def _one_network(job: Job) -> bool:
    """Whether a tool next to one server reaches the other at its port of this machine."""
    return job.runner == "process" or job.cell.chip.container.network == "host"


def _seed(number: int, pair: int = 0) -> int:
    """Seed of the prompts of a pair: new ones for each, equal for both stacks. The next one is for warming up."""
    return 2 * (_SEEDS * number + pair) + 1


def _named(points: Sequence[LoadPoint]) -> str:
    others = f" and {len(points) - 1} more loads" if len(points) > 1 else ""
    return f"{points[0]}{others}"


@contextmanager
def _entered(server: Served) -> Iterator[Served]:
    yield server


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
