#!/usr/bin/env python3
"""gguf-to-safetensors SOURCE TARGET: unpack the GGUF model in a folder into bfloat16 safetensors, config and tokenizer.

For engines that do not serve GGUF. The values are those of the GGUF file rounded to bfloat16; the loss of its
quantisation remains. The same source and library versions give the same bytes. The last line printed is JSON: the file
read, the number of parameters, and the versions.
"""

import argparse
import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Any

NEEDED = ("accelerate", "gguf", "safetensors", "torch", "transformers")


def main() -> int:
    parser = argparse.ArgumentParser(prog="gguf-to-safetensors", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="a folder with one GGUF file")
    parser.add_argument("target", type=Path, help="the folder to write; must be empty or not exist")
    arguments = parser.parse_args()
    file = only_gguf(arguments.source)
    if arguments.target.is_dir() and any(arguments.target.iterdir()):
        sys.exit(f"gguf-to-safetensors: {arguments.target} is not empty; name a new folder")
    versions = {name: version(name) for name in NEEDED}
    if missing := [name for name, installed in versions.items() if not installed]:
        sys.exit(f"gguf-to-safetensors: this Python lacks {', '.join(missing)}; install them")
    os.environ.update({"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "USE_TF": "0", "USE_FLAX": "0"})
    say(json.dumps(convert(file, arguments.target) | {"versions": versions}))
    return 0


def only_gguf(folder: Path) -> Path:
    files = sorted(folder.rglob("*.gguf")) if folder.is_dir() else []
    if len(files) != 1:
        names = ", ".join(path.name for path in files) or "none"
        sys.exit(f"gguf-to-safetensors: {folder} must contain one GGUF file, but contains {names}")
    return files[0]


def version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def convert(file: Path, target: Path) -> dict[str, object]:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    say("reading the tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    say("unpacking the tensors")
    model: Any = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype="float32", quantization_config=GgufConfig(dequantize=True)
    )
    # transformers refuses to save a model that was quantised, even after unpacking it.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    say("writing")
    model.bfloat16().save_pretrained(target)
    tokenizer.save_pretrained(target)
    for path in target.rglob("*"):
        # safetensors makes files readable only by their owner, but the server may run as another user.
        path.chmod(0o755 if path.is_dir() else 0o644)
    return {"file": file.name, "parameters": model.num_parameters()}


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
