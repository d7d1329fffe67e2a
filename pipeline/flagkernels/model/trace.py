"""List the aten calls of a model (shapes, strides, dtypes, counts) from its config.json alone.

The model runs on the meta device under a dispatch mode. Composite operators (`linear`, `matmul`, `rms_norm`) reach the
mode undecomposed, since `inference_mode` excludes the autograd keys: those that FlagGems registers are recorded
undecomposed, as the dispatcher would stop there; the others are decomposed into `mm`, `bmm` and so on. Attention is
recorded as one operator: it is a single kernel on a chip, and no engine makes the calls of its decomposition. Of
compiled layers few calls remain (operators/inductor.py); logits and sampling run eagerly.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flagkernels.arguments import add_option
from flagkernels.errors import NothingToDo, UsageError
from flagkernels.files import read_json, write_json
from flagkernels.model import architecture, shard
from flagkernels.model.architecture import Architecture
from flagkernels.model.recorder import Recorder, recording, unrecorded
from flagkernels.model.sampling import REQUESTS, LastPositions, sample, temperatures
from flagkernels.model.shard import ALL, Share, gathered, sharded, share_of, split_embedding
from flagkernels.operators import catalogue
from flagkernels.operators.calls import Call, shape_class
from flagkernels.operators.catalogue import Catalogue
from flagkernels.operators.inductor import EXECUTIONS
from flagkernels.progress import Progress

__all__ = ["Point", "Trace", "TracedCall", "add_arguments", "grid", "main", "parse_points", "read", "trace"]

FORMAT = 2
CACHE_LAYERS = 2  # layers of the random-weight fallback for models that the meta device cannot run


@dataclass(frozen=True, kw_only=True)
class Point:
    """A forward pass to trace."""

    phase: str
    """`prefill`: batch × length new tokens. `decode`: one new token per request after `length` tokens."""
    batch: int
    """Number of requests."""
    length: int
    """Tokens of each request."""

    def __str__(self) -> str:
        return f"{self.phase}:{self.batch}x{self.length}"


@dataclass(frozen=True)
class TracedCall:
    """A distinct call of an operator."""

    operator: str
    """FlagGems' operator for the call."""
    call: Call
    counts: tuple[int, ...]
    """Number of such calls at each point."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The calls of one model at a set of points."""

    model: str
    """transformers' `model_type`."""
    config_sha256: str
    view: str
    """`engine`: fused projections, as in serving engines; `module`: as in transformers."""
    execution: str
    """One of inductor.EXECUTIONS."""
    dtype: str
    """Of the weights, as torch names it."""
    versions: dict[str, str]
    """Of torch, transformers and flag_gems."""
    points: tuple[Point, ...]
    static: frozenset[int]
    """Sizes that do not depend on the request."""
    calls: tuple[TracedCall, ...]
    native_only: dict[str, int]
    """Overload → calls over all points, for overloads that FlagGems has no operator for."""
    layers: int
    """Number of layers that were run."""
    device: str
    """`meta`, or `cpu` if the meta device could not run the model."""
    requests: str = "mixed"
    """One of sampling.REQUESTS."""
    share: Share = ALL
    """What one device has of the model; these are its calls."""

    @property
    def operators(self) -> tuple[str, ...]:
        """Sorted names of the operators called."""
        return tuple(sorted({traced.operator for traced in self.calls}))

    def classes(self, operator: str) -> dict[str, list[TracedCall]]:
        """The calls of one operator by shape class."""
        classes: dict[str, list[TracedCall]] = defaultdict(list)
        for traced in self.calls:
            if traced.operator == operator:
                classes[shape_class(traced.call, self.static)].append(traced)
        return dict(classes)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "model": self.model,
            "config_sha256": self.config_sha256,
            "view": self.view,
            "execution": self.execution,
            "requests": self.requests,
            "share": asdict(self.share),
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
    """Read trace.json. Raises UsageError if it was not written by this version of `trace`."""
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
            requests=data.get("requests", "mixed"),  # older traces lack the field and are mixed
            share=Share(**data.get("share", {})),
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
    """The points within the limits of a serve config, a factor of two apart like shape classes, including both ends.

    Prefill: one request of each length, and as many short ones as fit into `max_tokens`. Decode: each batch size at
    the end of `max_len`. Raises UsageError if a limit is below one.
    """
    if min(max_len, max_batch, max_tokens) < 1:
        raise UsageError("a serve limit is below one", hint="--max-len, --max-batch and --max-tokens must be >= 1")
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
    """Parse `prefill:1x512,decode:32x2048`. Raises UsageError if the text is malformed."""
    points = []
    for word in text.split(","):
        phase, _, sizes = word.strip().partition(":")
        batch, _, length = sizes.partition("x")
        if phase not in {"prefill", "decode"} or not (batch.isdecimal() and length.isdecimal()):
            raise UsageError(f"{word!r} is not a point", hint="write PHASE:BATCHxLENGTH, e.g. decode:32x2048")
        if min(int(batch), int(length)) < 1:
            raise UsageError(f"{word!r} has a size of zero", hint="batch and length must be >= 1")
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
    share: Share = ALL,
    progress: Progress | None = None,
) -> Trace:
    """Trace every point on the meta device, or on the CPU with random weights and two layers if meta cannot run it.

    `view`: `module` is the unmodified transformers model; `engine` fuses the projections that serving engines fuse,
    computes logits of the last position only, and samples from them. `execution`: one of EXECUTIONS; `requests`: one of
    REQUESTS; `share`: of one of several devices. Raises NothingToDo if FlagGems has an operator for none of the calls,
    UsageError if transformers cannot run the model or devices cannot share it.
    """
    vocabulary = int(architecture.text_of(arch.config).vocab_size)
    how = _How(known, view, execution, requests, layers, share, vocabulary)
    model, recorders, device = _recorded(sharded(arch, share), points, how, progress)
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
        static=architecture.static_sizes(model) | _whole(share, vocabulary),
        calls=calls,
        native_only=native_only,
        share=share,
    )


def _recorded(
    arch: Architecture, points: Sequence[Point], how: _How, progress: Progress | None
) -> tuple[nn.Module, list[Recorder], str]:
    """The model, the calls of each point, and the device used: `meta`, or `cpu` if meta cannot run the model."""
    try:
        return *_run(arch, points, how, "meta", progress), "meta"
    except (NotImplementedError, RuntimeError) as error:
        if not architecture.meta_cannot(error):
            raise UsageError(
                f"transformers cannot run this {arch.name}",
                why=f"{type(error).__name__}: {error}".splitlines()[0],
                hint="compare config.json with the one published with the model",
            ) from error
    few = replace(how, layers=min(how.layers or CACHE_LAYERS, CACHE_LAYERS))
    return *_run(arch, points, few, "cpu", progress), "cpu"


def _counted(recorders: Sequence[Recorder], known: Catalogue) -> tuple[tuple[TracedCall, ...], dict[str, int]]:
    """The calls for which FlagGems has an operator, and the number of calls of each other overload."""
    counts_of: dict[Call, list[int]] = defaultdict(lambda: [0] * len(recorders))
    native_only: Counter[str] = Counter()
    for index, recorder in enumerate(recorders):
        native_only += recorder.native_only
        for call, count in recorder.calls.items():
            counts_of[call][index] = count
    calls = [TracedCall(known.overloads[call.overload], call, tuple(counts)) for call, counts in counts_of.items()]
    calls.sort(key=lambda t: (t.operator, t.call.overload, t.call.nbytes))
    return tuple(calls), dict(sorted(native_only.items()))


def _whole(share: Share, vocabulary: int) -> frozenset[int]:
    """The sizes of gathered logits, which no weight of one device has."""
    return frozenset() if share.tensor == 1 else frozenset({vocabulary, shard.padded(vocabulary)})


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
    share: Share
    vocabulary: int
    """Of the complete model."""


def _run(
    arch: Architecture, points: Sequence[Point], how: _How, device: str, progress: Progress | None
) -> tuple[nn.Module, list[Recorder]]:
    model = architecture.build(arch, device, layers=how.layers)
    last = None
    if how.view == "engine":
        architecture.fuse_projections(model)
        last = LastPositions(model)
        if how.share.tensor > 1:
            split_embedding(model)
    recorders = []
    for point in points:
        if progress:
            progress.doing(str(point))
        recorders.append(_forward(model, point, how, device, last))
        if progress:
            progress.step(f"{point}: {sum(recorders[-1].calls.values())} calls")
    return model, recorders


def _forward(model: nn.Module, point: Point, how: _How, device: str, last: LastPositions | None) -> Recorder:
    """Record one point; for a decode step the prefill of its cache is not recorded. `last`: None in the module view."""
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
                sample(gathered(logits.flatten(0, -2), how.share.tensor, how.vocabulary), temperature)
    return recorder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_option(parser, "--config", required=True)
    add_option(parser, "--out", help="trace.json")
    add_option(parser, "--catalogue")
    parser.add_argument(
        "--view", choices=("engine", "module"), default="engine", help="fused projections, or as in transformers"
    )
    add_option(parser, "--execution", choices=EXECUTIONS)
    add_option(parser, "--requests", choices=REQUESTS)
    add_option(parser, "--layers", help="cut the model to its first layers (call counts shrink too)")
    shard.add_arguments(parser)
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
        traced = trace(arch, tuple(points), known, **how, share=share_of(args), progress=progress)
    write_json(args.out, traced.to_json())
    return 0
