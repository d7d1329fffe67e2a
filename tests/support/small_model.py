"""A language model that is small enough to be built in a moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 500,
    "dtype": "bfloat16",
}


def config(folder: Path, kind: str, **changes: Any) -> Path:
    """The config.json of a model of this `model_type`."""
    path = folder / "config.json"
    path.write_text(json.dumps({"model_type": kind, **SIZES, **changes}))
    return path
