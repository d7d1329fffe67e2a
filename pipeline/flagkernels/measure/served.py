"""Simulate serving a model on one chip, step by step as an engine does.

The model has random weights in the real shapes, and fused projections. The layers run compiled and under a CUDA graph;
logits and sampling run eagerly, launched by the host while the graph runs. Speed does not depend on the weights'
values, so neither a download nor an engine is needed to find the operators that serve fastest. Loads are decode batches
(the effect of concurrency in an engine) and one prefill. Steps overlap as in an engine that schedules ahead: while the
chip executes one, the host prepares the next, and the longer of the two determines the time. The engine's own host work
in a step (scheduling, inputs, outputs) is modelled by a wait."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from flagkernels.errors import ChipFault
from flagkernels.measure.timing import Clock, Ratio, ratio
from flagkernels.model import architecture
from flagkernels.model.architecture import Architecture, text_of
from flagkernels.model.sampling import LastPositions, sample, temperatures
from flagkernels.model.shard import ALL, Share, gathered, sharded, split_embedding
from flagkernels.model.trace import Point
from flagkernels.operators.listing import Operators
from flagkernels.operators.override import installed
from flagkernels.operators.registry import Source

__all__ = ["Measured", "Served", "ServedModel"]

WARM = 3
"""Steps before a graph is captured: the first ones compile, tune and allocate."""
STEPS = 4
"""Consecutive steps per measurement, so that the host can run ahead of the chip or fall behind."""
MOST, SECONDS = 5, 2.0
"""Short steps vary more: up to five times as many pairs are taken until a load has used two seconds."""
ENGINE_S = 1.5e-3
"""Seconds of an engine's host work in each step. vLLM 0.22.1 on an H100 host takes at least 1.7 ms for a step of
SmolLM2-135M, whose weights the chip reads in 0.1 ms (docs/proofs/h100/engine.md)."""


@dataclass(frozen=True)
class Measured:
    """The speed of a choice of operators against native."""

    ratios: Mapping[str, Ratio]
    """Load → native time over time with the operators; above one, the operators are faster."""
    ran: frozenset[str]
    """Operators that ran at some load, rather than leaving all calls to the vendor's kernels."""


class Served(Protocol):
    """Measures a choice of operators against none, at every load."""

    def compare(self, chosen: Operators) -> Measured: ...


class ServedModel:
    """A model on one device, with its native steps prepared for every load.

    `execution`: one of inductor.EXECUTIONS; `requests`: one of sampling.REQUESTS; `pairs`: measurements per load;
    `share`: of one of several devices, without the time of their communication; `engine_s`: seconds of the engine's
    host work per step. Raises torch.OutOfMemoryError if the model does not fit (cut it with `layers`), ChipFault if
    torch cannot compile it."""

    def __init__(
        self,
        arch: Architecture,
        source: Source,
        device: torch.device,
        loads: Sequence[Point],
        *,
        execution: str = "compiled",
        requests: str = "mixed",
        layers: int | None = None,
        share: Share = ALL,
        pairs: int = 21,
        engine_s: float = ENGINE_S,
    ) -> None:
        self.source, self.device, self.pairs, self.execution = source, device, pairs, execution
        self.requests = requests
        self.engine_s = engine_s
        self.loads = tuple(loads)
        self.clock = Clock(device)
        self.parts, self.vocabulary = share.tensor, int(text_of(arch.config).vocab_size)
        self.model: Any = architecture.build(sharded(arch, share), str(device), layers=layers)
        architecture.fuse_projections(self.model)
        if self.parts > 1:
            split_embedding(self.model)
        self.layers = _Layers(architecture.decoder(self.model))
        self.last = LastPositions(self.model)
        with torch.inference_mode():
            self.steps = {str(load): self._step(load) for load in self.loads}
            if execution == "compiled":
                self._compile()
            self.native = {name: self._ready(step) for name, step in self.steps.items()}

    def _compile(self) -> None:
        """Compile the layers, with one compilation for several batch sizes where possible, as in engines."""
        import torch._dynamo

        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 2 * len(self.loads))
        self.layers.run = torch.compile(self.layers.run)
        try:
            for step in self.steps.values():
                step()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # Inductor, or the compiler of its host code, fails in many ways
            raise ChipFault(
                f"torch.compile cannot compile the layers of this {self.model.config.model_type}",
                why=f"{type(error).__name__}: {error}".splitlines()[0][:300],
                hint="use --execution captured or eager, according to how the engine runs it",
            ) from error

    def _step(self, load: Point) -> Callable[[], Any]:
        """One step of a load, from tokens to the next tokens; every call repeats the same step."""
        from transformers import StaticCache

        model, config = self.model, self.model.config
        ids = torch.randint(0, text_of(config).vocab_size, (load.batch, load.length), device=self.device)
        temperature = temperatures(load.batch, self.device, self.requests)
        rows = self.last.take(load.batch, load.length if load.phase == "prefill" else 1, self.device)

        def run(**inputs: Any) -> Any:
            self.last.rows = rows
            logits = gathered(model(**inputs).logits.flatten(0, -2), self.parts, self.vocabulary)
            return sample(logits, temperature)

        if load.phase == "prefill":
            return lambda: run(input_ids=ids, use_cache=False)
        cache = StaticCache(config=config, max_cache_len=load.length + 16)
        given = {architecture.cache_name(model): cache}
        model(input_ids=ids, **given)
        position = torch.full((load.batch, 1), load.length, device=self.device)
        lengths = _lengths(cache)
        token = ids[:, :1].contiguous()

        def rewind() -> None:
            for holder, length in lengths:
                if isinstance(length, torch.Tensor):
                    holder.cumulative_length.copy_(length)
                else:
                    holder.cumulative_length = length

        def step() -> Any:
            with self.layers.after(rewind):
                return run(input_ids=token, position_ids=position, **given)

        return step

    def _ready(self, step: Callable[[], Any]) -> Callable[[], Any]:
        """The step with its layers captured in a graph, with the operators currently installed; the unchanged step if
        the device or the engine does not use graphs."""
        if self.device.type == "cpu" or self.execution == "eager":
            return step
        for _ in range(WARM):
            step()
        replay, result = self.layers.captured(self.clock)

        def replayed() -> Any:
            with self.layers.replaced(replay, result):
                return step()

        return replayed

    def compare(self, chosen: Operators) -> Measured:
        """Measure each load with the operators against the same load without them, in pairs."""
        ratios: dict[str, Ratio] = {}
        ran: set[str] = set()
        with torch.inference_mode():
            for name, step in self.steps.items():
                with installed(self.source, chosen, self.device) as calls:
                    candidate = self._ready(step)
                    candidate()
                ratios[name] = self._paired(self.native[name], candidate, chosen)
                ran |= {operator for operator, count in calls.items() if count}
                del candidate
        return Measured(ratios, frozenset(ran))

    def _paired(self, native: Callable[[], Any], candidate: Callable[[], Any], chosen: Operators) -> Ratio:
        """Time native and candidate steps in turns. The operators are installed for each candidate run, since logits
        and sampling call them outside the graph. Neither the installation nor the first step after it, in which shape
        classes are looked up, is timed."""
        times: tuple[list[float], list[float]] = ([], [])
        began = time.monotonic()
        for index in range(MOST * self.pairs):
            if index >= self.pairs and time.monotonic() - began > SECONDS:
                break
            for side in (0, 1) if index % 2 == 0 else (1, 0):
                run, on = (candidate, chosen) if side else (native, None)
                with contextlib.nullcontext() if on is None else installed(self.source, on, self.device):
                    run()
                    times[side].append(self.clock.in_a_row(run, STEPS, host_s=self.engine_s))
        return ratio(*times)


class _Layers:
    """The part of the model that engines compile and capture, with a replaceable forward."""

    def __init__(self, module: nn.Module) -> None:
        self.run: Callable[..., Any] = module.forward
        self.before: Callable[[], None] = _nothing
        self.last: Callable[[], Any] = _nothing
        self.instead: Callable[[], Any] | None = None
        module.forward = self._forward  # type: ignore[method-assign,unused-ignore]

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.instead is not None:
            return self.instead()
        before, run = self.before, self.run

        def once() -> Any:
            before()
            return run(*args, **kwargs)

        self.last = once
        return once()

    @contextlib.contextmanager
    def after(self, before: Callable[[], None]) -> Iterator[None]:
        """Within the block, call `before` ahead of the layers; it is captured with them."""
        self.before = before
        try:
            yield
        finally:
            self.before = _nothing

    def captured(self, clock: Clock) -> tuple[Callable[[], Any], Any]:
        """The replay of a graph of the layers' last run, and the result that each replay overwrites."""
        results: list[Any] = []
        replay = clock.graph(lambda: results.append(self.last()), warm=WARM)
        return replay, results[-1]

    @contextlib.contextmanager
    def replaced(self, replay: Callable[[], Any], result: Any) -> Iterator[None]:
        """Within the block, replay the graph instead of running the layers."""

        def instead() -> Any:
            replay()
            return result

        self.instead = instead
        try:
            yield
        finally:
            self.instead = None


def _nothing() -> None:
    pass


def _lengths(cache: Any) -> list[tuple[Any, Any]]:
    """The filled length of each layer of a static cache: a tensor or a number, depending on transformers' version."""
    layers = [layer for layer in cache.layers if hasattr(layer, "cumulative_length")]
    return [(layer, _copy(layer.cumulative_length)) for layer in layers]


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value
