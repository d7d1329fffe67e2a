"""Compute teacher-forced log-probabilities of a fixed text, in prefill and in decode steps."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flagkernels.errors import UsageError
from flagkernels.model import architecture
from flagkernels.operators.listing import Operators
from flagkernels.operators.override import installed
from flagkernels.operators.registry import Source, device_here, open_source

__all__ = ["ModelAnswers", "log_probabilities"]

POSITIONS = 32  # rows of one product with the vocabulary
DECODED = 24  # tokens at the end of the text computed by decode steps, whose shapes use other kernels
BATCH = 8  # parts of the text decoded together, as an engine batches requests
BATCHED = 16  # tokens of each part computed by decode steps


def log_probabilities(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Natural log-probabilities, float32, of tokens given their predecessors. ids: (1, n).

    Tokens 1 … n−1 from one prefill; the last DECODED again from decode steps; and, if n is large enough, the last
    BATCHED of each of BATCH parts from decode steps of all parts at once."""
    count = ids.shape[1]
    with torch.inference_mode():
        values = [_picked(model(input_ids=ids, use_cache=False).logits[:, :-1], ids[:, 1:])]
        values.append(_decoded(model, ids, min(DECODED, count // 2)))
        if (length := count // BATCH) >= 2 * BATCHED:
            values.append(_decoded(model, ids[0, : BATCH * length].view(BATCH, length), BATCHED))
    return torch.cat(values)


def _decoded(model: Any, ids: torch.Tensor, steps: int) -> torch.Tensor:
    """Log-probabilities of the last steps − 1 tokens of each row, by decode steps after a prefill of the others."""
    start = ids.shape[1] - steps
    name = architecture.cache_name(model)
    cache = {name: getattr(model(input_ids=ids[:, :start], use_cache=True), name)}
    logits = []
    for position in range(start, ids.shape[1] - 1):
        out = model(input_ids=ids[:, position : position + 1], **cache, use_cache=True)
        logits.append(out.logits)
    return _picked(torch.cat(logits, dim=1), ids[:, start + 1 :])


def _picked(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the targets. logits: (batch, m, vocabulary); targets: (batch, m)."""
    rows = torch.split(logits.flatten(0, 1), POSITIONS)
    columns = torch.split(targets.reshape(-1, 1), POSITIONS)
    return torch.cat([x.float().log_softmax(-1).gather(-1, at) for x, at in zip(rows, columns, strict=True)])[:, 0]


class ModelAnswers:
    """Log-probabilities from a transformers model on one device. The float32 reference is a temporary copy of it."""

    def __init__(self, model: nn.Module, ids: torch.Tensor, source: Source, chosen: Operators) -> None:
        self.model, self.ids, self.source, self.chosen = model, ids, source, chosen
        self.device = ids.device

    @classmethod
    def open(cls, args: argparse.Namespace, chosen: Operators) -> ModelAnswers:
        """Build from command-line options: real weights, or random ones in the shapes of a config.json.

        Raises UsageError if the model or the text cannot be used, ChipFault if the device is not available."""
        device = device_here(args.device)
        if args.weights is not None:
            model, vocabulary, encode = _pretrained(args.weights, device)
        else:
            arch = architecture.read_config(args.config)
            model = architecture.build(arch, args.device, layers=args.layers)
            vocabulary, encode = int(architecture.text_of(arch.config).vocab_size), None
        architecture.fuse_projections(model)
        _few_positions(model)
        if args.text is None:
            generator = torch.Generator().manual_seed(0)
            ids = torch.randint(0, vocabulary, (1, args.tokens), generator=generator)
        elif encode is None:
            raise UsageError("--text needs the tokenizer in --weights", hint="leave --text out, or give --weights")
        else:
            ids = encode(args.text.read_text(encoding="utf-8"))[:, : args.tokens]
        if ids.shape[1] < 32:
            raise UsageError(f"the text has {ids.shape[1]} tokens", hint="give at least 32, better a few hundred")
        return cls(model, ids.to(device), open_source(args.source), chosen)

    def native(self) -> list[float]:
        return self._values(self.model)

    def reference(self) -> list[float]:
        precise = copy.deepcopy(self.model).float()
        _widen_fused(precise)
        return self._values(precise)

    def with_operators(self, names: frozenset[str]) -> list[float]:
        compiled = architecture.decoder(self.model) if self.chosen.execution == "compiled" else None
        with installed(self.source, self.chosen.only(names), self.device, compiled):
            return self._values(self.model)

    def alive(self) -> bool:
        """False once the device context is lost, as after an illegal access."""
        try:
            return bool(torch.ones(2, device=self.device).sum().item() == 2)
        except RuntimeError:
            return False

    def _values(self, model: nn.Module) -> list[float]:
        values: list[float] = log_probabilities(model, self.ids).tolist()
        return values


class _FewPositions(nn.Module):
    """A head that computes a few positions at a time, in the shapes that engines use and tuning covered."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.head(part) for part in torch.split(x, POSITIONS, dim=1)], dim=1)


def _few_positions(model: Any) -> None:
    model.set_output_embeddings(_FewPositions(model.get_output_embeddings()))


def _widen_fused(model: nn.Module) -> None:
    for module in model.modules():
        shared = getattr(module, "shared", None)
        if shared is not None:
            shared.widen()


def _pretrained(folder: Path, device: torch.device) -> tuple[nn.Module, int, Callable[[str], torch.Tensor]]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True)
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        hint = "give the folder with config.json, weights and tokenizer"
        raise UsageError(f"no model found in {folder}", why=str(error).splitlines()[0], hint=hint) from error
    return (
        model.to(device).eval(),
        int(model.config.vocab_size),
        lambda text: tokenizer(text, return_tensors="pt").input_ids,
    )
