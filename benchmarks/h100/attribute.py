"""Attribute two planted culprits on a GPU that qualification at short lengths does not find:

    python benchmarks/h100/attribute.py --out RESULTS

Qwen3-8B's shapes, four layers, random bf16 weights; FlagGems' operators, two of them faulty (culprit.py). In RESULTS:
attribute.json, the complete result, and attribute.md, the tables for docs/proofs. Needs torch, Triton, transformers and
flag_gems; no weights, no network.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "pipeline"), str(HERE)]
os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path[:2], os.environ.get("PYTHONPATH", "")])

from flagkernels.attribute.attribute import Measurement, read_record  # noqa: E402
from flagkernels.files import read_json, write_json, write_text  # noqa: E402
from flagkernels.operators.listing import Operators  # noqa: E402
from flagkernels.qualify.rows import read_rows  # noqa: E402

CULPRITS = ("rsqrt", "silu")
OTHERS = ("add", "arange", "cos", "embedding", "mean_dim", "neg", "pow_tensor_scalar", "sin", "to_copy")


def step(*words: object) -> tuple[int, float]:
    """Run a flagkernels command in a separate process; its exit code and seconds. A failure does not end the proof."""
    print("$ flagkernels", *words, flush=True)
    began = time.monotonic()
    argv = [sys.executable, "-m", "flagkernels", *map(str, words)]
    code = subprocess.run(argv, env={"PYTHONWARNINGS": "ignore", **os.environ}, check=False).returncode
    spent = time.monotonic() - began
    print(f"  exit {code}, {spent:.1f} s", flush=True)
    return code, spent


def prove(out: Path, config: Path, layers: int, tokens: int, device: str) -> dict[str, float]:
    """Run the steps, which write to `out`. Returns the seconds of each."""
    seconds = {}
    points = ("--execution", "captured", "--points", "prefill:1x128,decode:1x128,decode:4x128")
    _, seconds["trace"] = step("trace", "--config", config, "--out", out / "trace.json", *points)
    found = ("--trace", out / "trace.json", "--operators", ",".join(CULPRITS), "--source", "culprit:OFF")
    options = ("--width", 2, "--real", 3, "--device", device)
    _, seconds["qualify"] = step("qualify", *found, "--out", out / "verdicts.jsonl", *options)
    write_text(out / "all.yaml", Operators(include=(*OTHERS, *CULPRITS)).to_yaml())
    model = ("--operators", out / "all.yaml", "--config", config, "--layers", layers, "--tokens", tokens)
    for name, source in (("control", "RIGHT"), ("planted", "OFF")):
        more = ("--source", f"culprit:{source}", "--clean", out / f"{name}.yaml", "--device", device)
        _, seconds[name] = step("attribute", *model, *more, "--out", out / f"{name}.json")
    return seconds


def result(out: Path, seconds: dict[str, float], config: Path, layers: int, tokens: int) -> dict[str, Any]:
    import torch

    names = ("torch", "triton", "transformers", "flag_gems")
    installed = {
        package.metadata["Name"].lower().replace("-", "_"): package.version
        for package in importlib.metadata.distributions()
    }
    versions = {name: installed.get(name, "none") for name in names}
    verdicts = {row.operator: row for row in read_rows(out / "verdicts.jsonl").values()}
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "versions": versions,
        "model": f"{config.stem}: {layers} layers of random bf16 weights, {tokens} tokens",
        "planted": list(CULPRITS),
        "qualified_at_short_lengths": {name: verdicts[name].verdict for name in CULPRITS if name in verdicts},
        "control": read_json(out / "control.json"),
        "attribution": read_json(out / "planted.json"),
        "measurements": [measurement.to_json() for measurement in read_record(out / "planted.jsonl").values()],
        "seconds": {name: round(spent, 1) for name, spent in seconds.items()},
    }


def tables(data: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    found = data["attribution"]
    clean = {name: "clean" if data[name]["clean"] else "not clean" for name in ("control", "attribution")}
    qualified = ", ".join(f"{name} {verdict}" for name, verdict in data["qualified_at_short_lengths"].items())
    named = ", ".join(found["culprits"]) or "none"
    lines = [
        f"{data['device']}, {versions}. {data['model']}.",
        "",
        f"Planted: {', '.join(data['planted'])}. Qualified at up to 128 tokens and four requests: {qualified}.",
        f"Without them planted: {clean['control']}, {_figures(data['control']['together'])}.",
        f"With them: culprits {named}; {clean['attribution']} with {len(found['remaining'])} operators.",
        "",
        "| round | on | excess | shift, nats a token | sigmas | named |",
        "|---|---|---|---|---|---|",
    ]
    for number, one in enumerate(found["rounds"], 1):
        lines.append(f"| {number} | {_row(one['together'])} | {one['culprit'] or 'nobody'} |")
    lines += ["", "| operator alone | excess | shift, nats a token | sigmas | guilty |", "|---|---|---|---|---|"]
    for one in data["measurements"]:
        if len(one["operators"]) == 1:
            lines.append(f"| {_row(one)} | {'yes' if one['guilty'] else ''} |")
    lines += ["", "seconds: " + ", ".join(f"{name} {spent}" for name, spent in data["seconds"].items())]
    return "\n".join(lines) + "\n"


def _row(one: dict[str, Any]) -> str:
    names = ", ".join(one["operators"]) if len(one["operators"]) < 3 else f"{len(one['operators'])} operators"
    if one["excess"] is None:
        return f"{names} | {one['note'].replace('|', '/')} | – | –"
    return f"{names} | {one['excess']:.3f} | {one['shift']:+.5f} | {one['sigmas']:.1f}"


def _figures(one: dict[str, Any]) -> str:
    return str(Measurement(**{**one, "operators": tuple(one["operators"])}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "results")))
    parser.add_argument("--config", type=Path, default=HERE / "qwen3-8b.json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=512)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    seconds = prove(args.out, args.config, args.layers, args.tokens, args.device)
    data = result(args.out, seconds, args.config, args.layers, args.tokens)
    write_json(args.out / "attribute.json", data)
    text = tables(data)
    write_text(args.out / "attribute.md", text)
    print(text)
    named = set(data["attribution"]["culprits"]) == set(CULPRITS)
    return 0 if named and data["attribution"]["clean"] and data["control"]["clean"] else 1


if __name__ == "__main__":
    sys.exit(main())
