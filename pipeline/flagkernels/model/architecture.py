"""Build a transformers model from its config.json alone: on the meta device, or with random weights."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import inspect
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flagkernels.errors import UsageError, did_you_mean

__all__ = [
    "Architecture",
    "build",
    "cache_name",
    "cut",
    "decoder",
    "fuse_projections",
    "meta_cannot",
    "read_config",
    "static_sizes",
    "text_of",
]

# Projections that serving engines compute as one matrix product (vLLM: QKVParallelLinear, MergedColumnParallelLinear).
FUSED = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("query", "key", "value"),
    ("w1", "w3"),
)


@dataclass(frozen=True)
class Architecture:
    """A transformers config and the digest of its file."""

    config: Any
    """For a multimodal model, the config of its language model; the complete config if transformers cannot build the
    language model alone (Qwen2.5-VL)."""
    sha256: str
    """Of config.json."""

    @property
    def name(self) -> str:
        return str(self.config.model_type)


def read_config(path: Path) -> Architecture:
    """Read a model's config.json. Raises UsageError if it is not one, or if transformers lacks its architecture."""
    import transformers

    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        data = path.read_bytes()
        raw = json.loads(data)
    except OSError as error:
        raise UsageError(f"cannot read {path}", why=str(error), hint="give the model's config.json") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON", why=str(error), hint="give the model's config.json") from error
    kind = raw.get("model_type") if isinstance(raw, dict) else None
    if not isinstance(kind, str):
        hint = "give the config.json that comes with the model's weights"
        raise UsageError(f"{path} is not a model's config.json", why="it has no model_type", hint=hint)
    if kind not in transformers.CONFIG_MAPPING:
        own = "; the model ships custom code (auto_map), which is not run" if "auto_map" in raw else ""
        raise UsageError(
            f"transformers {transformers.__version__} does not know the architecture {kind!r}",
            why=(did_you_mean(kind, transformers.CONFIG_MAPPING) or "no known name is similar") + own,
            hint="correct model_type, or install a version of transformers that has it",
        )
    values = {key: value for key, value in raw.items() if key != "model_type"}
    try:
        config = _language(transformers.AutoConfig.for_model(kind, **values))
    except Exception as error:  # transformers validates with exceptions of many kinds
        raise UsageError(
            f"transformers rejects {path}", why=str(error), hint="compare it with the model's published config.json"
        ) from error
    return Architecture(config, hashlib.sha256(data).hexdigest())


def _language(whole: Any) -> Any:
    """The config to build: that of the language model if transformers can build it alone, else the complete one."""
    import transformers

    text = whole.get_text_config()
    if type(text) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        return whole
    if text is not whole and dtype_named(text) is None:
        text.dtype = dtype_named(whole)  # nested configs often omit the dtype
    return text


def text_of(config: Any) -> Any:
    """The part of a config that holds the language model's sizes."""
    text = config.get_text_config()
    return text if hasattr(text, "num_hidden_layers") else config


def dtype_named(config: Any) -> torch.dtype | None:
    """The dtype in the config; None if it names none."""
    named = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    dtype = getattr(torch, named, None) if isinstance(named, str) else named
    return dtype if isinstance(dtype, torch.dtype) else None


def dtype_of(config: Any) -> torch.dtype:
    """The dtype of the stored weights; bfloat16 if the config names none."""
    return dtype_named(config) or torch.bfloat16


def build(
    architecture: Architecture,
    device: str,
    *,
    layers: int | None = None,
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> nn.Module:
    """Build the model in eval mode with random weights (none on `meta`), cut to its first `layers`.

    Raises UsageError if it is not a language model, or if its config is inconsistent."""
    config = copy.deepcopy(architecture.config)
    make = _maker(architecture)
    if layers is not None:
        cut(text_of(config), layers)
    torch.manual_seed(seed)
    try:
        with torch.device(device), contextlib.ExitStack() as stack:
            if device != "meta":
                stack.enter_context(_cheap_init())
            model: nn.Module = make(config, dtype=dtype or dtype_of(config)).eval()
    except Exception as error:  # an inconsistent config raises exceptions of many kinds
        if device != "meta" or meta_cannot(error):
            raise
        raise UsageError(
            f"transformers cannot build this {architecture.name}",
            why=f"{type(error).__name__}: {error}".splitlines()[0],
            hint="compare config.json with the one published with the model",
        ) from error
    if device != "meta":
        _randomise(model)
    return model


def _maker(architecture: Architecture) -> Any:
    """transformers' constructor for a causal language model, or for a multimodal model that contains one."""
    import transformers

    kind = type(architecture.config)
    if kind in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        return transformers.AutoModelForCausalLM.from_config
    if kind in getattr(transformers, "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING", ()):
        return transformers.AutoModelForImageTextToText.from_config
    raise UsageError(
        f"{architecture.name} is not a causal language model",
        why="transformers has no causal language model for it: it may be an encoder, or an encoder-decoder",
        hint="give the config.json of a model that completes text",
    )


def decoder(model: Any) -> nn.Module:
    """The layers without the logits, which engines compile and capture; the complete model if it has no such part."""
    layers: nn.Module = model.get_decoder()
    return layers


def cache_name(model: Any) -> str:
    """The name of the cache argument and output in this transformers; the old name is removed in 5.40."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def meta_cannot(error: Exception) -> bool:
    """True if `error` means that the meta device cannot run the model: an operator whose result depends on values has
    no meta kernel, and items of meta tensors cannot be read."""
    return isinstance(error, NotImplementedError) or "meta tensor" in str(error).lower()


@contextlib.contextmanager
def _cheap_init() -> Any:
    """Skip transformers' initialisation, slow for billions of weights; `_randomise` replaces it, on the device."""
    from transformers.initialization import no_init_weights

    with no_init_weights():
        yield


def cut(config: Any, layers: int) -> None:
    """Keep the first layers, and as many more as needed to have one of each kind (attention, sliding, linear …)."""
    kinds = list(getattr(config, "layer_types", None) or ())
    layers = max([layers, *(kinds.index(kind) + 1 for kind in set(kinds))])
    config.num_hidden_layers = min(layers, config.num_hidden_layers)
    if kinds and not isinstance(getattr(type(config), "layer_types", None), property):
        config.layer_types = kinds[: config.num_hidden_layers]


@torch.no_grad()
def _randomise(model: nn.Module) -> None:
    """Fill in weights with the usual spread: σ = 0.02, norms near one (Gemma's norms add one; that is harmless)."""
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            parameter.normal_(0.0, 0.02).add_(0.0 if name.endswith("bias") else 1.0)
        else:
            parameter.normal_(0.0, 0.02)


def static_sizes(model: nn.Module) -> frozenset[int]:
    """Sizes that do not depend on the request: those of the weights, and the dimensions in the config."""
    weights = (*model.parameters(), *(buffer for name, buffer in model.named_buffers() if name.endswith("weight")))
    sizes = {size for weight in weights for size in weight.shape}
    config = text_of(model.config)
    for name in ("head_dim", "num_attention_heads", "num_key_value_heads", "hidden_size", "num_experts_per_tok"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            sizes.add(value)
    return frozenset(sizes)


class _Shared:
    """A fused projection, whose parts read slices of its result."""

    def __init__(self, parts: list[nn.Linear]) -> None:
        self.widths = [part.out_features for part in parts]
        with torch.no_grad():
            self.weight = torch.cat([part.weight for part in parts])
            self.bias = torch.cat([part.bias for part in parts]) if parts[0].bias is not None else None
        self.result: tuple[torch.Tensor, ...] = ()

    def widen(self) -> None:
        self.weight = self.weight.float()
        self.bias = None if self.bias is None else self.bias.float()

    def first(self, x: torch.Tensor) -> torch.Tensor:
        self.result = torch.split(nn.functional.linear(x, self.weight, self.bias), self.widths, dim=-1)
        return self.result[0]


class _Part(nn.Module):
    def __init__(self, shared: _Shared, index: int) -> None:
        super().__init__()
        self.shared, self.index = shared, index
        self.register_buffer("weight", shared.weight, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shared.first(x) if self.index == 0 else self.shared.result[self.index]


def fuse_projections(model: nn.Module) -> int:
    """Fuse sibling projections into one matrix product each, as serving engines do. Returns the number of groups.

    The projections of a group read the same input in every transformers model, so fusing them is safe."""
    fused = 0
    for parent in list(model.modules()):
        for names in FUSED:
            parts = [getattr(parent, name, None) for name in names]
            linear = [part for part in parts if type(part) is nn.Linear]
            if len(linear) != len(names) or len({part.in_features for part in linear}) != 1:
                continue
            shared = _Shared(linear)
            for index, name in enumerate(names):
                setattr(parent, name, _Part(shared, index))
            fused += 1
    head: Any = model.get_output_embeddings()  # type: ignore[operator,unused-ignore]
    if head is not None:  # engines gather the last positions, so the logits are a single contiguous matrix product
        head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(), *inputs[1:]))
    return fused
