"""trace: list the aten calls of a model (shapes, strides, dtypes, counts) from its config.json alone.

The model runs on the meta device under a dispatch mode. Composite operators (`linear`, `matmul`, `rms_norm`) reach the
mode undecomposed, since `inference_mode` keeps the autograd keys out: one that FlagGems registers is recorded as it is,
as the dispatcher would stop there; any other one is decomposed, so that `mm` and `bmm` are seen. Attention is recorded
as one operator: on a chip it is one kernel, and its decomposition on `meta` would be calls that no engine makes. The
layers of a compiled model leave few calls (operators/inductor.py); logits and sampling are called as they are written.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flagkernels.arguments import add_option
from flagkernels.errors import NothingToDo, UsageError
from flagkernels.files import read_json, write_json
from flagkernels.model import architecture
from flagkernels.model.architecture import Architecture
from flagkernels.model.recorder import Recorder, recording, unrecorded
from flagkernels.model.sampling import REQUESTS, LastPositions, sample, temperatures
from flagkernels.operators import catalogue
from flagkernels.operators.calls import Call, shape_class
from flagkernels.operators.catalogue import Catalogue
from flagkernels.operators.inductor import EXECUTIONS
from flagkernels.progress import Progress

__all__ = ["Point", "Trace", "TracedCall", "add_arguments", "grid", "main", "parse_points", "read", "trace"]

FORMAT = 2
CACHE_LAYERS = 2  # layers of the random-weight fallback, where the meta device cannot follow the model


@dataclass(frozen=True, kw_only=True)
class Point:
    """One forward pass: `prefill` of batch × length new tokens, or `decode` of one token each after `length` tokens."""

    phase: str
    batch: int
    length: int

    def __str__(self) -> str:
        return f"{self.phase}:{self.batch}x{self.length}"


@dataclass(frozen=True)
class TracedCall:
    """A call, the operator that FlagGems would run it with, and how often each point makes it."""

    operator: str
    call: Call
    counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Trace:
    """`native_only` counts, over all points, the calls that FlagGems has no operator for; `requests` is one of
    REQUESTS."""

    model: str
    config_sha256: str
    view: str
    execution: str
    dtype: str
    versions: dict[str, str]
    points: tuple[Point, ...]
    static: frozenset[int]
    calls: tuple[TracedCall, ...]
    native_only: dict[str, int]
    layers: int
    device: str
    requests: str = "mixed"

    @property
    def operators(self) -> tuple[str, ...]:
        return tuple(sorted({traced.operator for traced in self.calls}))

    def classes(self, operator: str) -> dict[str, list[TracedCall]]:
        """The calls of one operator by shape class."""
        found: dict[str, list[TracedCall]] = defaultdict(list)
        for traced in self.calls:
            if traced.operator == operator:
                found[shape_class(traced.call, self.static)].append(traced)
        return dict(found)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "model": self.model,
            "config_sha256": self.config_sha256,
            "view": self.view,
            "execution": self.execution,
            "requests": self.requests,
            "dtype": self.dtype,
            "layers": self.layers,
            "device": self.device,
            "versions": self.versions,
            "points": [{"phase": p.phase, "batch": p.batch, "length": p.length} for p in self.points],
            "static": sorted(self.static),
            "calls": [{"operator": t.operator, **t.call.to_json(), "counts": list(t.counts)} for t in self.calls],
            "native_only": self.native_only,
        }


def read(path: Path) -> Trace:
    """Raises UsageError for a file that `trace` did not write."""
    data = read_json(path)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        hint = "write it with `flagkernels trace`"
        raise UsageError(f"{path} is not a trace of this version of flagkernels", hint=hint)
    try:
        return Trace(
            model=data["model"],
            config_sha256=data["config_sha256"],
            view=data["view"],
            execution=data["execution"],
            requests=data.get("requests", "mixed"),  # older traces do not say, and are that
            dtype=data["dtype"],
            layers=data["layers"],
            device=data["device"],
            versions=data["versions"],
            points=tuple(Point(**point) for point in data["points"]),
            static=frozenset(data["static"]),
            calls=tuple(TracedCall(c["operator"], Call.from_json(c), tuple(c["counts"])) for c in data["calls"]),
            native_only=data["native_only"],
        )
    except (KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is damaged", why=repr(error), hint="write it again with `flagkernels trace`"
        ) from error


def grid(*, max_len: int, max_batch: int, max_tokens: int) -> tuple[Point, ...]:
    """The points that a serve config allows, a factor of two apart, as shape classes are, with the ends.

    Prefill: one request of each length, and as many short ones as `max_tokens` holds. Decode: each batch at the end of
    `max_len`. Raises UsageError for limits below one.
    """
    if min(max_len, max_batch, max_tokens) < 1:
        raise UsageError("a serve limit is below one", hint="--max-len, --max-batch and --max-tokens are positive")
    lengths = _ladder(min(max_len, max_tokens), start=16)
    batches = _ladder(max_batch)
    points = [Point(phase="prefill", batch=1, length=length) for length in lengths]
    full = max(min(max_batch, max_tokens // lengths[0]), 1)
    points += [Point(phase="prefill", batch=full, length=min(max_len, max_tokens // full))]
    points += [Point(phase="decode", batch=batch, length=max(max_len - 1, 1)) for batch in batches]
    return tuple(dict.fromkeys(points))


def _ladder(top: int, start: int = 1) -> list[int]:
    steps = []
    while start < top:
        steps.append(start)
        start *= 2
    return [*steps, top]


def parse_points(text: str) -> tuple[Point, ...]:
    """`prefill:1x512,decode:32x2048`. Raises UsageError."""
    points = []
    for word in text.split(","):
        phase, _, sizes = word.strip().partition(":")
        batch, _, length = sizes.partition("x")
        if phase not in {"prefill", "decode"} or not (batch.isdecimal() and length.isdecimal()):
            raise UsageError(f"{word!r} is not a point", hint="write PHASE:BATCHxLENGTH, e.g. decode:32x2048")
        if min(int(batch), int(length)) < 1:
            raise UsageError(f"{word!r} has a size of zero", hint="batch and length start at one")
        points.append(Point(phase=phase, batch=int(batch), length=int(length)))
    return tuple(points)


def trace(
    arch: Architecture,
    points: Sequence[Point],
    known: Catalogue,
    *,
    view: str = "engine",
    execution: str = "compiled",
    requests: str = "mixed",
    layers: int | None = None,
    progress: Progress | None = None,
) -> Trace:
    """Runs every point on the meta device; on the CPU with random weights and two layers where meta cannot.

    `view`: `module` is the transformers model as it stands; `engine` fuses the projections that serving engines fuse,
    computes logits of the last position only, and samples from them. `execution`: one of EXECUTIONS; `requests`: one of
    REQUESTS. Raises NothingToDo where no call has an operator.
    """
    how = _How(known, view, execution, requests, layers)
    model, recorders, device = _recorded(arch, points, how, progress)
    calls, native_only = _counted(recorders, known)
    if not calls:
        raise NothingToDo(f"{arch.name} calls no operator of FlagGems {known.version}", hint="serve it natively")
    config: Any = model.config
    return Trace(
        model=arch.name,
        config_sha256=arch.sha256,
        view=view,
        execution=execution,
        requests=requests,
        dtype=str(architecture.dtype_of(config)).removeprefix("torch."),
        layers=architecture.text_of(config).num_hidden_layers,
        device=device,
        versions=_versions(known),
        points=tuple(points),
        static=architecture.static_sizes(model),
        calls=calls,
        native_only=native_only,
    )


def _recorded(
    arch: Architecture, points: Sequence[Point], how: _How, progress: Progress | None
) -> tuple[nn.Module, list[Recorder], str]:
    """The model, what each point calls, and the device that it ran on: `meta`, or `cpu` where meta cannot follow."""
    try:
        return *_run(arch, points, how, "meta", progress), "meta"
    except (NotImplementedError, RuntimeError) as error:
        if not architecture.meta_cannot(error):
            raise UsageError(
                f"transformers cannot run this {arch.name}",
                why=f"{type(error).__name__}: {error}".splitlines()[0],
                hint="compare its config.json with the model's own",
            ) from error
    few = replace(how, layers=min(how.layers or CACHE_LAYERS, CACHE_LAYERS))
    return *_run(arch, points, few, "cpu", progress), "cpu"


def _counted(recorders: Sequence[Recorder], known: Catalogue) -> tuple[tuple[TracedCall, ...], dict[str, int]]:
    """The calls that FlagGems has an operator for, and how many calls of each other overload there are."""
    found: dict[Call, list[int]] = defaultdict(lambda: [0] * len(recorders))
    native_only: Counter[str] = Counter()
    for index, recorder in enumerate(recorders):
        native_only += recorder.native_only
        for call, count in recorder.calls.items():
            found[call][index] = count
    calls = [TracedCall(known.overloads[call.overload], call, tuple(counts)) for call, counts in found.items()]
    calls.sort(key=lambda t: (t.operator, t.call.overload, t.call.nbytes))
    return tuple(calls), dict(sorted(native_only.items()))


def _versions(known: Catalogue) -> dict[str, str]:
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__, "flag_gems": known.version}


@dataclass(frozen=True)
class _How:
    known: Catalogue
    view: str
    execution: str
    requests: str
    layers: int | None


def _run(
    arch: Architecture, points: Sequence[Point], how: _How, device: str, progress: Progress | None
) -> tuple[nn.Module, list[Recorder]]:
    model = architecture.build(arch, device, layers=how.layers)
    last = None
    if how.view == "engine":
        architecture.fuse_projections(model)
        last = LastPositions(model)
    recorders = []
    for point in points:
        if progress:
            progress.doing(str(point))
        recorders.append(_forward(model, point, how, device, last))
        if progress:
            progress.step(f"{point}: {sum(recorders[-1].calls.values())} calls")
    return model, recorders


def _forward(model: nn.Module, point: Point, how: _How, device: str, last: LastPositions | None) -> Recorder:
    """One point; a decode step is recorded after an unrecorded prefill of its cache. `last` where an engine runs it."""
    compiled = architecture.decoder(model) if how.execution == "compiled" else None
    extra: dict[str, Any] = {"use_cache": True}
    ids = torch.zeros((point.batch, point.length), dtype=torch.long, device=device)
    with torch.inference_mode():
        temperature = temperatures(point.batch, device, how.requests)
        if last is not None:
            last.take(point.batch, point.length if point.phase == "prefill" else 1, device)
        if point.phase == "decode":
            with unrecorded():
                name = architecture.cache_name(model)
                extra[name] = getattr(model(input_ids=ids, **extra), name)
            ids = ids[:, :1]
        with recording(how.known, compiled) as recorder:
            logits = model(input_ids=ids, **extra).logits
            if last is not None:
                sample(logits.flatten(0, -2), temperature)
    return recorder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_option(parser, "--config", required=True)
    add_option(parser, "--out", help="trace.json")
    add_option(parser, "--catalogue")
    parser.add_argument(
        "--view", choices=("engine", "module"), default="engine", help="fused projections, or as written"
    )
    add_option(parser, "--execution", choices=EXECUTIONS)
    add_option(parser, "--requests", choices=REQUESTS)
    add_option(parser, "--layers", help="cut the model to its first layers (counts are cut as well)")
    add_option(parser, "--max-len")
    add_option(parser, "--max-batch")
    add_option(parser, "--max-tokens")
    add_option(parser, "--points")


def main(args: argparse.Namespace) -> int:
    points: Iterable[Point] = (
        parse_points(args.points)
        if args.points
        else grid(max_len=args.max_len, max_batch=args.max_batch, max_tokens=args.max_tokens)
    )
    arch = architecture.read_config(args.config)
    known = catalogue.load(args.catalogue)
    with Progress("trace", total=len(tuple(points))) as progress:
        how = {"view": args.view, "execution": args.execution, "requests": args.requests, "layers": args.layers}
        found = trace(arch, tuple(points), known, **how, progress=progress)
    write_json(args.out, found.to_json())
    return 0
