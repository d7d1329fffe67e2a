"""The share of one device of a model that several devices serve, as the config of a smaller model.

The sizes follow vLLM's public source: heads and their replication QKVParallelLinear (model_executor/layers/linear.py),
the vocabulary pad_vocab_size and VocabParallelEmbedding (layers/vocab_parallel_embedding.py), experts FusedMoE
(layers/fused_moe/layer.py), layers get_pp_indices (distributed/utils.py), the logits LogitsProcessor
(layers/logits_processor.py) and all_gather (distributed/device_communicators/base_device_communicator.py)."""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from flagkernels.arguments import add_option
from flagkernels.errors import UsageError
from flagkernels.model import architecture
from flagkernels.model.architecture import Architecture

__all__ = ["ALL", "Share", "add_arguments", "gathered", "padded", "sharded", "share_of", "split_embedding"]

PADDING = 64
"""Engines pad the vocabulary to a multiple of it, then split it."""
HEADS = ("num_attention_heads", "linear_num_key_heads", "linear_num_value_heads")
"""Sizes that must be divisible: a head is computed on one device."""
WIDTHS = ("intermediate_size", "shared_expert_intermediate_size")
EXPERT_WIDTHS = ("moe_intermediate_size",)
UNKNOWN = ("mamba_d_", "mamba_n_", "mamba_num_", "mamba_expand", "ssm_state", "state_size")
"""Prefixes of a config's keys for layers whose split is not described here: Mamba's."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one of several devices has of a model."""

    tensor: int = 1
    """Devices that each hold a part of every layer."""
    pipeline: int = 1
    """Groups of devices that each hold some of the layers."""
    whole_experts: bool = False
    """Whether each device holds some of the experts, whole (expert parallel), instead of a part of every expert."""

    @property
    def alone(self) -> bool:
        """Whether one device has everything."""
        return self.tensor == self.pipeline == 1


ALL = Share()
"""The share of a device that serves the model alone."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `share_of`."""
    add_option(parser, "--tensor")
    add_option(parser, "--pipeline")
    add_option(parser, "--whole-experts", action="store_true")


def share_of(args: argparse.Namespace) -> Share:
    return Share(tensor=args.tensor, pipeline=args.pipeline, whole_experts=args.whole_experts)


def padded(vocabulary: int) -> int:
    """The vocabulary with its padding."""
    return -(-vocabulary // PADDING) * PADDING


def sharded(whole: Architecture, share: Share) -> Architecture:
    """The model as one device has it: the largest share, if they differ. Raises UsageError if the model cannot be
    divided so."""
    if share.alone:
        return whole
    config = copy.deepcopy(whole.config)
    text = architecture.text_of(config)
    if share.tensor > 1:
        _split(text, share, whole.name)
    if share.pipeline > 1:
        _stage(text, share.pipeline)
    return replace(whole, config=config)


def _split(text: Any, share: Share, name: str) -> None:
    unknown = [key for key in vars(text) if key.startswith(UNKNOWN)]
    if unknown:
        why = f"it has layers whose split among devices is not known ({unknown[0]} in config.json)"
        raise UsageError(f"cannot trace a share of {name}", why=why, hint="serve it on one device, or natively")
    for heads in HEADS:
        if heads == "num_attention_heads" and getattr(text, "head_dim", None) is None:
            text.head_dim = text.hidden_size // text.num_attention_heads
        _divide(text, heads, share.tensor)
    _replicate(text, share.tensor)
    for width in (*WIDTHS, *(() if share.whole_experts else EXPERT_WIDTHS)):
        _divide(text, width, share.tensor)
    if padded(text.vocab_size) % share.tensor:
        raise _indivisible("vocab_size with its padding", padded(text.vocab_size), share.tensor)
    text.vocab_size = padded(text.vocab_size) // share.tensor
    text.pad_token_id = None  # may be outside of this part


def _divide(text: Any, key: str, tensor: int) -> None:
    size = getattr(text, key, None)
    if not isinstance(size, int):
        return
    if size % tensor:
        raise _indivisible(key, size, tensor)
    setattr(text, key, size // tensor)


def _replicate(text: Any, tensor: int) -> None:
    """Divide the heads of keys and values; if there are fewer than devices, several have the same one."""
    heads = getattr(text, "num_key_value_heads", None)
    if not isinstance(heads, int):
        return
    if heads % tensor and tensor % heads:
        raise _indivisible("num_key_value_heads", heads, tensor)
    text.num_key_value_heads = max(1, heads // tensor)


def _indivisible(key: str, size: int, tensor: int) -> UsageError:
    return UsageError(
        f"the model cannot be divided among {tensor} devices",
        why=f"{key} is {size}",
        hint="choose --tensor so that it divides the sizes of the model",
    )


def _stage(text: Any, pipeline: int) -> None:
    """Keep as many layers as the largest group has, and one of each kind."""
    layers = text.num_hidden_layers
    if layers < pipeline:
        raise UsageError(
            f"{layers} layers cannot be divided among {pipeline} groups", hint="choose a smaller --pipeline"
        )
    architecture.cut(text, -(-layers // pipeline))


def split_embedding(model: Any) -> None:
    """Zero the rows of tokens that another device's part of the vocabulary has, as VocabParallelEmbedding does."""

    def masked(_module: Any, inputs: tuple[Any, ...], rows: torch.Tensor) -> torch.Tensor:
        with _disable_current_modes():  # one compiled kernel makes the mask
            mask = torch.zeros_like(inputs[0], dtype=torch.bool)
        return rows.masked_fill_(mask.unsqueeze(-1), 0)

    model.get_input_embeddings().register_forward_hook(masked)


def gathered(logits: torch.Tensor, tensor: int, vocabulary: int) -> torch.Tensor:
    """The logits of all parts of the vocabulary, (rows, vocabulary), without the padding. logits: (rows, part).

    The other devices' parts are not computed, and what travels between devices is no operator."""
    if tensor == 1:
        return logits
    rows, part = logits.shape
    with _disable_current_modes():
        received = logits.new_empty((tensor * rows, part))
    return received.reshape(tensor, rows, part).movedim(0, 1).reshape(rows, tensor * part)[:, :vocabulary]
