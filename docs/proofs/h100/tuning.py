"""Tuning on a real chip: flagkernels beside FlagGems' own LibTuner, and a start with the bundle beside one without.

    PYTHONPATH=pipeline python docs/proofs/h100/tuning.py all --out RESULTS

Needs torch, Triton, transformers, flag_gems 5.0.2 and sqlalchemy 2.0.48 on a machine with one chip and no network.
Every part runs in a process of its own, since FlagGems binds its database at import.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
WEIGHTS = ((6144, 4096), (4096, 4096), (24576, 4096), (4096, 12288))
ROWS = tuple(1 << power for power in range(14))
QWEN3_8B = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288,
    "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
    "max_position_embeddings": 40960, "rms_norm_eps": 1e-06, "rope_theta": 1000000, "hidden_act": "silu",
    "tie_word_embeddings": False, "attention_bias": False, "torch_dtype": "bfloat16", "use_cache": True,
}  # fmt: skip
# operators.md: one by one, these ran right on this chip; `mul` and `cat` did not.
RIGHT = "add mean_dim rsqrt neg silu pow_tensor_scalar cos sin argmax remainder embedding arange full stack mm".split()  # noqa: SIM905


def part(*words: str, environment: dict[str, str] | None = None, **named: str | Path) -> dict[str, Any]:
    """One part of this script in a process of its own; its last line of output is its result."""
    argv = [sys.executable, str(HERE), *words]
    for name, value in named.items():
        argv += [f"--{name}", str(value)]
    return run(argv, environment)


def run(argv: list[str], environment: dict[str, str] | None = None) -> dict[str, Any]:
    began = time.monotonic()
    around = {**os.environ, **(environment or {})}
    done = subprocess.run(argv, env=around, stdout=subprocess.PIPE, text=True, check=False)
    wall = time.monotonic() - began
    lines = done.stdout.strip().splitlines()
    result = json.loads(lines[-1]) if done.returncode == 0 and lines and lines[-1].startswith("{") else {}
    print(f"[{wall:7.1f} s] {' '.join(argv[1:])[-150:]} -> {done.returncode}", flush=True)
    return {**result, "wall_s": wall, "code": done.returncode}


def places(folder: Path) -> dict[str, str]:
    return {"FLAGGEMS_CACHE_DIR": str(folder / "flaggems"), "TRITON_CACHE_DIR": str(folder / "triton-cache")}


def products() -> list[tuple[int, int, int]]:
    return [(m, n, k) for n, k in WEIGHTS for m in ROWS]


def write_trace(path: Path) -> None:
    """The 56 products as a trace; b is a transposed weight, as nn.Linear hands it over."""
    from flagkernels.model.trace import FORMAT

    calls = []
    for m, n, k in products():
        a = {"shape": [m, k], "stride": [k, 1], "dtype": "bfloat16"}
        b = {"shape": [k, n], "stride": [1, k], "dtype": "bfloat16"}
        calls.append({"operator": "mm", "overload": "mm", "args": [{"tensor": a}, {"tensor": b}], "counts": [1]})
    head = {"format": FORMAT, "model": "qwen3-8b mm", "config_sha256": "", "view": "engine", "dtype": "bfloat16"}
    points = [{"phase": "decode", "batch": 1, "length": 1}]
    rest = {"execution": "eager", "layers": 1, "device": "meta", "versions": {}, "points": points, "static": []}
    path.write_text(json.dumps({**head, **rest, "calls": calls, "native_only": {}}))


def tensors(m: int, n: int, k: int) -> tuple[Any, Any]:
    import torch

    a = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
    return a, torch.randn(n, k, device="cuda", dtype=torch.bfloat16).t()


def libtuner(_: argparse.Namespace) -> dict[str, Any]:
    """FlagGems as it is: every product once, in rising order of M as an engine's warm-up calls them."""
    import flag_gems
    import torch

    torch.zeros(1, device="cuda")
    began = time.monotonic()
    shares = {}
    for n, k in WEIGHTS:
        for m in ROWS:
            start = time.monotonic()
            flag_gems.mm(*tensors(m, n, k))
            torch.cuda.synchronize()
            shares[f"{m}x{n}x{k}"] = time.monotonic() - start
    return {"seconds": time.monotonic() - began, "calls": shares}


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Both choices of every product, replayed in turns, beside torch's own product."""
    import flag_gems
    import torch

    from flagkernels.operators import flaggems
    from flagkernels.tuning.capture import key_of, patched
    from flagkernels.tuning.key import launcher_of
    from flagkernels.tuning.timer import ChipTimer, quantiles

    library = flaggems.load()
    theirs = their_choices(args, library.model)
    timer = ChipTimer(torch.cuda, "cuda")
    bandwidth, rate = ceilings(timer)
    rows: list[dict[str, Any]] = []
    original = library.tuner_class.run

    def tuner_run(tuner: Any, *a: Any, **kwargs: Any) -> Any:
        if len(tuner.configs) > 1:
            key = key_of(tuner, a, kwargs)
            tuner.nargs = dict(zip(tuner.arg_names, a, strict=False))
            configs = {str(c): c for c in tuner.configs}
            names = [str(library.model.get_config(tuner.config_table_name, key)), theirs(tuner.config_table_name, key)]
            calls = [launcher_of(tuner, configs[name], a, kwargs) for name in dict.fromkeys(names)]
            rows.append({"key": key, "ours": names[0], "theirs": names[1], "launch": calls})
        return original(tuner, *a, **kwargs)

    with patched(library.tuner_class, "run", tuner_run), patched(library.entry_class, "run", _bypass):
        for m, n, k in products():
            a, b = tensors(m, n, k)
            exact = a.float() @ b.float()
            got = flag_gems.mm(a, b).float()
            row = rows[-1]
            calls = [*row.pop("launch"), lambda a=a, b=b: torch.mm(a, b)]
            *ours, native = [quantiles(times)[0] for times in timer.replay(calls, 31)]
            floor = max((m * k + k * n + m * n) * 2 / bandwidth, 2 * m * n * k / rate) * 1e3
            row |= {"m": m, "n": n, "k": k, "ours_ms": ours[0], "theirs_ms": ours[-1], "torch_ms": native}
            row["floor_ms"] = floor
            row["error"] = float((got - exact).norm() / exact.norm())
    ratios = [row["ours_ms"] / row["theirs_ms"] for row in rows]
    return {
        "rows": rows,
        "bandwidth_tb_s": bandwidth / 1e12,
        "rate_tflop_s": rate / 1e12,
        "worst_ratio": max(ratios),
        "median_ratio": statistics.median(ratios),
        "within_2_percent": sum(ratio <= 1.02 for ratio in ratios),
        "same_choice": sum(row["ours"] == row["theirs"] for row in rows),
    }


def their_choices(args: argparse.Namespace, model: Any) -> Any:
    """(table, key) → LibTuner's choice, from its database or from the results of an earlier run."""
    from flagkernels.tuning import database

    if args.theirs.is_dir():
        stored = type(model)(database.url(next((args.theirs / "flaggems/config_cache").glob("*.db"))))
        return lambda table, key: str(stored.get_config(table, key))
    told = json.loads(args.theirs.read_text())["compared"]["rows"]
    chosen = {(max(32, row["m"]), row["n"], row["k"]): row["theirs"] for row in told}
    return lambda _, key: chosen[key[:3]]


def _bypass(entry: Any, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    return entry.fn.run(*args, **kwargs), {}


def ceilings(timer: Any) -> tuple[float, float]:
    """Bytes/s of a large copy (read and written) and operations/s of an 8192³ product, both of this chip now."""
    import torch

    source = torch.randn(1 << 30, device="cuda", dtype=torch.bfloat16)
    target = torch.empty_like(source)
    a, b = torch.randn(2, 8192, 8192, device="cuda", dtype=torch.bfloat16)
    calls = [lambda: target.copy_(source), lambda: torch.neg(source, out=target), lambda: a @ b]
    copy, negate, product = (min(times) / 1e3 for times in timer.replay(calls, 11))
    return 2 * source.numel() * 2 / min(copy, negate), 2 * 8192**3 / product


def first_token(args: argparse.Namespace) -> dict[str, Any]:
    """A Qwen3-8B of random weights: seconds from the start of Python, and of the first forwards. Events are counted
    here without a bundle; with one, the process's own file tells them."""
    import torch

    spent = {"import torch": since_start()}
    events: dict[str, int] = {}
    torch.zeros(1, device="cuda")  # under `flagkernels run` the bundle comes into effect here
    if args.operators:
        count(events)
        import flag_gems

        flag_gems.only_enable(include=args.operators.split(","))
    spent["operators on"] = since_start()
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    torch.manual_seed(0)
    config = AutoConfig.for_model(**QWEN3_8B)
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        with no_init_weights():
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
        for parameter in model.parameters():
            parameter.data.normal_(0, 0.02)
    torch.cuda.synchronize()
    spent["model built"] = since_start()
    ids = torch.randint(0, 150000, (1, 512), device="cuda")
    with torch.no_grad():
        out = model(input_ids=ids, use_cache=True)
        token = out.logits[:, -1].float().argmax(-1, keepdim=True)
        torch.cuda.synchronize()
        spent["first token"] = since_start()
        out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
        torch.cuda.synchronize()
        spent["second token"] = since_start()
    finite = bool(torch.isfinite(out.logits).all())
    first, both = spent["first token"] - spent["model built"], spent["second token"] - spent["model built"]
    return {"spent_s": spent, "first_forward_s": first, "first_two_s": both, "finite": finite, **events}


def count(events: dict[str, int]) -> None:
    from triton import knobs
    from triton.runtime.autotuner import Autotuner

    events.update(timed=0, compiled=0)
    original = Autotuner._bench

    def bench(tuner: Any, *args: Any, **kwargs: Any) -> Any:
        events["timed"] += 1
        return original(tuner, *args, **kwargs)

    def listener(**event: Any) -> None:
        events["compiled"] += not event["cache_hit"]

    Autotuner._bench = bench  # type: ignore[method-assign]
    knobs.compilation.listener = listener


def since_start() -> float:
    """Seconds since this process was started, Python's own start included."""
    fields = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def everything(args: argparse.Namespace) -> dict[str, Any]:
    out, work = args.out, args.work
    shutil.rmtree(work, ignore_errors=True)
    for folder in (out, work):
        folder.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"machine": machine()}

    def keep(name: str, value: dict[str, Any]) -> dict[str, Any]:
        result[name] = value
        (out / "tuning.json").write_text(json.dumps(result, indent=1))
        return value

    kernels = [sys.executable, "-m", "flagkernels"]
    if "start" not in args.only:
        write_trace(work / "mm.json")
        ours = run([*kernels, "tune", "--trace", str(work / "mm.json"), "--out", str(work / "ours")])
        keep("ours", ours | report(work / "ours/tune.json"))
        if ours["code"]:
            raise SystemExit("flagkernels tune failed: nothing to compare")
    if "mm" not in args.only:
        operators, warm = bundled_starts(work, kernels)
        keep("with_bundle", warm)
        if warm["starts"][0]["code"]:
            raise SystemExit("the start with the bundle failed: nothing to compare")
    if "start" not in args.only:
        if args.theirs is None:
            keep("libtuner", part("libtuner", environment=places(work / "theirs")))
        theirs = args.theirs or work / "theirs"
        keep("compared", part("compare", environment=places(work / "ours"), theirs=theirs))
    if "mm" not in args.only:
        for found in bare_starts(work, operators):
            keep("without", found)
    summary(result)
    return {}


def report(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    told = json.loads(path.read_text())
    keys = ("seconds", "compiled", "reused", "missing", "untunable", "failed", "tuning_events", "tuned")
    return {name: told[name] for name in keys}


def bundled_starts(work: Path, kernels: list[str]) -> tuple[list[str], dict[str, Any]]:
    """trace, tune and bundle the model's operators, then start it twice: with a new overlay, and with that one."""
    (work / "config.json").write_text(json.dumps(QWEN3_8B))
    trace, tuned, bundle = work / "trace.json", work / "model", work / "bundle"
    where = ["--config", str(work / "config.json"), "--out", str(trace), "--view", "module"]
    run([*kernels, "trace", *where, "--execution", "eager", "--points", "prefill:1x512,decode:1x512"])
    used = json.loads(trace.read_text())
    operators = sorted({call["operator"] for call in used["calls"]} & set(RIGHT))
    tune = run([*kernels, "tune", "--trace", str(trace), "--out", str(tuned), "--operators", ",".join(operators)])
    chosen = work / "operators.yaml"
    chosen.write_text(json.dumps({"include": operators, "policy": "coverage"}))
    bundled = run([*kernels, "bundle", "--tuned", str(tuned), "--operators", str(chosen), "--out", str(bundle)])
    engine = [sys.executable, str(HERE), "first_token"]
    warm, told = [], []
    for effective in (work / "effective-1", work / "effective-2"):  # a start clears what an earlier one reported
        argv = [*kernels, "run", "--bundle", str(bundle), "--effective", str(effective), "--", *engine]
        warm.append(run(argv, {"FLAGKERNELS_CACHE": str(work / "cache")}))
        told += [json.loads(file.read_text()) for file in sorted(effective.glob("*.json"))]
    files = [file for file in bundle.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    return operators, {
        "operators": operators,
        "tune": tune | report(tuned / "tune.json"),
        "bundle": bundled | {"bytes": size, "files": len(files)},
        "starts": warm,
        "effective": told,
    }


def bare_starts(work: Path, operators: list[str]) -> Iterator[dict[str, Any]]:
    """The same operators with empty caches, then with what that start left; and the vendor's own. After each of them,
    what is there so far."""
    engine = [sys.executable, str(HERE), "first_token"]
    on = ["--operators", ",".join(operators)]
    found: dict[str, Any] = {}
    for name, words in (("cold", on), ("kept", on), ("native", [])):
        found[name] = run([*engine, *words], places(work / "cold"))
        yield found


def machine() -> dict[str, Any]:
    import torch
    import triton

    argv = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    smi = subprocess.run(argv, capture_output=True, text=True, check=False)
    cores = len(os.sched_getaffinity(0))
    return {"chip": smi.stdout.strip(), "cores": cores, "torch": torch.__version__, "triton": triton.__version__}


def summary(result: dict[str, Any]) -> None:
    ours, theirs, compared = (result.get(name, {}) for name in ("ours", "libtuner", "compared"))
    print("tuning s: ours", ours.get("seconds"), "wall", ours.get("wall_s"), "| LibTuner", theirs.get("seconds"))
    for row in compared.get("rows", ()):
        times = "ours {ours_ms:.4f} theirs {theirs_ms:.4f} torch {torch_ms:.4f} floor {floor_ms:.4f} error {error:.5f}"
        differ = "" if row["ours"] == row["theirs"] else f"| {row['ours']} <> {row['theirs']}"
        print("{m:5} {n:6} {k:6}".format(**row), times.format(**row), differ)
    print({name: compared.get(name) for name in ("worst_ratio", "median_ratio", "within_2_percent", "same_choice")})
    for name in ("with_bundle", "without"):
        print(name, json.dumps(result.get(name))[:4500])


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=("all", "libtuner", "compare", "first_token"))
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "flagkernels-proof")
    parser.add_argument("--theirs", type=Path, help="results of an earlier run: its LibTuner choices are compared with")
    parser.add_argument("--operators")
    parser.add_argument("--only", nargs="*", default=[], choices=("mm", "start"))
    args = parser.parse_args()
    parts = {"all": everything, "libtuner": libtuner, "compare": compare, "first_token": first_token}
    result = parts[args.part](args)
    if result:
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
