"""prepare: from a model's config.json to a bundle, in one command.

trace → qualify → tune → bench → select → bundle, each a process of its own, so that none inherits another's device
context. What a step has finished is in its own file of the work folder: a run that was killed, or is repeated, does
only what is missing. Changed inputs (lengths, policy, chip, FlagGems) repeat only the steps that depend on them.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from flagkernels.arguments import add_option
from flagkernels.bundle import bundle as bundles
from flagkernels.bundle import report
from flagkernels.bundle.compat import Compat, SystemProbe
from flagkernels.digests import file_sha256
from flagkernels.errors import BundleCorrupt, DatabaseLocked, KernelsError, NothingToDo, UsageError
from flagkernels.files import make_folder, read_json, write_json
from flagkernels.measure import bench
from flagkernels.measure.select import FLOOR
from flagkernels.model import architecture, trace
from flagkernels.model.sampling import REQUESTS
from flagkernels.operators import catalogue
from flagkernels.operators.inductor import EXECUTIONS
from flagkernels.operators.registry import device_here
from flagkernels.progress import Progress, machine_readable
from flagkernels.qualify import qualify
from flagkernels.tuning.folder import Layout
from flagkernels.tuning.tune import parse_budget
from flagkernels.vendors import vendors

__all__ = ["Step", "Work", "add_arguments", "main", "steps"]

FORMAT = 2  # raised when the files of an earlier version must not be read again


@dataclass(frozen=True, kw_only=True)
class Step:
    """`made`: the file that is there when the step is done. `rest`: what a killed step goes on from, and what is
    removed when its inputs are others."""

    name: str
    words: tuple[str, ...]
    made: Path
    rest: tuple[Path, ...] = ()


class Work:
    """The files of a work folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.trace = self.root / "trace.json"
        self.verdicts = self.root / "verdicts.jsonl"
        self.qualified = self.root / "qualified.json"
        self.tuned = Layout(self.root / "tuned")
        self.figures = self.root / "figures.jsonl"
        self.ceilings = self.root / "ceilings.json"
        self.operators = self.root / "operators.yaml"
        self.choice = self.root / "choice.json"
        self.report = self.root / "report.json"

    def marker(self, step: str) -> Path:
        return self.root / f"steps/{step}.json"

    def log(self, step: str) -> Path:
        return self.root / f"logs/{step}.txt"

    def clear(self) -> None:
        for path in self.root.iterdir() if self.root.is_dir() else ():
            if path.name != ".lock":
                _remove(path)


class StepFailed(KernelsError):
    """A step ended; what failed is said above, by itself. The exit code is the step's own."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_option(parser, "--config", required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder of the steps' files; kept to go on from")
    add_option(parser, "--out", help="the bundle")
    add_option(parser, "--vendor", help="FlagGems vendor name of this chip; default: whose tool is here")
    add_option(parser, "--device")
    add_option(parser, "--policy", default="express")
    add_option(parser, "--budget", default="10m")
    add_option(parser, "--exclude", action="append", default=[], metavar="OPERATOR[=REASON]", help="repeatable")
    add_option(parser, "--max-len")
    add_option(parser, "--max-batch")
    add_option(parser, "--max-tokens")
    add_option(parser, "--points")
    add_option(parser, "--execution", choices=EXECUTIONS)
    add_option(parser, "--requests", choices=REQUESTS)
    add_option(parser, "--loads")
    add_option(parser, "--floor", default=FLOOR)
    add_option(parser, "--real")
    add_option(parser, "--classes")
    add_option(parser, "--seconds", default=180.0, help="time limit of one operator, in qualify and bench")
    add_option(parser, "--width")


def steps(args: argparse.Namespace, work: Work, wanted: Sequence[str], by_hand: Sequence[str]) -> list[Step]:
    """All after `trace`. `wanted` are the operators that the model calls, without those taken out by hand."""
    return [*_measuring(args, work, wanted), *_choosing(args, work, by_hand)]


def _measuring(args: argparse.Namespace, work: Work, wanted: Sequence[str]) -> list[Step]:
    """Which operators are correct, and how fast each of them is."""
    names = ("--operators", ",".join(wanted))
    device = ("--device", args.device)
    seconds = ("--seconds", str(args.seconds))
    width = ("--width", str(args.width)) if args.width else ()
    return [
        Step(
            name="qualify",
            words=(
                *("--trace", str(work.trace), "--out", str(work.verdicts), "--report", str(work.qualified)),
                *("--real", str(args.real), *names, *device, *seconds, *width),
            ),
            made=work.qualified,
        ),
        Step(
            name="tune",  # database and journal know their keys by themselves, and are kept whatever else changes
            words=(
                *("--trace", str(work.trace), "--verdicts", str(work.verdicts), "--out", str(work.tuned.out)),
                *("--budget", args.budget, *names, *width),
            ),
            made=work.tuned.report,
        ),
        Step(
            name="bench",
            words=(
                *("--trace", str(work.trace), "--verdicts", str(work.verdicts), "--out", str(work.figures)),
                *("--ceilings", str(work.ceilings), "--tuned", str(work.tuned.out)),
                *("--per-operator", str(args.classes), *names, *device, *seconds),
            ),
            made=work.ceilings,
            rest=(work.figures,),
        ),
    ]


def _choosing(args: argparse.Namespace, work: Work, by_hand: Sequence[str]) -> list[Step]:
    """Which operators are shipped, and the bundle of them."""
    return [
        Step(
            name="select",
            words=(
                *("--trace", str(work.trace), "--verdicts", str(work.verdicts), "--figures", str(work.figures)),
                *("--policy", args.policy, "--floor", str(args.floor), "--loads", args.loads),
                *("--device", args.device),
                *("--config", str(args.config.resolve()), "--tuned", str(work.tuned.out)),
                *("--out", str(work.operators), "--report", str(work.choice)),
                *(("--exclude", ",".join(by_hand)) if by_hand else ()),
            ),
            made=work.operators,
        ),
        Step(
            name="bundle",
            words=(
                *("--tuned", str(work.tuned.out), "--operators", str(work.operators), "--report", str(work.report)),
                *(("--vendor", args.vendor) if args.vendor else ()),
                *("--out", str(args.out.resolve())),
            ),
            made=args.out.resolve() / "compat.json",
        ),
    ]


def main(args: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, _stop)
    parse_budget(args.budget)
    trace.parse_points(args.loads)
    known = catalogue.load()
    taken_out = dict(one.partition("=")[::2] for one in args.exclude)
    known.require(taken_out)
    architecture.read_config(args.config)  # refuse a bad config or a missing chip before any work
    device_here(args.device)
    machine = SystemProbe().compat(args.vendor or _vendor_here())
    work = Work(args.work)
    make_folder(work.root)
    with _alone(work), Progress("prepare", total=6) as progress:
        run = _Run(work=work, progress=progress, key=_machine_key(work, args, machine))
        run.step(_trace(args, work))
        called = trace.read(work.trace).operators
        by_hand = {name: reason or "taken out by hand" for name, reason in taken_out.items() if name in called}
        wanted = [name for name in called if name not in by_hand]
        if not wanted:
            raise NothingToDo("every operator that the model calls is excluded", hint="exclude fewer")
        for step in steps(args, work, wanted, tuple(by_hand)):
            if step.name == "bundle":
                write_json(work.report, _report(work, wanted, by_hand, machine, run.spent))
            run.step(step)
    bundle = bundles.load(args.out)
    made = {"bundle": str(bundle.path), "digest": bundles.digest(bundle.path), "content": bundle.content}
    print(json.dumps(made))  # noqa: T201 -- the result
    return 0


@dataclass
class _Run:
    """The steps one after another; `key` is that of everything so far."""

    work: Work
    progress: Progress
    key: str

    def __post_init__(self) -> None:
        self.spent: dict[str, float] = {}
        """Seconds of each step, those of earlier runs on this machine included."""

    def step(self, step: Step) -> None:
        """Raises StepFailed with the step's exit code."""
        self.key = _digest([step.name, step.words, self.key])
        marker = self.work.marker(step.name)
        state = read_json(marker) if marker.exists() else {}
        if state.get("key") == self.key and state.get("done") and _whole(step):
            self.spent[step.name] = state["seconds"]
            self.progress.step(f"{step.name:<8} kept")
            return
        if state.get("key") != self.key:
            for path in step.rest:
                _remove(path)
        before = state.get("seconds", 0.0)
        write_json(marker, {**state, "key": self.key, "done": False})
        if machine_readable():
            self.progress.shown_at = -1.0
            self.progress.doing(step.name)
        began = time.monotonic()
        _call(step, self.work.log(step.name))
        took = time.monotonic() - began
        self.spent[step.name] = round(before + took, 1)
        write_json(marker, {"key": self.key, "seconds": self.spent[step.name], "done": True})
        self.progress.step(f"{step.name:<8} {took:.1f} s")


def _whole(step: Step) -> bool:
    """True where the step's file is still there, and a bundle is unchanged."""
    if step.name != "bundle":
        return step.made.exists()
    try:
        bundles.load(step.made.parent)
    except BundleCorrupt:
        return False
    return True


def _call(step: Step, log: Path) -> None:
    """The step in a process of its own: progress on our stderr, its long tables in a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as printed:
        argv = [sys.executable, "-m", "flagkernels", step.name, *step.words]
        # Libraries' warnings to developers would hide what the steps say.
        environment = {"PYTHONWARNINGS": "ignore", **os.environ}
        process = subprocess.Popen(argv, stdout=printed, env=environment)
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            process.kill()
            raise
    if code:
        raise _failed(step.name, code)


def _failed(name: str, code: int) -> StepFailed:
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    error = StepFailed(f"{name} ended with {how}", hint="what it said is above; run again to go on from there")
    error.exit_code = code if code > 0 else 6
    return error


def _trace(args: argparse.Namespace, work: Work) -> Step:
    limits = ("--max-len", args.max_len, "--max-batch", args.max_batch, "--max-tokens", args.max_tokens)
    points = ("--points", args.points) if args.points else tuple(map(str, limits))
    how = ("--execution", args.execution, "--requests", args.requests)
    words = ("--config", str(args.config.resolve()), "--out", str(work.trace), *how, *points)
    return Step(name="trace", words=words, made=work.trace, rest=(work.verdicts,))


def _machine_key(work: Work, args: argparse.Namespace, machine: Compat) -> str:
    """The key of chip, driver, Triton, FlagGems and model; what was measured on another machine is cleared away."""
    key = _digest([FORMAT, asdict(machine), args.device])
    marker = work.marker("machine")
    if not marker.exists() or read_json(marker).get("key") != key:
        work.clear()
        write_json(marker, {"key": key, **asdict(machine)})
    return _digest([key, file_sha256(args.config)])


def _report(
    work: Work, wanted: Sequence[str], by_hand: Mapping[str, str], machine: Compat, seconds: Mapping[str, float]
) -> dict[str, Any]:
    rows = {row.operator: row for row in qualify.read_rows(work.verdicts).values()}
    return report.build(
        trace.read(work.trace),
        [rows[name] for name in wanted],
        tuned=read_json(work.tuned.report),
        figures=list(bench.figures_of(work.figures)),
        ceilings=read_json(work.ceilings),
        choice=read_json(work.choice),
        by_hand=by_hand,
        compat=machine,
        seconds=seconds,
    )


def _vendor_here() -> str:
    """Raises UsageError where no vendor's tool is found."""
    if Path("/proc/driver/nvidia/version").exists():
        return "nvidia"
    # A processor's tool is on machines with a chip as well.
    chips = {name: vendor.query[0] for name, vendor in vendors().items() if vendor.torch_device != "cpu"}
    found = next((name for name, tool in chips.items() if shutil.which(tool)), None)
    if found is None:
        tools = ", ".join(chips.values())
        raise UsageError("cannot detect which vendor's chip this is", why=f"none of {tools}", hint="name it: --vendor")
    return found


@contextlib.contextmanager
def _alone(work: Work) -> Iterator[None]:
    with (work.root / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            hint = "wait for it, or choose another --work"
            raise DatabaseLocked(f"another run works in {work.root}", why="its lock is held", hint=hint) from None
        yield


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _stop(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
