"""Activate a bundle in this process, and report what is in effect in all processes.

Operators come from the bundle's file, never from environment variables, which engines drop when they spawn workers. A
bundle that does not fit is rejected before any kernel is replaced. Each process writes a status file
(process_file.py): its operators, their call counts, candidates timed and kernels compiled since its start. `effective`
merges them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flagkernels.arguments import add_option
from flagkernels.bundle import bundle as bundles
from flagkernels.bundle import compat
from flagkernels.bundle.bundle import Bundle
from flagkernels.bundle.overlay import prepare
from flagkernels.engine.process_file import ProcessFile, files_of
from flagkernels.errors import ChipFault, UsageError
from flagkernels.operators import catalogue
from flagkernels.operators.catalogue import SOURCE
from flagkernels.operators.listing import Operators
from flagkernels.tuning import database
from flagkernels.tuning.nearest import use_nearest

if TYPE_CHECKING:  # imports torch, which is not needed to check a bundle
    from flagkernels.operators.registry import Source

__all__ = ["DEFAULT_BUNDLE", "Effective", "Status", "activate", "add_arguments", "effective", "find_bundle", "main"]

DEFAULT_BUNDLE = Path("/etc/flagos/kernels")
BUNDLE = "FLAGKERNELS_BUNDLE"
NONE = "none"
EFFECTIVE = "FLAGKERNELS_EFFECTIVE"
"""Environment variable: the folder for the status files; default: flagkernels-UID/effective in the temporary folder."""

_state: Status | None = None


def find_bundle() -> Path | None:
    """The bundle named by FLAGKERNELS_BUNDLE, else the one at the default path in images; None if there is none, or if
    the variable is `none` (the native stack of the same image).

    Raises UsageError if the variable does not name a directory."""
    if named := os.environ.get(BUNDLE):
        if named == NONE:
            return None
        if not Path(named).is_dir():
            raise UsageError(f"{BUNDLE}={named} is not a directory", hint="name a bundle, or unset the variable")
        return Path(named)
    return DEFAULT_BUNDLE if (DEFAULT_BUNDLE / "compat.json").is_file() else None


def effective_folder() -> Path:
    named = os.environ.get(EFFECTIVE)
    return Path(named) if named else Path(tempfile.gettempdir()) / f"flagkernels-{os.getuid()}/effective"


@dataclass
class Status:
    """The operators in effect in this process, and the events since its start."""

    bundle: str
    """Content digest of the bundle."""
    operators: tuple[str, ...]
    native: Mapping[str, tuple[str, ...]]
    """Operator → shape classes that stay with the vendor's kernel."""
    accepted: tuple[str, ...] = ()
    """Compatibility fields that differ and were accepted."""
    keys: tuple[str, ...] = ()
    """aten registration keys that were overridden."""
    called: Counter[str] = field(default_factory=Counter)
    """Calls by operator."""
    captured: set[str] = field(default_factory=set)
    """Operators captured in a CUDA graph, which replays them without a call."""
    capturing: Callable[[], bool] = lambda: False
    """Reports whether a graph is being captured."""
    current_device: Callable[[], int | None] = lambda: None
    """Returns the number of the device that the calling thread uses; None before it uses one."""
    device: int | None = None
    """The number of the device on which operators were called."""
    tuned: Counter[str] = field(default_factory=Counter)
    """Candidates timed, by kernel."""
    filled: int = 0
    """Keys that took the nearest tuned key's choice (nearest.py)."""
    choices: dict[str, str] = field(default_factory=dict)
    """The configuration in use, by kernel and key."""
    compiled: Counter[str] = field(default_factory=Counter)
    """Compilations by kernel."""
    library: Any = None
    """torch's Library; its kernels are unregistered when it is freed."""

    def call(self, operator: str) -> None:
        self.called[operator] += 1
        if self.device is None:  # asked here: the thread that writes the file has a current device of its own
            self.device = self.current_device()
        if operator not in self.captured and self.capturing():
            self.captured.add(operator)

    def tuning(self, kernel: str) -> None:
        self.tuned[kernel] += 1

    def fill(self, kernel: str) -> None:  # noqa: ARG002 -- same signature as the other events
        self.filled += 1

    def choose(self, kernel: str, key: tuple[Any, ...], config: str) -> None:
        self.choices[f"{kernel} {key}"] = config

    def compilation(self, kernel: str) -> None:
        self.compiled[kernel] += 1

    def events(self) -> int:
        counted = sum(counter.total() for counter in (self.called, self.tuned, self.compiled))
        return counted + len(self.captured) + self.filled + len(self.choices)

    def snapshot(self) -> dict[str, Any]:
        # Copied first: the engine's threads continue counting.
        called, tuned, compiled = dict(self.called), dict(self.tuned), dict(self.compiled)
        return {
            **{name: getattr(self, name) for name in ("bundle", "operators", "keys", "native", "accepted", "filled")},
            "tuning_events": sum(tuned.values()),
            "compilations": sum(compiled.values()),
            "called": dict(sorted(called.items())),
            "captured": sorted(set(self.captured)),
            "tuned": sorted(tuned),
            "compiled": sorted(compiled)[:100],
            "device": self.device,
            "choices": dict(self.choices),
            "program": " ".join(sys.argv)[:200],
        }

    def reset(self) -> None:
        self.called, self.captured, self.device = Counter(), set(), None
        self.tuned, self.compiled, self.filled = Counter(), Counter(), 0


def activate(path: Path | None = None, *, probe: compat.Probe | None = None) -> Status | None:
    """Put the bundle into effect, once per process; None if there is no bundle.

    Must run before anything else imports flag_gems or triton. Raises BundleMismatch if the bundle does not fit,
    BundleCorrupt or DatabaseCorrupt if it is damaged, UsageError for an unknown operator, ChipFault if FlagGems
    cannot be imported or was imported before."""
    global _state
    if _state is not None:
        return _state
    path = path or find_bundle()
    if path is None:
        return None
    bundle = bundles.load(path)
    accepted = compat.check(bundle.compat, (probe or compat.SystemProbe()).compat(bundle.compat.vendor))
    overlay = prepare(bundle)
    if (opened := _opened_database()) not in (None, overlay.environment["FLAGGEMS_DB_URL"]):
        raise ChipFault(
            "flag_gems was imported before the bundle was activated",
            why=f"it opens its database on import, and opened {opened}",
            hint="start the engine with `python -m flagkernels run -- ENGINE`, which activates the bundle early enough",
        )
    os.environ.update(overlay.environment)
    from flagkernels.operators.registry import open_source

    source = open_source(os.environ.get(SOURCE, "flag_gems"))
    libentry = sys.modules.get("flag_gems.utils.libentry")
    if libentry is not None:
        database.harden(libentry.libcache.model)
    status = Status(
        bundle=bundle.content,
        operators=bundle.operators.include,
        native=bundle.operators.native,
        accepted=tuple(accepted),
    )
    _count_events(status, () if libentry is None else libentry.LibTuner)
    if libentry is not None:
        use_nearest(libentry.LibTuner, status.fill, status.choose)
    status.keys = _register(source, bundle.operators, status)
    ProcessFile(effective_folder(), status)
    _state = status
    return status


def _opened_database() -> str | None:
    """The URL of the database that FlagGems has open; None if it is not imported."""
    libentry = sys.modules.get("flag_gems.utils.libentry")
    return None if libentry is None else str(libentry.libcache.db_url)


def _register(source: Source, chosen: Operators, status: Status) -> tuple[str, ...]:
    """Override aten's kernels for the rest of the process. Returns the aten keys."""
    import torch

    from flagkernels.operators.override import kernels
    from flagkernels.operators.registry import capturing, device_index, dispatch_key, quiet_override

    device = torch.device(_device_of(source))
    dispatch = dispatch_key(device)
    status.capturing, status.current_device = capturing(device), device_index(device)
    replaced = kernels(source, chosen, dispatch, status.call)
    status.library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    for key, kernel in replaced.items():
        quiet_override(status.library, key, kernel, dispatch, with_keyset=True)
    return tuple(sorted(replaced))


def _device_of(source: Source) -> str:
    gems = getattr(source, "gems", None)
    return str(gems.device) if gems is not None else "cpu"


def _count_events(status: Status, own: type | tuple[type, ...]) -> None:
    """Count candidates of FlagGems' kernels timed by its tuner (`own`) or by Triton's, and kernels compiled. Does
    nothing without Triton."""
    try:
        from triton import knobs
        from triton.runtime.autotuner import Autotuner
    except ImportError:
        return
    original = Autotuner._bench

    def bench(tuner: Any, *args: Any, **kwargs: Any) -> Any:
        # Engines also autotune their own Triton kernels, in the native stack too; those are not counted.
        if isinstance(tuner, own) or str(tuner.base_fn.__module__).startswith("flag_gems"):
            status.tuning(str(tuner.base_fn.__name__))
        return original(tuner, *args, **kwargs)

    Autotuner._bench = bench
    before = knobs.compilation.listener

    def listener(**event: Any) -> None:
        if not event.get("cache_hit"):
            status.compilation(str(event["metadata"].get("name", "?")))
        if before is not None:
            before(**event)

    knobs.compilation.listener = listener


@dataclass(frozen=True, kw_only=True)
class Effective:
    """The merged status of all processes."""

    processes: tuple[int, ...]
    """Process IDs."""
    bundles: tuple[str, ...]
    """Content digests of the bundles in use."""
    operators: tuple[str, ...]
    """Operators in effect in every process."""
    partial: tuple[str, ...]
    """Operators in effect in some processes only."""
    called: Mapping[str, int]
    """Calls by operator. Those of the last half second may be missing."""
    captured: tuple[str, ...]
    """Operators captured in a CUDA graph in some process."""
    tuning_events: int
    """Candidates timed."""
    tuned: tuple[str, ...]
    """Kernels whose candidates were timed."""
    filled: int
    """Keys that took the nearest tuned key's choice."""
    compilations: int
    devices: tuple[int, ...]
    """Numbers of the devices on which operators were called or captured, as the engine counts them."""
    differing: tuple[str, ...]
    """Kernels that have different configurations for the same key in two processes, such as the ranks of a model."""


_MERGED = ("pid", "bundle", "operators", "called", "captured", "tuning_events", "tuned", "filled", "compilations")


def effective(folder: Path) -> Effective:
    """Merge the status files in the folder.

    Raises UsageError if there are none (then nothing is in effect) or if one cannot be read."""
    rows: list[dict[str, Any]] = []
    for file in files_of(folder):
        try:
            row = json.loads(file.read_text())
            rows.append(
                {name: row[name] for name in _MERGED} | {"device": row.get("device"), "choices": row.get("choices", {})}
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            hint = "restart the engine; each process then rewrites its status file"
            raise UsageError(f"{file} cannot be read", why=repr(error), hint=hint) from error
    if not rows:
        raise UsageError(
            f"no process reported operators in {folder}",
            why="no process activated the bundle",
            hint="start the engine with `python -m flagkernels run -- …`, or install flagkernels alongside vLLM",
        )
    sets = [set(row["operators"]) for row in rows]
    everywhere, anywhere = set.intersection(*sets), set.union(*sets)
    return Effective(
        processes=tuple(row["pid"] for row in rows),
        bundles=tuple(sorted({row["bundle"] for row in rows})),
        operators=tuple(sorted(everywhere)),
        partial=tuple(sorted(anywhere - everywhere)),
        called=dict(sorted(sum((Counter(row["called"]) for row in rows), Counter[str]()).items())),
        captured=tuple(sorted({name for row in rows for name in row["captured"]})),
        tuning_events=sum(row["tuning_events"] for row in rows),
        tuned=tuple(sorted({name for row in rows for name in row["tuned"]})),
        filled=sum(row["filled"] for row in rows),
        compilations=sum(row["compilations"] for row in rows),
        devices=tuple(sorted(_devices(rows))),
        differing=_differing(rows),
    )


def _devices(rows: Iterable[Mapping[str, Any]]) -> set[int]:
    """The devices of the processes that compute."""
    return {row["device"] for row in rows if row.get("device") is not None and (row["called"] or row["captured"])}


def _differing(rows: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    found: dict[str, set[str]] = {}
    for row in rows:
        for key, config in row["choices"].items():
            found.setdefault(key, set()).add(config)
    return tuple(sorted({key.split(" ")[0] for key, configs in found.items() if len(configs) > 1}))


def check(path: Path, probe: compat.Probe | None = None) -> Bundle:
    """Return the bundle if it is intact and fits this machine; opens no device context.

    Raises BundleCorrupt, BundleMismatch, UsageError or ChipFault as `activate` does."""
    bundle = bundles.load(path)
    compat.check(bundle.compat, (probe or compat.SystemProbe()).compat(bundle.compat.vendor))
    catalogue.require_here(bundle.operators.include)
    return bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_option(parser, "--bundle", help=f"default: ${BUNDLE}, else {DEFAULT_BUNDLE}")
    parser.add_argument("--effective", type=Path, help="print what is in effect, from the status files in this folder")


def main(args: argparse.Namespace) -> int:
    """Check that the bundle fits this machine, or print what is in effect."""
    if args.effective:
        print(json.dumps(asdict(effective(args.effective)), indent=1))  # noqa: T201 -- the result
        return 0
    path = args.bundle or find_bundle()
    if path is None:
        why = f"neither ${BUNDLE} nor {DEFAULT_BUNDLE} names one"
        raise UsageError("no bundle found", why=why, hint="name it with --bundle")
    bundle = check(path)
    result = {"bundle": str(path), "content": bundle.content, "operators": bundle.operators.include}
    print(json.dumps(result))  # noqa: T201 -- the result
    return 0
