"""Find the fastest candidate of every kernel that a model uses, before a request has to wait for it.

Compiles in parallel ahead of time, times with exclusive use of the chip, and stores the choice in FlagGems' database. A
killed run resumes. A candidate that breaks the device context only excludes itself: a worker process does the work
and is restarted.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flagkernels.arguments import add_option
from flagkernels.errors import ChipFault, DatabaseLocked, NothingToDo, UsageError
from flagkernels.files import append_line, make_folder, read_json, write_json
from flagkernels.progress import Progress
from flagkernels.tuning.folder import Layout

if TYPE_CHECKING:  # importing torch takes seconds, and the supervising process does not need it
    from flagkernels.operators.calls import Call
    from flagkernels.operators.flaggems import FlagGems
    from flagkernels.tuning.session import Operation

__all__ = ["add_arguments", "main", "parse_budget"]

CHIP_LOST = 70
"""Exit code of a worker whose device context broke."""
MOST_RESTARTS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_option(parser, "--trace")
    add_option(parser, "--out", help="output folder for database, kernels and report")
    add_option(parser, "--operators")
    add_option(parser, "--verdicts", required=False)
    add_option(parser, "--budget", default="none")
    add_option(parser, "--width", help="number of parallel compilers; default: one per core")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, default=float("inf"), help=argparse.SUPPRESS)


def main(args: argparse.Namespace) -> int:
    if args.worker:
        return _worker(args)
    budget = parse_budget(args.budget)
    layout = Layout(args.out)
    for folder in (layout.flaggems, layout.triton):
        make_folder(folder)
    with _alone(args.out):
        return _supervise(args, layout, time.monotonic() + budget)


def parse_budget(text: str) -> float:
    """A duration in seconds; infinity for `none`. Raises UsageError if the text is not a duration."""
    if text == "none":
        return float("inf")
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if match is None or float(match.group(1)) <= 0:
        raise UsageError(f"{text!r} is not a duration", hint="write 90s, 10m or 2h")
    return float(match.group(1)) * {"": 1, "s": 1, "m": 60, "h": 3600}[match.group(2)]


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    with (out / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DatabaseLocked(
                f"another run tunes into {out}",
                why="its lock is held",
                hint="wait for it to end, or choose another --out",
            ) from None
        yield


def _supervise(args: argparse.Namespace, layout: Layout, deadline: float) -> int:
    argv = [sys.executable, "-m", "flagkernels", "tune", "--worker", "--deadline", repr(deadline)]
    for name in ("trace", "out", "operators", "verdicts", "width"):
        if (value := getattr(args, name)) is not None:
            argv += [f"--{name}", str(value)]
    for _ in range(MOST_RESTARTS):
        code = _run(argv, layout.environment())
        if code >= 0 and code != CHIP_LOST:
            return code
        append_line(layout.journal, {"event": "restart", "table": "", "key": "", "code": code})
    raise ChipFault(
        f"the tuning process died {MOST_RESTARTS} times",
        why=f"most recently with exit code {code}; {layout.journal} names the candidates",
        hint="qualify the operators first, and do not tune one whose candidates all crash",
    )


def _run(argv: Sequence[str], environment: dict[str, str]) -> int:
    process = subprocess.Popen(argv, env=environment)
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        process.wait(timeout=30)
        raise


def _worker(args: argparse.Namespace) -> int:
    from flagkernels.operators import flaggems
    from flagkernels.tuning import database

    library = flaggems.load()
    with database.Faults(library.model):
        return _tune(args, library)


def _tune(args: argparse.Namespace, library: FlagGems) -> int:
    from flagkernels.operators import flaggems
    from flagkernels.tuning import database
    from flagkernels.tuning.journal import Journal
    from flagkernels.tuning.session import Session
    from flagkernels.tuning.timer import ChipTimer

    database.harden(library.model)
    module = flaggems.device_module(library.device)
    layout = Layout(args.out)
    path = Path(str(library.model.engine.url.database))
    if path.exists() and path.stat().st_size:  # SQLite creates an empty file before the first table
        database.check_database(path)
    operations = _operations(args, library)
    session = Session(
        library=library,
        timer=ChipTimer(module, library.device),
        journal=Journal(layout.journal),
        deadline=args.deadline,  # of the monotonic clock, which processes of one machine share
        width=args.width,
        say=_Display(),
    )
    try:
        report = session.run(operations)
    except Exception as error:
        if not session.timer.alive():
            sys.stderr.write(f"tune: the chip's context is lost: {str(error).splitlines()[0]}; restarting\n")
            os._exit(CHIP_LOST)
        raise
    database.checkpoint(library.model)
    write_json(layout.report, _merged(layout.report, report.to_json() | {"vendor": library.vendor}))
    sys.stderr.write(
        f"tune: {len(report.tuned)} keys tuned, {report.reused} kept, {report.compiled} kernels compiled in "
        f"{report.seconds['all']:.1f} s; {report.tuning_events} tuning events remain\n"
    )
    return 0


def _merged(path: Path, report: dict[str, Any]) -> dict[str, Any]:
    """The report, with the keys that earlier runs tuned."""
    before = read_json(path) if path.exists() else {}
    ours = {(row["kernel"], repr(list(row["key"]))) for row in report["tuned"]}
    earlier = [row for row in before.get("tuned", ()) if (row["kernel"], repr(list(row["key"]))) not in ours]
    return {**report, "tuned": [*earlier, *report["tuned"]]}


class _Display:
    """A progress line for each phase: compiled candidates, timed keys, verified calls."""

    def __init__(self) -> None:
        self.phase = ""
        self.progress: Progress | None = None

    def __call__(self, phase: str, done: int, total: int) -> None:
        if phase != self.phase or self.progress is None:
            self.phase, self.progress = phase, Progress(f"tune: {phase}", total=total)
        self.progress.done = done
        self.progress.doing({"compile": "candidates", "time": "keys", "verify": "calls"}.get(phase, ""))
        if done == total:
            self.progress.__exit__()


def _operations(args: argparse.Namespace, library: FlagGems) -> list[Operation]:
    from flagkernels.model import trace
    from flagkernels.qualify import qualify
    from flagkernels.qualify.rows import correct_operators

    traced = trace.read(args.trace)
    wanted = set(qualify.choose(traced, args.operators))
    if args.verdicts:
        wanted = set(correct_operators(args.verdicts, sorted(wanted)))
    operations = [operation_of(t.call, t.operator, library) for t in traced.calls if t.operator in wanted]
    if not operations:
        why = f"{args.trace} has no call of {', '.join(sorted(wanted))}"
        raise NothingToDo("nothing to tune", why=why, hint="choose operators that the trace calls")
    return operations


def operation_of(call: Call, operator: str, library: FlagGems) -> Operation:
    """Make a traced call runnable: on uninitialised memory, or on values with the model's spread."""
    import torch

    from flagkernels.operators.calls import TensorSpec, Token, torch_dtype
    from flagkernels.qualify.cases import Case
    from flagkernels.qualify.guards import Arena
    from flagkernels.qualify.inputs import make
    from flagkernels.tuning.session import Operation

    device = torch.device(library.device)

    def blank() -> tuple[tuple[Any, ...], dict[str, Any]]:
        def value(item: Any) -> Any:
            match item:
                case TensorSpec():
                    flat = torch.empty(item.extent, dtype=torch_dtype(item.dtype), device=device)
                    return flat.as_strided(item.shape, item.stride)
                case Token(kind="device"):
                    return device
                case Token(name=name):
                    return getattr(torch, name)
                case tuple():
                    return [value(part) for part in item]
            return item

        return tuple(map(value, call.args)), {name: value(argument) for name, argument in call.kwargs}

    def real() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return make(Case(call=call, kind="real", regime="spread"), Arena(device), seed=0)

    shapes = " ".join("×".join(map(str, spec.shape)) for spec in call.tensors)
    return Operation(
        name=f"{call.overload} {shapes}",
        operator=operator,
        elements=sum(spec.numel for spec in call.tensors),
        function=library.function(call.overload),
        blank=blank,
        real=real,
    )
