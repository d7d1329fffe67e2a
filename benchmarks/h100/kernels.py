"""Prove flagkernels on an H100, in two parts:

    python benchmarks/h100/kernels.py qualify --out DIR     every operator that Qwen3-8B uses, and the planted faults
    python benchmarks/h100/kernels.py speed --out DIR       ceilings, operators by shape class, express, attribution

`--execution` is how the engine runs the layers: compiled (the default), captured or eager. `speed` reads the output of
`qualify` in DIR. Needs torch, Triton, transformers and flag_gems; no weights, no network.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "pipeline"), str(HERE)]
os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path[:2], os.environ.get("PYTHONPATH", "")])

from flagkernels import cli  # noqa: E402
from flagkernels.files import write_json, write_text  # noqa: E402
from flagkernels.model import trace  # noqa: E402
from flagkernels.operators.inductor import EXECUTIONS  # noqa: E402
from flagkernels.qualify import qualify  # noqa: E402
from flagkernels.qualify.rows import Limits, Row, correct_operators, read_rows  # noqa: E402

CONFIG = HERE / "qwen3-8b.json"


def step(*words: object) -> float:
    """Run a flagkernels command; returns its seconds. A failure is reported and does not end the proof."""
    began = time.monotonic()
    print("$ flagkernels", *words, flush=True)
    code = cli.main([str(word) for word in words])
    spent = time.monotonic() - began
    print(f"  exit {code}, {spent:.1f} s", flush=True)
    return spent


def qualify_part(out: Path, seconds: float, width: int | None, execution: str) -> None:
    times = {}
    if not (out / "trace.json").exists():
        times["trace"] = step("trace", "--config", CONFIG, "--out", out / "trace.json", "--execution", execution)
    options = ["--seconds", seconds, *(["--width", width] if width else [])]
    times["qualify"] = step("qualify", "--trace", out / "trace.json", "--out", out / "verdicts.jsonl", *options)
    found = trace.read(out / "trace.json")
    # The faults are planted in `silu`, which a compiled model does not call.
    points = ("--points", "prefill:1x128,prefill:1x512,decode:4x128")
    step("trace", "--config", CONFIG, "--out", out / "written.json", "--execution", "captured", *points)
    written = trace.read(out / "written.json")
    import planted

    def one(fault: str) -> Row:
        limits = Limits(seconds=20.0, memory=8 << 30, width=8)
        file = out / f"planted-{fault.lower()}.jsonl"
        method = qualify.Method(source=f"planted:{fault}", real=3)
        return qualify.qualify(written, ["silu"], file, method=method, limits=limits)[0]

    began = time.monotonic()
    with ThreadPoolExecutor(len(planted.EXPECTED)) as pool:
        rows = [
            (f, expected, row)
            for (f, expected), row in zip(planted.EXPECTED.items(), pool.map(one, planted.EXPECTED), strict=True)
        ]
    times["planted"] = time.monotonic() - began
    write_json(out / "qualify-times.json", times)
    write_text(out / "qualify.md", _verdict_table(out, found, rows, times))


def _verdict_table(out: Path, found: trace.Trace, planted_rows: list, times: dict[str, float]) -> str:
    lines = ["| operator | verdict | cases passed | worst error / bound (native) | ‖error‖/‖exact‖ | s | reason |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in sorted(read_rows(out / "verdicts.jsonl").values(), key=lambda r: r.operator):
        error = "–" if row.error is None else f"{row.error:.3g} ({row.native or 0:.3g})"
        relative = "–" if row.relative is None else f"{row.relative:.2e}"
        why = f"{row.reason} — {row.at}".replace("|", "/") if row.verdict != "correct" else ""
        cells = [row.operator, row.verdict, f"{row.passed}/{row.cases}", error, relative, f"{row.seconds:.1f}", why]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| planted fault | expected | verdict | s | reason |", "|---|---|---|---|---|"]
    for fault, expected, row in planted_rows:
        lines.append(
            f"| {fault.lower()} | {expected} | {row.verdict} | {row.seconds:.1f} | {row.reason.replace('|', '/')} |"
        )
    lines += [
        "",
        "times, s: " + ", ".join(f"{name} {spent:.1f}" for name, spent in times.items()),
        f"versions: {found.versions}",
    ]
    return "\n".join(lines) + "\n"


def speed_part(out: Path, given: Path, layers: int | None, per_operator: int, operators: str | None) -> None:
    """Run tune → bench → select → attribute by their command lines, on the correct operators."""
    names = operators or ",".join(
        correct_operators(given / "verdicts.jsonl", trace.read(given / "trace.json").operators)
    )
    traced, tuned = f"--trace {given}/trace.json", f"--tuned {out}/tuned"
    correct = f"{traced} --verdicts {given}/verdicts.jsonl"
    model = f"--config {CONFIG}"
    cut = f"--layers {layers}" if layers else ""
    commands = {
        "tune": f"{traced} --operators {names} --out {out}/tuned",
        "bench": f"{correct} --operators {names} {tuned} --out {out}/figures.jsonl --ceilings {out}/ceilings.json"
        f" --per-operator {per_operator} --pairs 11",
        "coverage": f"{correct} --policy coverage {model} {cut} {tuned} --out {out}/coverage.yaml"
        f" --report {out}/coverage.json",
        "express": f"{correct} --policy express --figures {out}/figures.jsonl {model} {cut} {tuned}"
        f" --out {out}/operators.yaml --report {out}/express.json",
        "attribute": f"--operators {out}/coverage.yaml {model} --layers 4 {tuned} --out {out}/attribute.json",
    }
    times = {}
    for name, words in commands.items():
        times[name] = step("select" if name in {"coverage", "express"} else name, *words.split())
        write_json(out / "speed-times.json", times)
    print(json.dumps(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("qualify", "speed"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--given", type=Path, help="speed: output folder of the qualify part; default: --out")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--width", type=int)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--execution", default="compiled", choices=EXECUTIONS)
    parser.add_argument("--per-operator", type=int, default=12)
    parser.add_argument("--operators")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.part == "qualify":
        qualify_part(args.out, args.seconds, args.width, args.execution)
    else:
        speed_part(args.out, args.given or args.out, args.layers, args.per_operator, args.operators)


if __name__ == "__main__":
    main()
