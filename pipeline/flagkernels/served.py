"""The served model on one chip: random weights in the real shapes, fused projections, decode steps under CUDA graphs.

Speed does not depend on the weights' values, so neither a download nor an engine is needed to decide which operators
serve fastest. Loads are decode batches (what concurrency becomes in an engine) and one prefill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from flagkernels import architecture
from flagkernels.architecture import Architecture, text_of
from flagkernels.bundle import Operators
from flagkernels.operators import Source
from flagkernels.override import installed
from flagkernels.timing import Clock, Ratio, paired, ratio
from flagkernels.trace import Point

__all__ = ["Served", "ServedModel"]


class Served(Protocol):
    """Measures a choice of operators against none, at every load."""

    def compare(self, chosen: Operators) -> dict[str, Ratio]:
        """native time over time with the operators, by load: above one, the operators serve faster."""


class ServedModel:
    """Raises torch.OutOfMemoryError where the model does not fit; cut it with `layers`."""

    def __init__(
        self,
        arch: Architecture,
        source: Source,
        device: torch.device,
        loads: Sequence[Point],
        *,
        layers: int | None = None,
        pairs: int = 21,
    ) -> None:
        self.source, self.device, self.pairs = source, device, pairs
        self.loads = tuple(loads)
        self.clock = Clock(device)
        self.model: Any = architecture.build(arch, str(device), layers=layers)
        architecture.fuse_projections(self.model)
        self.steps = {str(load): self._step(load) for load in self.loads}
        with torch.inference_mode():
            self.native = {name: self._captured(step) for name, step in self.steps.items()}

    def _step(self, load: Point) -> Callable[[], Any]:
        """One forward pass of a load, the same each time it is called."""
        from transformers import StaticCache

        model, config = self.model, self.model.config
        ids = torch.randint(0, text_of(config).vocab_size, (load.batch, load.length), device=self.device)
        if load.phase == "prefill":
            return lambda: model(input_ids=ids, use_cache=False, logits_to_keep=1)
        cache = StaticCache(config=config, max_cache_len=load.length + 16)
        with torch.inference_mode():
            model(input_ids=ids, past_key_values=cache, logits_to_keep=1)
        position = torch.full((load.batch, 1), load.length, device=self.device)
        lengths = _lengths(cache)

        def step() -> Any:
            for holder, length in lengths:
                if isinstance(length, torch.Tensor):
                    holder.cumulative_length.copy_(length)
                else:
                    holder.cumulative_length = length
            return model(input_ids=ids[:, :1], past_key_values=cache, position_ids=position, logits_to_keep=1)

        return step

    def _captured(self, step: Callable[[], Any]) -> Callable[[], Any]:
        return self.clock.graph(step, warm=3)

    def compare(self, chosen: Operators) -> dict[str, Ratio]:
        """Captures each load with the operators on, then replays both graphs in pairs.

        Without graphs (CPU) the operators come and go between the runs of each pair."""
        found = {}
        with torch.inference_mode():
            for name, step in self.steps.items():
                if self.device.type == "cpu":
                    found[name] = self._compare_eager(step, chosen)
                    continue
                with installed(self.source, chosen, self.device):
                    candidate = self._captured(step)
                found[name] = ratio(*paired(self.clock, self.native[name], candidate, pairs=self.pairs))
                del candidate
        return found

    def _compare_eager(self, step: Callable[[], Any], chosen: Operators) -> Ratio:
        first, second = [], []
        self.clock.times(step, 1)
        for _ in range(self.pairs):
            first.append(self.clock.once(step))
            with installed(self.source, chosen, self.device):
                second.append(self.clock.once(step))
        return ratio(first, second)


def _lengths(cache: Any) -> list[tuple[Any, Any]]:
    """How far each layer of a static cache is filled: a tensor or a number, by the version of transformers."""
    layers = [layer for layer in cache.layers if hasattr(layer, "cumulative_length")]
    return [(layer, _copy(layer.cumulative_length)) for layer in layers]


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value
