"""Prepare a bundle from a model's config.json, in one command.

trace → qualify → tune → bench → select → bundle, each in a separate process, so that none inherits another's device
context. Each step keeps its results in the work folder: a killed or repeated run does only what is missing. Changed
inputs (lengths, policy, chip, FlagGems) repeat only the steps that depend on them.
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
from flagkernels.measure.figures import figures_of
from flagkernels.measure.select import FLOOR
from flagkernels.model import architecture, shard, trace
from flagkernels.model.sampling import REQUESTS
from flagkernels.operators import catalogue
from flagkernels.operators.inductor import EXECUTIONS
from flagkernels.operators.registry import device_here
from flagkernels.progress import Progress, machine_readable
from flagkernels.qualify.rows import read_rows
from flagkernels.tuning.folder import Layout
from flagkernels.tuning.tune import parse_budget
from flagkernels.vendors import vendors

__all__ = ["Step", "Work", "add_arguments", "main", "steps"]

FORMAT = 2  # incremented when the files of an earlier version must not be reused


@dataclass(frozen=True, kw_only=True)
class Step:
    """A subcommand of flagkernels, with its arguments and files."""

    name: str
    """The subcommand."""
    argv: tuple[str, ...]
    """Arguments after the subcommand."""
    made: Path
    """File that exists once the step has finished."""
    partial: tuple[Path, ...] = ()
    """Files that a killed step resumes from; removed when its inputs change."""


class Work:
    """Paths in a work folder."""

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
    """A step failed and printed its own error. Has the exit code of the step."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_option(parser, "--config", required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder of the steps' files, kept to resume from")
    add_option(parser, "--out", help="output folder of the bundle")
    add_option(parser, "--vendor", help="FlagGems vendor name of this chip; default: detected by the vendor's tool")
    add_option(parser, "--device")
    add_option(parser, "--devices")
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
    shard.add_arguments(parser)
    add_option(parser, "--floor", default=FLOOR)
    add_option(parser, "--real")
    add_option(parser, "--classes")
    add_option(parser, "--seconds", default=180.0, help="time limit of one operator, in qualify and bench")
    add_option(parser, "--width")


def steps(args: argparse.Namespace, work: Work, wanted: Sequence[str], by_hand: Sequence[str]) -> list[Step]:
    """All steps after `trace`. `wanted`: the operators that the model calls, without those excluded by hand."""
    return [*_measuring(args, work, wanted), *_choosing(args, work, by_hand)]


def _measuring(args: argparse.Namespace, work: Work, wanted: Sequence[str]) -> list[Step]:
    """The steps that measure operators: qualify, tune, bench."""
    names = ("--operators", ",".join(wanted))
    device = ("--device", args.device)
    seconds = ("--seconds", str(args.seconds))
    width = ("--width", str(args.width)) if args.width else ()
    return [
        Step(
            name="qualify",
            argv=(
                *("--trace", str(work.trace), "--out", str(work.verdicts), "--report", str(work.qualified)),
                *("--real", str(args.real), *names, *device, *seconds, *width),
            ),
            made=work.qualified,
        ),
        Step(
            name="tune",  # not in `partial`: database and journal are keyed, so they stay valid when inputs change
            argv=(
                *("--trace", str(work.trace), "--verdicts", str(work.verdicts), "--out", str(work.tuned.out)),
                *("--budget", args.budget, *names, *width),
            ),
            made=work.tuned.report,
        ),
        Step(
            name="bench",
            argv=(
                *("--trace", str(work.trace), "--verdicts", str(work.verdicts), "--out", str(work.figures)),
                *("--ceilings", str(work.ceilings), "--tuned", str(work.tuned.out)),
                *("--per-operator", str(args.classes), *names, *device, *seconds),
            ),
            made=work.ceilings,
            partial=(work.figures,),
        ),
    ]


def _choosing(args: argparse.Namespace, work: Work, by_hand: Sequence[str]) -> list[Step]:
    """The steps that choose and pack operators: select, bundle."""
    return [
        Step(
            name="select",
            argv=(
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
            argv=(
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
    # Reject a bad config, or a missing chip, before any work.
    shard.sharded(architecture.read_config(args.config), shard.share_of(args))
    device_here(args.device, args.devices)
    known = catalogue.load()
    excluded = dict(text.partition("=")[::2] for text in args.exclude)
    known.require(excluded)
    machine = SystemProbe().compat(args.vendor or _vendor_here())
    work = Work(args.work)
    make_folder(work.root)
    with _alone(work), Progress("prepare", total=6) as progress:
        run = _Run(work=work, progress=progress, key=_machine_key(work, args, machine))
        run.step(_trace(args, work))
        called = trace.read(work.trace).operators
        by_hand = {name: reason or "taken out by hand" for name, reason in excluded.items() if name in called}
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
    """Run steps one after another, skipping those whose inputs have not changed."""

    work: Work
    progress: Progress
    key: str
    """Digest of the machine, the model and all steps so far."""

    def __post_init__(self) -> None:
        self.spent: dict[str, float] = {}
        """Seconds of each step, including earlier runs on this machine."""

    def step(self, step: Step) -> None:
        """Run the step unless it is up to date. Raises StepFailed with the step's exit code."""
        self.key = _digest([step.name, step.argv, self.key])
        marker = self.work.marker(step.name)
        state = read_json(marker) if marker.exists() else {}
        if state.get("key") == self.key and state.get("done") and _intact(step):
            self.spent[step.name] = state["seconds"]
            self.progress.step(f"{step.name:<8} kept")
            return
        if state.get("key") != self.key:
            for path in step.partial:
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


def _intact(step: Step) -> bool:
    """True if the step's file still exists and, for a bundle, is unchanged."""
    if step.name != "bundle":
        return step.made.exists()
    try:
        bundles.load(step.made.parent)
    except BundleCorrupt:
        return False
    return True


def _call(step: Step, log: Path) -> None:
    """Run the step in a separate process: progress goes to our stderr, stdout to the log file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as printed:
        argv = [sys.executable, "-m", "flagkernels", step.name, *step.argv]
        # Libraries' warnings to developers would bury the steps' own output.
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
    error = StepFailed(f"{name} ended with {how}", hint="see its error above; run again to resume from this step")
    error.exit_code = code if code > 0 else 6
    return error


def _trace(args: argparse.Namespace, work: Work) -> Step:
    limits = ("--max-len", args.max_len, "--max-batch", args.max_batch, "--max-tokens", args.max_tokens)
    points = ("--points", args.points) if args.points else tuple(map(str, limits))
    how = ["--execution", args.execution, "--requests", args.requests]
    share = shard.share_of(args)
    for name, size in (("--tensor", share.tensor), ("--pipeline", share.pipeline)):
        how += [name, str(size)] if size > 1 else []
    how += ["--whole-experts"] if share.whole_experts else []
    argv = ("--config", str(args.config.resolve()), "--out", str(work.trace), *how, *points)
    return Step(name="trace", argv=argv, made=work.trace, partial=(work.verdicts,))


def _machine_key(work: Work, args: argparse.Namespace, machine: Compat) -> str:
    """Digest of chip, driver, Triton, FlagGems and model; clears the work folder if it is from another machine."""
    key = _digest([FORMAT, asdict(machine), args.device])
    marker = work.marker("machine")
    if not marker.exists() or read_json(marker).get("key") != key:
        work.clear()
        write_json(marker, {"key": key, **asdict(machine)})
    return _digest([key, file_sha256(args.config)])


def _report(
    work: Work, wanted: Sequence[str], by_hand: Mapping[str, str], machine: Compat, seconds: Mapping[str, float]
) -> dict[str, Any]:
    rows = {row.operator: row for row in read_rows(work.verdicts).values()}
    return report.build(
        trace.read(work.trace),
        [rows[name] for name in wanted],
        tuned=read_json(work.tuned.report),
        figures=list(figures_of(work.figures)),
        ceilings=read_json(work.ceilings),
        choice=read_json(work.choice),
        by_hand=by_hand,
        compat=machine,
        seconds=seconds,
    )


def _vendor_here() -> str:
    """FlagGems' name of this machine's vendor. Raises UsageError if no vendor's tool is found."""
    if Path("/proc/driver/nvidia/version").exists():
        return "nvidia"
    # lscpu is installed on machines with a chip as well.
    chips = {name: vendor.query[0] for name, vendor in vendors().items() if vendor.torch_device != "cpu"}
    detected = next((name for name, tool in chips.items() if shutil.which(tool)), None)
    if detected is None:
        tools = ", ".join(chips.values())
        why = f"none of these is on PATH: {tools}"
        raise UsageError("cannot detect which vendor's chip this is", why=why, hint="name it with --vendor")
    return detected


@contextlib.contextmanager
def _alone(work: Work) -> Iterator[None]:
    with (work.root / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            hint = "wait for it to end, or choose another --work"
            raise DatabaseLocked(f"another run uses {work.root}", why="its lock is held", hint=hint) from None
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
