"""The model of a rehearsal: the architecture of a config.json with few and narrow layers, and a tokenizer. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

LAYERS = 2
_MOST: Mapping[str, int] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "moe_intermediate_size": 128,
    "shared_expert_intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
}
"""The largest size that a processor serves quickly, by name in config.json."""
_LATENT = ("kv_lora_rank", "q_lora_rank", "linear_num_value_heads")
"""With these, sizes depend on one another in ways of their own: only the number of layers is reduced."""

STAND_IN: Mapping[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "tie_word_embeddings": False,
}
"""The config.json that is used if that of the model cannot be had here: the sizes of Qwen3-8B, from its card."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
"""What a model folder may have beside config.json and weights, as far as serving reads it."""

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def small(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the same architecture with few and narrow layers, not quantised."""
    made = {name: value for name, value in config.items() if name != "quantization_config"}
    layers = made.get("num_hidden_layers")
    if isinstance(layers, int):
        made["num_hidden_layers"] = min(layers, LAYERS)
        for name in ("layer_types", "mlp_layer_types"):
            if isinstance(made.get(name), list):
                made[name] = made[name][:LAYERS]
    if not any(made.get(name) for name in _LATENT):
        made |= {name: min(made[name], most) for name, most in _MOST.items() if isinstance(made.get(name), int)}
    if isinstance(made.get("text_config"), Mapping):
        made["text_config"] = small(made["text_config"])
    return made


def narrowed(config: Mapping[str, Any], made: Mapping[str, Any]) -> str:
    """The sizes that differ, in words."""
    names = [name for name in ("num_hidden_layers", *_MOST) if config.get(name) != made.get(name)]
    return ", ".join(f"{name} {config[name]:,}: {made[name]:,}" for name in names)


def byte_tokenizer(window: int) -> tuple[dict[str, bytes], dict[str, int], list[int]]:
    """A tokenizer with one token a byte, as files; the entries of config.json for it; the tokens that are letters."""
    letters = _bytes_as_characters()
    added = [
        {"id": 256 + at, "content": text, "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for at, text in enumerate(_SPECIAL)
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    model = {"type": "BPE", "vocab": {letters[byte]: byte for byte in range(256)}, "merges": []}
    document = {"version": "1.0", "added_tokens": added, "pre_tokenizer": level, "decoder": level, "model": model}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": _SPECIAL[2],
        "pad_token": _SPECIAL[0],
        "chat_template": _TEMPLATE,
        "model_max_length": window,
    }
    files = {"tokenizer.json": json.dumps(document).encode(), "tokenizer_config.json": json.dumps(settings).encode()}
    entries = {"vocab_size": 256 + len(_SPECIAL), "bos_token_id": 256, "eos_token_id": 258, "pad_token_id": 256}
    return files, entries, [ord(" "), *range(ord("a"), ord("z") + 1)]


def _bytes_as_characters() -> dict[int, str]:
    """The character that stands for each byte in a byte-level vocabulary: itself if it is printable, else the next
    free one above 255."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + at) for at, byte in enumerate(others)}
