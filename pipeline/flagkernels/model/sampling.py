"""Sample one token per request at the end of an engine's step.

Engines run this part eagerly, neither compiled nor under a CUDA graph, so each operator costs a launch. The code
follows vLLM's V1 runner and sampler (vllm/v1/worker/gpu_model_runner.py, vllm/v1/sample/sampler.py and
ops/topk_topp_sampler.py, 0.22.1) without top-k and top-p, for which vLLM has its own kernels. `record` shows what an
engine calls here."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["REQUESTS", "LastPositions", "sample", "temperatures"]

REQUESTS = ("mixed", "greedy")
"""Sampling of a batch's requests: half greedy and half with a temperature, or all greedy."""

GREEDY = 1e-5  # a temperature below this selects the most likely token


class LastPositions:
    """Restrict a model's head to the last position of each request."""

    def __init__(self, model: Any) -> None:
        self.rows: torch.Tensor | None = None
        head = model.get_output_embeddings()
        if head is not None:
            head.register_forward_pre_hook(self._pick)

    def take(self, requests: int, tokens: int, device: torch.device | str) -> torch.Tensor:
        """Select the last of `tokens` positions of each request from now on. Returns the indices, (requests,) int32,
        which can be restored by assigning them to `rows`."""
        self.rows = torch.arange(1, requests + 1, dtype=torch.int32, device=device) * tokens - 1
        return self.rows

    def _pick(self, _head: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if self.rows is None:
            return inputs
        return (inputs[0].flatten(0, -2)[self.rows], *inputs[1:])


def temperatures(requests: int, device: torch.device | str, asked: str = "mixed") -> torch.Tensor | None:
    """Temperatures, (requests,) float32; None if all requests are greedy. `asked`: one of REQUESTS."""
    if asked == "greedy":
        return None
    return (torch.arange(requests, device=device) % 2).to(torch.float32)


def sample(logits: torch.Tensor, temperature: torch.Tensor | None) -> torch.Tensor:
    """Sample a token per request; returns (requests,) int32.

    logits: (requests, vocabulary) in the model's dtype; temperature: (requests,), None if all are greedy."""
    logits = logits.to(torch.float32)
    likeliest = logits.argmax(dim=-1)
    if temperature is None:
        return likeliest.to(torch.int32)
    logits = logits.div_(torch.where(temperature < GREEDY, 1.0, temperature).unsqueeze(1))
    odds = logits.softmax(dim=-1, dtype=torch.float32)
    drawn = odds.div_(torch.empty_like(odds).exponential_()).argmax(dim=-1)
    return torch.where(temperature < GREEDY, likeliest, drawn, out=likeliest).to(torch.int32)
