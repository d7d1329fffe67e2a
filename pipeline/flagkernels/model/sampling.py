"""The end of an engine's step: from the layers' result to a token of each request.

Engines call it as it is written, neither compiled nor under a graph, so that each operator costs its launch. The steps
are those of vLLM's V1 runner and sampler (vllm/v1/worker/gpu_model_runner.py, vllm/v1/sample/sampler.py and
ops/topk_topp_sampler.py, 0.22.1), without top-k and top-p, which the engine has kernels of its own for. `record` shows
what an engine calls here."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["REQUESTS", "LastPositions", "sample", "temperatures"]

REQUESTS = ("mixed", "greedy")
"""Requests of users: half of a batch greedy and half with a temperature; or greedy alone, where nothing is drawn."""

GREEDY = 1e-5  # a temperature below it asks for the most likely token


class LastPositions:
    """Hands a model's head the last position of each request alone, picked by its index among all tokens."""

    def __init__(self, model: Any) -> None:
        self.rows: torch.Tensor | None = None
        head = model.get_output_embeddings()
        if head is not None:
            head.register_forward_pre_hook(self._pick)

    def take(self, requests: int, tokens: int, device: torch.device | str) -> torch.Tensor:
        """From now on, of that many requests of that many tokens each. The indices, (requests,) int32, can be set again
        as `rows`."""
        self.rows = torch.arange(1, requests + 1, dtype=torch.int32, device=device) * tokens - 1
        return self.rows

    def _pick(self, _head: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if self.rows is None:
            return inputs
        return (inputs[0].flatten(0, -2)[self.rows], *inputs[1:])


def temperatures(requests: int, device: torch.device | str, asked: str = "mixed") -> torch.Tensor | None:
    """(requests,) float32; none where all are greedy. `asked`: one of REQUESTS."""
    if asked == "greedy":
        return None
    return (torch.arange(requests, device=device) % 2).to(torch.float32)


def sample(logits: torch.Tensor, temperature: torch.Tensor | None) -> torch.Tensor:
    """logits: (requests, vocabulary) in the model's dtype; temperature: (requests,), none where all are greedy. The
    tokens, int32."""
    logits = logits.to(torch.float32)
    likeliest = logits.argmax(dim=-1)
    if temperature is None:
        return likeliest.to(torch.int32)
    logits = logits.div_(torch.where(temperature < GREEDY, 1.0, temperature).unsqueeze(1))
    odds = logits.softmax(dim=-1, dtype=torch.float32)
    drawn = odds.div_(torch.empty_like(odds).exponential_()).argmax(dim=-1)
    return torch.where(temperature < GREEDY, likeliest, drawn, out=likeliest).to(torch.int32)
