"""The end of an engine's step: from logits to a token of each request.

Engines call it as it is written, neither compiled nor under a graph, so that each operator costs its launch. The steps
are those of vLLM's V1 sampler (vllm/v1/sample/sampler.py and ops/topk_topp_sampler.py, 0.22.1), without top-k and
top-p, which the engine has kernels of its own for."""

from __future__ import annotations

import torch

__all__ = ["sample", "temperatures"]

GREEDY = 1e-5  # a temperature below it asks for the most likely token


def temperatures(requests: int, device: torch.device | str) -> torch.Tensor:
    """(requests,) float32: half of them greedy, as where users ask for both."""
    return (torch.arange(requests, device=device) % 2).to(torch.float32)


def sample(logits: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """logits: (requests, vocabulary) in the model's dtype; temperature: (requests,). The tokens, int32."""
    logits = logits.to(torch.float32)
    likeliest = logits.argmax(dim=-1)
    logits = logits.div_(torch.where(temperature < GREEDY, 1.0, temperature).unsqueeze(1))
    odds = logits.softmax(dim=-1, dtype=torch.float32)
    drawn = odds.div_(torch.empty_like(odds).exponential_()).argmax(dim=-1)
    return torch.where(temperature < GREEDY, likeliest, drawn, out=likeliest).to(torch.int32)
