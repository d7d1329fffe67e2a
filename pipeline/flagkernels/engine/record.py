"""Record an engine's calls of operators that FlagGems has, while native kernels do the work.

`trace` predicts these calls from a config.json. For a new engine, or an operator that is never called, this shows the
actual calls: every process counts its aten calls by shape, separately for launches and for captures in a CUDA graph
(which replays them without a call)."""

from __future__ import annotations

import argparse
import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flagkernels.arguments import add_option
from flagkernels.engine.launch import CALLS, become, engine_of
from flagkernels.engine.process_file import ProcessFile, files_of
from flagkernels.errors import UsageError
from flagkernels.files import make_folder, read_json
from flagkernels.model.trace import Trace
from flagkernels.model.trace import read as read_trace
from flagkernels.operators import catalogue
from flagkernels.operators.calls import Call, shape_class, spec_of

__all__ = ["add_arguments", "main", "merged", "start", "table"]

CATALOGUE = "FLAGKERNELS_CATALOGUE"
MOST = 20_000  # distinct calls to count; further ones are ignored

_state: _Calls | None = None


class _Calls:
    """The counters of this process's calls. Implements StatusSource."""

    def __init__(self, capturing: Callable[[], bool], current_device: Callable[[], int | None] = lambda: None) -> None:
        self.capturing, self.current_device = capturing, current_device
        self.depth = threading.local()
        self.library: Any = None
        """torch's Library; its kernels are unregistered when it is freed."""
        self.reset()

    def reset(self) -> None:
        self.launched: Counter[Call] = Counter()
        self.captured: Counter[Call] = Counter()
        self.device: int | None = None

    def events(self) -> int:
        return self.launched.total() + self.captured.total()

    def snapshot(self) -> dict[str, Any]:
        """`calls`: a row for each distinct call, launched or captured; `device`: the number of the device that made
        them."""
        rows = [
            {"call": call.to_json(), how: count}
            for how in ("launched", "captured")
            for call, count in list(getattr(self, how).items())
        ]
        return {"calls": rows, "device": self.device}

    def counted(self, key: str, native: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a native kernel to count its outermost calls, not those that another kernel makes."""

        def kernel(keyset: Any, *args: Any, **kwargs: Any) -> Any:
            depth = getattr(self.depth, "now", 0)
            if depth == 0:
                self._count(key, args, kwargs)
            self.depth.now = depth + 1
            try:
                return native(keyset, *args, **kwargs)
            finally:
                self.depth.now = depth

        return kernel

    def _count(self, key: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        counts = self.captured if self.capturing() else self.launched
        try:
            given = tuple((name, spec) for name, value in kwargs.items() if (spec := spec_of(value)) is not None)
            call = Call(key, tuple(map(spec_of, args)), given)
        except TypeError:  # symbolic sizes during compilation: not a call of the model
            return
        if call in counts or len(counts) < MOST:
            counts[call] += 1
        if self.device is None:  # asked here: the thread that writes the file has a current device of its own
            self.device = self.current_device()


def start() -> None:
    """Start counting in this process; later calls do nothing."""
    global _state
    if _state is not None:
        return
    import torch

    from flagkernels.operators.registry import capturing, device_index, dispatch_key, native_kernel, quiet_override

    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    _state = _Calls(capturing(device), device_index(device))
    _state.library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call,unused-ignore]
    dispatch = dispatch_key(device)
    for key in catalogue.load(_catalogue()).overloads:
        try:
            native = native_kernel(key, dispatch)
        except UsageError:
            continue  # this torch has no such operator
        if native is not None:
            quiet_override(_state.library, key, _state.counted(key, native), dispatch, with_keyset=True)
    ProcessFile(Path(os.environ[CALLS]), _state)


def _catalogue() -> Path | None:
    named = os.environ.get(CATALOGUE)
    return Path(named) if named else None


def merged(folder: Path) -> dict[Call, tuple[int, int]]:
    """(launched, captured) by call, over all processes. Raises UsageError if no process wrote a file."""
    totals: dict[Call, tuple[int, int]] = {}
    files = files_of(folder)
    for file in files:
        for row in read_json(file)["calls"]:
            call = Call.from_json(row["call"])
            launched, captured = totals.get(call, (0, 0))
            totals[call] = (launched + row.get("launched", 0), captured + row.get("captured", 0))
    if not files:
        hint = "start the engine with `python -m flagkernels record --calls FOLDER -- ENGINE …`, and send it requests"
        raise UsageError(f"no process recorded calls in {folder}", hint=hint)
    return totals


def table(calls: dict[Call, tuple[int, int]], known: catalogue.Catalogue, traced: Trace | None) -> list[str]:
    """A line for each operator and shape class, the most-called first; with a trace, whether it predicted the class."""
    static = traced.static if traced else frozenset[int]()
    predicted = _predicted(traced) if traced else set[tuple[str, str]]()
    rows: dict[tuple[str, str], list[int]] = {}
    for call, counts in calls.items():
        sums = rows.setdefault((call.overload, shape_class(call, static)), [0, 0])
        for index, count in enumerate(counts):
            sums[index] += count
    lines = [
        f"{'operator':<20} {'aten':<22} {'launched':>9} {'captured':>9}  {'traced  ' if traced else ''}shape class"
    ]
    for (overload, shapes), (launched, captured) in sorted(rows.items(), key=lambda row: (-sum(row[1]), row[0])):
        operator = known.operator(overload) or "–"
        mark = f"{'yes' if (overload, shapes) in predicted else 'no':<8}" if traced else ""
        lines.append(f"{operator:<20} {overload:<22} {launched:>9} {captured:>9}  {mark}{shapes}")
    if traced:
        idle = sorted(set(traced.operators) - {known.operator(call.overload) for call in calls})
        lines.append(f"traced, and never called: {', '.join(idle) or 'none'}")
    return lines


def _predicted(trace: Trace) -> set[tuple[str, str]]:
    return {(traced.call.overload, shape_class(traced.call, trace.static)) for traced in trace.calls}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calls", type=Path, required=True, help="folder for the recorded calls, a file per process")
    add_option(parser, "--catalogue")
    add_option(parser, "--trace", required=False, help="show which of the calls this trace.json predicted")
    parser.add_argument(
        "command",
        nargs=argparse.REMAINDER,
        metavar="-- ENGINE …",
        help="the engine; without it, print the recorded calls",
    )


def main(args: argparse.Namespace) -> int:
    """Replace this process with the engine; without one, print the recorded calls."""
    known = catalogue.load(args.catalogue)  # fails before an engine has started
    if not args.command:
        traced = read_trace(args.trace) if args.trace else None
        print("\n".join(table(merged(args.calls), known, traced)))  # noqa: T201 -- the result
        return 0
    engine = engine_of(args.command)
    make_folder(args.calls)
    for stale in files_of(args.calls):  # from an earlier engine
        stale.unlink(missing_ok=True)
    more = {CALLS: str(args.calls.resolve())}
    if args.catalogue:
        more[CATALOGUE] = str(args.catalogue.resolve())
    return become(engine, more)
