"""The speed stage: order of measurements, saved rounds, verdicts, and their effect on card and publish.

The servers are loopback endpoints that stream at a set pace; the load, the statistics and the gate are real.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

import support.finished_cell as given
from flagrelease.config.matrix import Profile, Traffic
from flagrelease.contract import speed_results
from flagrelease.contract.context import Context, Look
from flagrelease.contract.handles import VerdictName
from flagrelease.contract.job import Job
from flagrelease.contract.speed_results import Spread
from flagrelease.contract.stage import keys
from flagrelease.errors import ConfigError, EnvironmentFault, GateFailed, Inconclusive, SmokeFailed
from flagrelease.ports import processor_time
from flagrelease.ports.clock import SystemClock
from flagrelease.ports.meter import Meter
from flagrelease.ports.processor_time import Reading
from flagrelease.ports.progress import Count, Silent
from flagrelease.run.history import History
from flagrelease.serving.server import ServeRequest
from flagrelease.stages.card import charts, lint, record, render, speed_section
from flagrelease.stages.card import run as card
from flagrelease.stages.publish import run as publish
from flagrelease.stages.speed import alternate, load_tools, report
from flagrelease.stages.speed import run as work
from flagrelease.stages.speed import stage as speed
from flagrelease.stages.speed.load import Load, LoadPoint, Request
from flagrelease.stages.speed.load_evalscope import EvalscopePerf
from flagrelease.stages.speed.load_own import StreamingLoad
from flagrelease.stages.speed.load_vllm import VllmBench
from flagrelease.store.evidence import EvidenceStore
from flagrelease.store.ledger import Entry, Ledger
from flagrelease.store.workspace import Workspace
from support.streaming_endpoint import Pace, streaming

TRAFFIC = (Traffic(input=16, output=8, concurrency=(1, 2), requests=2),)


@dataclass(frozen=True)
class Stood:
    """The result of `served` for a simulated server with a fixed rate, whose requests use 0.5 s of a processor."""

    stack: str
    world: World

    @property
    def running(self) -> Stood:
        return self

    def cpu_seconds(self) -> float:
        return 0.5 * sum(point.requests for stack, point, _seed in self.world.seen if stack == self.stack)

    def check(self) -> None:
        pass

    def log(self) -> str:
        return "the log"


@dataclass
class World:
    """`rates` has the output tokens per second of each stack in each start. A start takes no time unless `minutes` are
    set, so that there are as few pairs as possible."""

    root: Path
    rates: dict[str, list[float]]
    failing: str = ""
    breaks_at: int = -1
    seen: list[tuple[str, LoadPoint, int]] = field(default_factory=list)
    starts_slowly: bool = False
    runner: Literal["docker", "process"] = "docker"
    started: list[str] = field(default_factory=list)
    fresh: list[bool] = field(default_factory=list)
    minutes: float = 240.0
    start_seconds: float = 0.0
    seconds_at: dict[int, float] = field(default_factory=dict)
    """The duration of a run by concurrency, if not 2 s."""
    slow_at: int = 0
    """If set, `rates` hold at this concurrency only; at others both stacks have 100 tokens per second."""
    said: Said = field(default_factory=lambda: Said())
    clock: ManualClock = field(default_factory=lambda: ManualClock())

    def job(self, *, vendor: str = "cpu", traffic: tuple[Traffic, ...] = TRAFFIC) -> Job:
        job = given.job()
        cell = job.cell
        return replace(
            job,
            cell=replace(
                cell,
                chip=replace(cell.chip, vendor=vendor),
                profile=Profile(benchmarks=cell.profile.benchmarks, speed=traffic, speed_minutes=self.minutes),
            ),
        )

    def context(self) -> Context:
        workspace = Workspace(self.root)
        return Context(
            run_id="run",
            workspace=workspace,
            evidence=EvidenceStore(workspace.evidence),
            ports=None,  # type: ignore[arg-type]  # the server stands in
            progress=self.said,
            meter=Meter(self.clock),
            reads=speed.STAGE.reads,
            finished=given.finished(),
        )

    def run(self, **job: Any) -> speed_results.Speed:
        rated = SlowlyStarted if self.starts_slowly else Rated
        asked = replace(self.job(**job), runner=self.runner)
        return work.measure(asked, self.context(), tool=lambda _job, _context, server: rated(server))  # type: ignore[arg-type]


class Said(Silent):
    """Records what is reported."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.notes: list[str] = []

    def doing(self, text: str, _count: Count | None = None) -> None:
        self.lines.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclass
class ManualClock(SystemClock):
    """A clock that passes only while something is measured."""

    seconds: float = 0.0

    def monotonic(self) -> float:
        return self.seconds


@dataclass(frozen=True)
class Rated:
    """A load generator whose runs have the given rate."""

    server: Stood
    name: str = "a stand-in"

    def measure(self, points: Sequence[LoadPoint], seed: int) -> list[Load]:
        return [self._measure(point, seed) for point in points]

    def _measure(self, point: LoadPoint, seed: int) -> Load:
        world, stack = self.server.world, self.server.stack
        if len(world.seen) == world.breaks_at:
            raise SmokeFailed("it broke")
        world.seen.append((stack, point, seed))
        number = (seed - 1) // 2 // 1000
        world.clock.seconds += world.seconds_at.get(point.concurrency, 2.0)
        rate = world.rates[stack][min(number, len(world.rates[stack]) - 1)]
        if world.slow_at not in (0, point.concurrency):
            rate = 100.0 + number % 2
        error = "HTTP 500" if stack == world.failing else ""
        request = Request(
            start_s=0.0,
            ttft_s=0.1,
            e2e_s=0.1 + (point.output_tokens - 1) / rate,
            input_tokens=point.input_tokens,
            output_tokens=0 if error else point.output_tokens,
            error=error,
        )
        tokens = point.requests * point.output_tokens
        return Load(requests=(request,) * point.requests, seconds=tokens / rate, itl_s=Spread(median=0.1, p99=0.1))


class SlowlyStarted(Rated):
    def in_turns(self, other: Rated, points: Sequence[LoadPoint], seed: int) -> list[tuple[Load, Load]]:
        return [(self._measure(point, seed), other._measure(point, seed)) for point in points]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path, {"native": [100.0, 90.0, 110.0], "flagos": [99.0, 91.0, 108.0]})

    @contextmanager
    def served(_job: Job, _context: Context, request: ServeRequest) -> Iterator[Stood]:
        made.started.append(request.stack)
        made.fresh.append(request.fresh)
        made.clock.seconds += made.start_seconds
        yield Stood(request.stack, made)

    monkeypatch.setattr(alternate, "served", served)
    return made


def measured(world: World) -> list[tuple[str, int]]:
    """Stack and concurrency of each run that was not a warm-up."""
    return [(stack, point.concurrency) for stack, point, seed in world.seen if seed % 2]


def test_on_a_cpu_both_are_up_and_each_request_goes_to_one_and_then_to_the_other(world: World) -> None:
    result = world.run()
    assert sorted(world.started[:2]) == sorted(world.started[2:4]) == sorted(world.started[4:]) == ["flagos", "native"]
    assert world.fresh == [False, False, True, True, True, True], "each start is a real one"
    bouts = [(stack, point, seed) for stack, point, seed in world.seen if seed % 2]
    pairs = list(zip(bouts[::2], bouts[1::2], strict=True))
    assert len(pairs) == 3 * 2 * 4, "starts, load points, pairs"
    for (one, point, seed), (other, same_point, same_seed) in pairs:
        assert {one, other} == {"native", "flagos"}
        assert (point, seed) == (same_point, same_seed)
        assert point.requests == point.concurrency, "one request of each client"
    assert result.verdict == "PASS"
    assert [(point.rounds, point.starts) for point in result.points] == [(12, 3), (12, 3)]
    assert (result.tool, result.turns) == ("a stand-in", report.COLOCATED)


def test_a_quick_point_is_measured_as_long_as_the_slowest_in_the_start_before(world: World) -> None:
    """At 2 concurrent requests a run takes 10 s, so four pairs take 80 s; the others' pairs take 4 s."""
    world.seconds_at = {2: 10.0}
    result = world.run()
    assert [point.rounds for point in result.points] == [4 + 20 + 20, 3 * 4]


def test_which_stack_is_first_is_drawn_from_the_recorded_seed_and_as_often_as_the_other(world: World) -> None:
    result = world.run()
    rows = [json.loads(line) for line in world.context().evidence.read(result.evidence[0]).splitlines()]
    first = {(row["start"], row["round"], row["load"]["concurrency"]): row["stack"] for row in rows if row["first"]}
    firsts = [first[start, 4 * start + pair, 1] for start in range(3) for pair in range(4)]
    assert all(firsts[pair] != firsts[pair + 1] for pair in range(0, 12, 2))
    measured_first = [stack for stack, point, seed in world.seen if seed % 2 and point.concurrency == 1][::2]
    assert firsts == measured_first
    assert len(result.seed) == 16
    lots = alternate.Alternation(world.job(), world.context(), None, result.seed)  # type: ignore[arg-type]
    drawn = [lots._lot(("a", "b"), index, "any") for index in range(200)]
    assert drawn.count(("a", "b")) == 100
    assert 30 < drawn[::2].count(("a", "b")) < 70


def test_a_start_has_as_many_pairs_as_fit_into_the_time_that_it_took(world: World) -> None:
    world.start_seconds = 20.0
    result = world.run()
    # Two servers took 40 s, and a pair takes 4 s.
    assert [point.rounds for point in result.points] == [3 * 10, 3 * 10]


def test_on_an_accelerator_one_server_is_up_at_a_time(world: World) -> None:
    assert world.run(vendor="nvidia").turns == report.SEPARATE
    pairs = list(zip(world.started[::2], world.started[1::2], strict=True))
    assert all(set(pair) == {"native", "flagos"} for pair in pairs)
    assert pairs[0] != pairs[1], "each is the first in turn"
    assert measured(world) == [(stack, number) for stack in world.started for number in (1, 2)]


def test_a_tool_that_starts_slowly_is_started_once_in_a_start_for_each_stack(world: World) -> None:
    world.starts_slowly = True
    world.run()
    assert len(world.started) == 6
    assert measured(world) == [(stack, number) for stack in world.started for number in (1, 2)]
    assert len(measured(world)) == len(world.seen), "it warms up by itself"


def test_a_tool_that_starts_slowly_takes_turns_where_it_reaches_both_servers(world: World) -> None:
    """Compared runs are back to back, also at the second load point."""
    world.starts_slowly, world.runner = True, "process"
    world.rates["flagos"] = [50.0, 45.0, 55.0]
    result = world.run()
    orders = zip(world.started[::2], world.started[1::2], strict=True)
    assert measured(world) == [(stack, number) for order in orders for number in (1, 2) for stack in order]
    assert [round(point.ratio, 2) for point in result.points] == [0.5, 0.5], "each side is its own stack's"


@pytest.mark.parametrize(("vendor", "output"), [("cpu", 2), ("nvidia", 8)])
def test_each_server_is_warmed_at_each_load_point_in_each_start(world: World, vendor: str, output: int) -> None:
    world.run(vendor=vendor)
    warm = [point for _, point, seed in world.seen if seed % 2 == 0]
    assert len(warm) == 3 * 2 * 2
    assert all(point.requests == point.concurrency for point in warm)
    assert {point.output_tokens for point in warm} == {output}


def test_prompts_are_new_in_each_pair_and_the_same_for_both_stacks(world: World) -> None:
    world.run()
    seeds = {(stack, point): [] for stack, point, _ in world.seen}  # type: ignore[var-annotated]
    for stack, point, seed in world.seen:
        seeds[stack, point].append(seed)
    assert all(len(set(own)) == len(own) for own in seeds.values())
    for (stack, point), own in seeds.items():
        assert own == seeds["native" if stack == "flagos" else "flagos", point]


def test_the_ratio_is_that_of_the_shown_rates(world: World) -> None:
    point = world.run().points[0]
    assert point.candidate.output_tokens_per_s / point.baseline.output_tokens_per_s == pytest.approx(point.ratio)
    assert point.interval95[0] < point.ratio < point.interval95[1]


def test_half_the_speed_fails(world: World) -> None:
    world.rates["flagos"] = [50.0, 45.0, 55.0]
    result = world.run()
    assert result.verdict == "FAIL"
    assert len(measured(world)) == 3 * 2 * 4 * 2
    assert "12 pairs in 3 starts" in result.reason
    assert "at most 0.50" in result.reason


NOISY = [100.0, 60.0, 110.0, 85.0, 120.0, 60.0, 100.0, 70.0]


def test_what_is_undecided_goes_on_until_the_time_is_used_up(world: World) -> None:
    world.rates["flagos"] = NOISY
    world.rates["native"] = [100.0] * 8
    world.minutes = 3.0
    result = world.run()
    assert result.verdict == "INCONCLUSIVE"
    starts = world.started.count("native")
    assert [point.starts for point in result.points] == [starts, starts]
    assert 180 <= world.clock.seconds < 180 * (starts + 1) / starts, "it ends after the start in which the time ended"
    assert "more runs would decide it" in result.reason


def test_three_starts_are_measured_however_long_they_take(world: World) -> None:
    world.minutes = 0.0
    result = world.run()
    assert [(point.starts, point.rounds) for point in result.points] == [(3, 3), (3, 3)], "but no more than needed"
    assert result.verdict == "PASS"


def test_an_undecided_result_is_planned_again_with_the_reason(world: World, tmp_path: Path) -> None:
    world.rates, world.minutes = {"native": [100.0], "flagos": NOISY}, 0.0
    look = Look(workspace=Workspace(tmp_path), evidence=world.context().evidence)
    history = History(Ledger(tmp_path / "ledger.jsonl"), look)
    entry = Entry(at="", run="run", cell="cpu/m", stage="speed", state="done", key="0", process="1")
    undecided = replace(entry, result=msgspec.to_builtins(world.run()))
    assert history.lost(speed.STAGE, undecided) == "undecided: measured further"
    world.rates["flagos"], world.minutes = [101.0, 99.0] * 10, 60.0
    assert history.lost(speed.STAGE, replace(entry, result=msgspec.to_builtins(world.run()))) == ""


def test_an_undecided_measurement_is_continued_by_the_next_run(world: World) -> None:
    """With what was measured, at its next look; and it is no longer kept once it is decided."""
    world.rates["flagos"] = [*NOISY[:3], *[101.0, 99.0] * 10]
    world.rates["native"] = [100.0]
    world.minutes = 0.0
    before = world.run()
    assert (before.verdict, speed.STAGE.intact(before, None)) == (  # type: ignore[arg-type]
        "INCONCLUSIVE",
        "undecided: measured further",
    )
    world.seen.clear()
    world.minutes = 60.0
    after = world.run()
    assert after.verdict == "PASS"
    assert speed.STAGE.intact(after, None) == ""  # type: ignore[arg-type]
    assert min((seed - 1) // 2 // 1000 for *_, seed in world.seen) == 3, "new starts, with new prompts"
    assert [point.starts for point in after.points] == [12, 12]
    assert not list((world.root / "work").rglob("*.json"))


def test_continuing_gives_what_an_uninterrupted_measurement_gives(tmp_path: Path, world: World) -> None:
    world.rates = {"native": [100.0], "flagos": [*NOISY[:3], *[101.0, 99.0] * 10]}
    whole = world.run()
    world.root, world.minutes = tmp_path / "again", 0.0
    while (parts := world.run()).verdict == "INCONCLUSIVE":
        world.minutes += 0.5
    assert [(point.verdict, point.starts) for point in parts.points] == [
        (point.verdict, point.starts) for point in whole.points
    ]


def test_a_load_point_that_is_decided_is_not_measured_further(world: World) -> None:
    world.slow_at = 2
    world.rates = {"native": [100.0], "flagos": [*NOISY[:3], *[101.0, 99.0] * 10]}
    result = world.run()
    assert [(point.verdict, point.starts) for point in result.points] == [("PASS", 3), ("PASS", 12)]


@pytest.mark.parametrize(("vendor", "breaks_at"), [("cpu", 23), ("cpu", 27), ("nvidia", 14)])
def test_a_killed_run_keeps_what_it_measured(world: World, vendor: str, breaks_at: int) -> None:
    world.breaks_at = breaks_at
    with pytest.raises(SmokeFailed):
        world.run(vendor=vendor)
    stored = list((world.root / "work").rglob("start-*.json"))
    world.breaks_at = -1
    world.seen.clear()
    result = world.run(vendor=vendor)
    asked = {(seed - 1) // 2 // 1000 for *_, seed in world.seen if seed % 2}
    assert stored
    assert min(asked) == len(stored), "prompts are new, also after a start that was not finished"
    assert result.verdict == "PASS"
    assert {point.starts for point in result.points} == {3}


def test_a_finished_measurement_that_is_wanted_again_is_made_again(world: World) -> None:
    world.run()
    assert not list((world.root / "work").rglob("*.json"))


@pytest.mark.parametrize("stack", ["native", "flagos"])
def test_a_server_that_fails_under_load_is_not_judged(world: World, stack: str) -> None:
    world.failing = stack
    with pytest.raises(SmokeFailed) as caught:
        world.run()
    assert f"{stack} failed under load: 1 of 1 requests" in caught.value.what
    assert caught.value.why == "HTTP 500"
    assert caught.value.detail == "the log"


def test_evidence_has_a_line_for_each_request(world: World) -> None:
    (one,) = world.run().evidence
    lines = [json.loads(line) for line in world.context().evidence.read(one).splitlines()]
    assert len(lines) == 3 * 4 * 2 * (1 + 2)
    assert {line["stack"] for line in lines} == {"native", "flagos"}
    assert {line["start"] for line in lines} == {0, 1, 2}
    assert {line["round"] for line in lines} == set(range(12))
    assert {"ttft_s", "e2e_s", "output_tokens", "run_s", "run_cpu_s", "other_work", "load"} <= set(lines[0])


def test_the_processor_time_of_each_server_is_recorded(world: World) -> None:
    """Without that of warming up: one request of each client in twelve pairs, 0.5 s each."""
    result = world.run()
    assert [(point.baseline.cpu_s, point.candidate.cpu_s) for point in result.points] == [(6.0, 6.0), (12.0, 12.0)]
    text = render.render(given.record(speed=result), given.TEMPLATES)
    cpu = "62.5 and 62.5 (16 in, 1 at once); 62.5 and 62.5 (16 in, 2 at once)"
    assert f"Processor seconds per 1,000 output tokens, native and flagos: {cpu}." in text
    assert "at least 12 pairs of runs in 3 starts of both servers" in text


@pytest.mark.parametrize(("vendor", "starts_slowly"), [("nvidia", False), ("nvidia", True), ("cpu", True)])
def test_other_work_is_known_however_the_stacks_alternate(
    world: World, monkeypatch: pytest.MonkeyPatch, vendor: str, starts_slowly: bool
) -> None:
    def read() -> Reading:
        servers = 0.5 * sum(point.requests for _stack, point, _seed in world.seen)
        return Reading(at=world.clock.seconds, used=10 * world.clock.seconds + servers, stolen=0.0, own=0.0)

    monkeypatch.setattr(processor_time, "read", read)
    monkeypatch.setattr(processor_time, "cores", lambda: 16)
    world.starts_slowly, world.runner = starts_slowly, "process"
    result = world.run(vendor=vendor)
    assert result.other_work is not None
    assert result.other_work.others == pytest.approx(10.0)
    assert len(world.said.notes) == 1


def test_other_work_is_reported_at_once_and_in_the_reason(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def read() -> Reading:
        """1.4 cores are used by others; each run takes 2 s, and its server uses 0.5 s for each request."""
        servers = 0.5 * sum(point.requests for _stack, point, _seed in world.seen)
        return Reading(at=world.clock.seconds, used=1.4 * world.clock.seconds + servers, stolen=0.0, own=0.0)

    monkeypatch.setattr(processor_time, "read", read)
    monkeypatch.setattr(processor_time, "cores", lambda: 2)
    world.rates = {"native": [100.0], "flagos": NOISY}
    world.minutes = 0.0
    result = world.run()
    assert result.other_work is not None
    assert result.other_work.others == pytest.approx(1.4)
    assert result.reason.endswith("other work takes 1.4 of 2 cores (and 1 more load points)")
    assert world.said.notes == [
        "speed: other work takes 1.4 of 2 cores, so more has to be measured; end other programs to save time"
    ]
    assert any("pair 1: " in line and line.endswith("; other work takes 1.4 of 2 cores") for line in world.said.lines)
    made = given.record(speed=result)
    assert "other programs used 1.4 of 2 cores on average, and the hypervisor withheld 0.0" in render.render(
        made, given.TEMPLATES
    )


def test_a_load_that_the_window_cannot_hold_is_refused_before_anything_starts(world: World) -> None:
    with pytest.raises(ConfigError) as caught:
        world.run(traffic=(Traffic(input=8192, output=8, concurrency=(1,)),))
    assert "longer than the window of 8,192 tokens" in caught.value.why
    assert world.started == []


def test_a_load_that_does_not_fit_is_left_out_and_the_card_says_so(world: World) -> None:
    result = world.run(traffic=(*TRAFFIC, Traffic(input=8192, output=8, concurrency=(1,))))
    assert [point.input_tokens for point in result.points] == [16, 16]
    made = given.record(speed=result)
    assert "Not measured: 8,192 in and 8 out are longer than the window" in render.render(made, given.TEMPLATES)


def test_a_load_that_is_given_twice_is_refused(world: World) -> None:
    with pytest.raises(ConfigError):
        world.run(traffic=TRAFFIC * 2)


@pytest.mark.parametrize(
    "wrong", [{"output": 1}, {"concurrency": ()}, {"concurrency": (0,)}, {"gate": 0.0}, {"gate": 1.5}, {"requests": 0}]
)
def test_loads_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at least|gate"):
        Traffic(**{"input": 16, "output": 8, "concurrency": (1,), **wrong})


def test_it_is_skipped_with_a_reason(world: World) -> None:
    assert speed.skip(world.job()) == ""
    assert "no `speed`" in speed.skip(world.job(traffic=()))
    job = world.job()
    assert "native" in speed.skip(replace(job, cell=replace(job.cell, stack="native")))


def test_the_key_follows_the_load(world: World) -> None:
    def key(job: Job) -> str:
        return keys(job, (replace(speed.STAGE, reads=()),))["speed"].key

    assert key(world.job()) == key(world.job())
    assert key(world.job(traffic=(replace(TRAFFIC[0], requests=3),))) != key(world.job())


def test_the_tool_follows_the_engine(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Up:
        base_url: str = "http://127.0.0.1:1/v1"
        model: str = "M"
        port_inside: int = 8000
        folder_inside: str = "/nfs/models/M"
        running: Any = None

    class Running:
        execute = staticmethod(lambda *_a, **_k: (0, ""))

    job, context = world.job(), replace(world.context(), ports=type("P", (), {"command": None}))  # type: ignore[arg-type]
    up: Any = Up(running=Running)
    monkeypatch.setenv("FLAGRELEASE_EVALSCOPE", "/opt/evalscope")
    assert isinstance(work.choose(job, context, up), StreamingLoad)
    named = replace(job, cell=replace(job.cell, profile=replace(job.cell.profile, load_tool="evalscope")))
    assert isinstance(work.choose(named, context, up), EvalscopePerf)
    model = replace(job.cell.model, serve=replace(job.cell.model.serve, engine="vllm"))
    assert isinstance(work.choose(replace(job, cell=replace(job.cell, model=model)), context, up), VllmBench)


def test_the_key_has_the_tool_and_not_the_environment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job = world.job()
    monkeypatch.delenv("FLAGRELEASE_EVALSCOPE", raising=False)
    before = speed.inputs(job)
    monkeypatch.setenv("FLAGRELEASE_EVALSCOPE", "/opt/evalscope")
    assert speed.inputs(job) == before
    profile = replace(job.cell.profile, load_tool="evalscope")
    assert speed.inputs(replace(job, cell=replace(job.cell, profile=profile))) != before


def test_a_tool_that_cannot_be_had_is_named_before_anything_is_served(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cell = world.job().cell
    named = {one: replace(cell, profile=replace(cell.profile, load_tool=one)) for one in load_tools.LOAD_TOOLS}
    load_tools.check(named["own"], {})
    with pytest.raises(ConfigError, match="load_tool vllm cannot measure cpu/") as refused:
        load_tools.check(named["vllm"], {})
    assert "served by llama_cpp" in refused.value.why
    with pytest.raises(EnvironmentFault, match="load_tool evalscope is not set up") as lacking:
        load_tools.check(named["evalscope"], {})
    assert "FLAGRELEASE_EVALSCOPE is not set" in lacking.value.why
    program = tmp_path / "evalscope"
    program.touch()
    load_tools.check(named["evalscope"], {"FLAGRELEASE_EVALSCOPE": str(program)})
    monkeypatch.delenv("FLAGRELEASE_EVALSCOPE", raising=False)
    with pytest.raises(EnvironmentFault):
        work.measure(replace(world.job(), cell=named["evalscope"]), world.context())
    assert world.started == []


def test_real_streams_are_judged(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alternate, "_LEAST_SECONDS", 0.1)
    paces = {"native": Pace(first=0.01, each=0.004), "flagos": Pace(first=0.03, each=0.012)}
    with streaming(paces["native"]) as native, streaming(paces["flagos"]) as flagos:
        addresses = {"native": native, "flagos": flagos}
        result = work.measure(
            world.job(),
            replace(world.context(), meter=Meter(SystemClock())),
            tool=lambda _job, _context, server: StreamingLoad(addresses[server.stack], "m"),  # type: ignore[attr-defined]
        )
    assert result.verdict == "FAIL"
    assert all(point.ratio < 0.8 for point in result.points)
    assert result.points[0].candidate.ttft_s.median > result.points[0].baseline.ttft_s.median


def released(world: World) -> record.Record:
    return given.record(speed=world.run())


def test_the_record_keeps_speed_and_its_verdict_counts(world: World) -> None:
    made = released(world)
    assert made.verdict == "PASS"
    assert made.further == {}
    assert record.loads(record.dumps(made)) == made
    slow = replace(made, speed=replace(made.speed, verdict="FAIL", reason="slow"))  # type: ignore[type-var]
    assert (slow.verdict, slow.reason) == ("FAIL", "slow")


def test_the_card_shows_the_speeds_and_the_lint_reads_them(world: World) -> None:
    made = released(world)
    assert made.speed is not None
    images = {charts.SCORES: charts.scores(made), charts.SPEED: charts.speed(made, made.speed)}
    text = render.render(made, given.TEMPLATES)
    assert lint.lint(text, made, images) == []
    assert "### Speed" in text
    cells = speed_section.speed_cells(made.speed.points[0])
    assert " | ".join(cells[:4]) in text
    changed = text.replace(f"| {cells[3]} ", "| 999 ", 1)
    assert [finding.text for finding in lint.lint(changed, made, images)] == ["the speeds differ from the record"]
    without = replace(made, speed=None)
    assert "### Speed" not in render.render(without, given.TEMPLATES)


def test_what_the_card_stage_writes_has_every_picture_that_the_card_shows(world: World) -> None:
    made, written = card.write(world.job(), given.finished(speed=world.run()), "1" * 64)
    assert sorted(written) == [
        "README.md",
        "README_zh.md",
        "every-eval-ever.json",
        "release.json",
        "scores.png",
        "speed.png",
    ]
    assert record.loads(written["release.json"]) == made
    images = {name: data for name, data in written.items() if name.endswith(".png")}
    assert lint.lint(written["README.md"].decode(), made, images) == []


def test_the_same_speeds_give_the_same_picture(world: World) -> None:
    made = released(world)
    assert made.speed is not None
    assert charts.speed(made, made.speed) == charts.speed(made, made.speed)


@pytest.mark.parametrize(("verdict", "error"), [("FAIL", GateFailed), ("INCONCLUSIVE", Inconclusive)])
def test_nothing_is_published_that_is_too_slow(
    world: World, tmp_path: Path, verdict: VerdictName, error: type[Exception]
) -> None:
    made = released(world)
    assert made.speed is not None
    slow = replace(made, speed=replace(made.speed, verdict=verdict, reason="half as fast"))
    refusal = publish._refusal(slow)
    assert isinstance(refusal, error)
    kept = publish._withheld(
        slow, refusal, world.job(), replace(world.context(), workspace=Workspace(tmp_path / "w")), {}
    )
    assert "half as fast" in kept.why
    assert "private draft" in kept.hint


def test_the_hint_of_an_undecided_speed_is_to_run_again(world: World) -> None:
    made = released(world)
    assert made.speed is not None
    for others, text in (
        (0.1, "what was measured; the card"),
        (1.4, "it takes less time after other programs have ended"),
    ):
        other = speed_results.OtherWork(seconds=1.0, cores=2, others=others, stolen=0.0)
        undecided = replace(made, speed=replace(made.speed, verdict="INCONCLUSIVE", other_work=other))
        refusal = publish._refusal(undecided)
        assert isinstance(refusal, Inconclusive)
        kept = publish._withheld(undecided, refusal, world.job(), world.context(), {})
        assert kept.hint.startswith("run again: speed is measured further, in addition to what was measured")
        assert text in kept.hint


def test_results_survive_the_ledger(world: World) -> None:
    result = world.run()
    assert msgspec.convert(msgspec.to_builtins(result), speed_results.Speed) == result
    low = min(point.interval95[0] for point in result.points)
    assert low < min(point.ratio for point in result.points)
    assert result.summary == f"PASS: {low:.2f} of the native speed at least, 2 load points"
