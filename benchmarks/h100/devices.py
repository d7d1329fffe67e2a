"""Compare what each of several devices of one model calls with the trace of its share, in vLLM with random weights.

    python benchmarks/h100/devices.py --out RESULTS                              # Qwen3-8B, 8 layers, 2 devices
    python benchmarks/h100/devices.py --out RESULTS --config CONFIG --tensor 4   # --layers, --batches, --catalogue
    python benchmarks/h100/devices.py --out RESULTS --speed                      # then the seconds without recording

`flagkernels trace --tensor N` predicts the calls of a device; `flagkernels record` counts those of each of the engine's
processes. In RESULTS: trace.json, calls/, devices.json and devices.md. Exit code 1 if a matrix product of a device was
not predicted, if the devices call different products, or if one computes no logits. Needs vLLM, transformers and
FlagGems, installed or as a wheel (--catalogue); no network and no weights. NVLink multicast stays off.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "pipeline"), str(HERE)]
os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], os.environ.get("PYTHONPATH", "")])

import engine  # noqa: E402

from flagkernels import cli  # noqa: E402
from flagkernels.engine.process_file import files_of  # noqa: E402
from flagkernels.files import read_json, write_json, write_text  # noqa: E402
from flagkernels.model import trace  # noqa: E402
from flagkernels.operators.calls import Call  # noqa: E402

PRODUCTS = {"mm": 1, "mm.out": 1, "bmm": 1, "bmm.out": 1, "addmm": 2, "addmm.out": 2}
"""Matrix products, with the position of the weight among their tensors."""
WITHOUT_MULTICAST = {
    "NCCL_NVLS_ENABLE": "0",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    "NVSHMEM_DISABLE_NVLS": "1",
    "VLLM_ALLREDUCE_USE_SYMM_MEM": "0",
}


@dataclass(frozen=True, kw_only=True)
class Device:
    """The matrix products that one device called, by their weights."""

    number: int
    foreseen: tuple[str, ...]
    """Those that the trace predicts."""
    unforeseen: tuple[str, ...]
    logits: tuple[str, ...]
    """Those with the device's part of the vocabulary."""


def compared(found: trace.Trace, calls: Mapping[int, Iterable[Call]], part: int) -> list[Device]:
    """The products of each device against the trace. `part`: the device's part of the vocabulary."""
    predicted = {_name(traced.call) for traced in found.calls if traced.call.overload in PRODUCTS}
    devices = []
    for number, rows in sorted(calls.items()):
        products = {_name(call): call for call in rows if call.overload in PRODUCTS}
        logits = [name for name, call in products.items() if any(part in spec.shape for spec in call.tensors)]
        foreseen, unforeseen = sorted(products.keys() & predicted), sorted(products.keys() - predicted)
        devices.append(
            Device(number=number, foreseen=tuple(foreseen), unforeseen=tuple(unforeseen), logits=tuple(sorted(logits)))
        )
    return devices


def _name(call: Call) -> str:
    """A product with its weight; the rows are those of a step, and the engine's warm-up has others than the trace."""
    weight = call.tensors[PRODUCTS[call.overload]]
    return f"{call.overload} {' × '.join(map(str, weight.shape[-2:]))}"


def faults(devices: Sequence[Device], expected: int) -> list[str]:
    """What does not hold, in sentences."""
    found = [] if len(devices) == expected else [f"{len(devices)} devices called products instead of {expected}"]
    for device in devices:
        found += [f"device {device.number} calls {name}, which the trace does not have" for name in device.unforeseen]
        if not device.logits:
            found.append(f"device {device.number} computes no logits")
    if len({(device.foreseen, device.unforeseen) for device in devices}) > 1:
        found.append("the devices call different products")
    return found


def recorded(folder: Path) -> dict[int, set[Call]]:
    """The calls by device, of the processes that use one."""
    calls: dict[int, set[Call]] = {}
    for file in files_of(folder):
        row = read_json(file)
        if row["device"] is not None:
            calls.setdefault(row["device"], set()).update(Call.from_json(one["call"]) for one in row["calls"])
    return calls


def table(devices: Sequence[Device], wrong: Sequence[str], what: str) -> str:
    lines = [what, "", "| device | products called | foreseen | of them logits |", "|---|---|---|---|"]
    for device in devices:
        called = len(device.foreseen) + len(device.unforeseen)
        lines.append(f"| {device.number} | {called} | {len(device.foreseen)} | {len(device.logits)} |")
    lines += ["", *(wrong or ["Every product of every device is in the trace, and the devices call the same ones."])]
    return "\n".join(lines) + "\n"


def shortened(config: Path, layers: int, out: Path) -> Path:
    """The config with so many layers, in a file of its own."""
    sizes: dict[str, Any] = {**json.loads(config.read_text()), "num_hidden_layers": layers}
    if "layer_types" in sizes:
        sizes["layer_types"] = sizes["layer_types"][:layers]
    path = out / "config.json"
    write_json(path, sizes)
    return path


def serve(args: argparse.Namespace, config: Path, before: Sequence[str]) -> None:
    """Serve a batch of each size. Raises CalledProcessError if the engine fails."""
    command = [sys.executable, str(HERE / "engine.py"), "serve", "--config", str(config), "--tensor", str(args.tensor)]
    batches = "".join(f"{size}\n" for size in args.batches)
    subprocess.run([*before, *command], input=batches, text=True, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--config", type=Path, default=HERE / "qwen3-8b.json")
    parser.add_argument("--tensor", type=int, default=2, help="number of devices")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--catalogue", type=Path, help="FlagGems wheel or source; default: the installed flag_gems")
    parser.add_argument("--batches", type=lambda text: [int(size) for size in text.split(",")], default=[1, 8, 32])
    parser.add_argument("--speed", action="store_true", help="serve once more without recording, for the times")
    args = parser.parse_args()
    os.environ.update(WITHOUT_MULTICAST)
    out: Path = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    config, traced, calls = shortened(args.config, args.layers, out), out / "trace.json", out / "calls"
    known = ["--catalogue", str(args.catalogue.resolve())] if args.catalogue else []
    sizes = ["--max-len", str(engine.LONGEST), "--max-batch", str(engine.MOST), "--tensor", str(args.tensor)]
    if cli.main(["trace", "--config", str(config), "--out", str(traced), "--requests", "greedy", *sizes, *known]):
        return 1
    serve(args, config, [sys.executable, "-m", "flagkernels", "record", "--calls", str(calls), *known, "--"])
    found = trace.read(traced)
    part = -(-json.loads(config.read_text())["vocab_size"] // 64) * 64 // args.tensor
    devices = compared(found, recorded(calls), part)
    wrong = faults(devices, args.tensor)
    write_json(out / "devices.json", {"devices": [asdict(device) for device in devices], "faults": wrong})
    text = table(devices, wrong, f"{args.config.stem}, {args.layers} layers, tensor parallel {args.tensor}.")
    write_text(out / "devices.md", text)
    print(text, flush=True)
    if args.speed:
        serve(args, config, [])
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
