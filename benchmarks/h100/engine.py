"""Compare vLLM with a bundle against vLLM without it, on one chip: complete requests with random weights, in pairs.

    python benchmarks/h100/engine.py pairs --bundle BUNDLE --out RESULTS        # --config, --rounds, --batches
    python benchmarks/h100/engine.py pairs --out RESULTS                        # vLLM against itself: the noise
    python -m flagkernels record --calls CALLS --trace TRACE -- python benchmarks/h100/engine.py serve

Both engines are on the chip at once and serve in turns, so that slow phases of the machine affect both. A turn is a
batch of requests of 512 tokens with answers of 128. In RESULTS: engine.json and engine.md. `serve` runs one engine,
which serves a batch of each size that it reads. No network and no weights are needed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "pipeline"), str(HERE)]
os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], os.environ.get("PYTHONPATH", "")])

from cell import environment  # noqa: E402

from flagkernels.engine.activate import Effective, effective  # noqa: E402
from flagkernels.engine.process_file import WRITE_EVERY_S, files_of  # noqa: E402
from flagkernels.files import read_json, write_json, write_text  # noqa: E402
from flagkernels.measure.timing import Ratio, ratio  # noqa: E402

PROMPT, ANSWER = 512, 128
LONGEST, MOST = 2048, 64
"""The limits of the engine: tokens of a request, and requests at once."""
MARK = "engine.py answers "
"""Prefix of the lines for the parent process, among the engine's other output."""


def serve(args: argparse.Namespace) -> None:
    """Run one engine. For each batch size read from stdin, print the seconds of that batch."""
    os.environ.update({"VLLM_WORKER_MULTIPROC_METHOD": "spawn", **environment()})
    import vllm  # type: ignore[import-not-found,unused-ignore]

    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(args.config, Path(folder) / "config.json")
        # A fixed cache size instead of all free memory, since two engines start on one chip.
        limits = {"max_model_len": LONGEST, "max_num_seqs": MOST, "kv_cache_memory_bytes": args.cache << 30}
        engine = vllm.LLM(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            enable_prefix_caching=False,
            gpu_memory_utilization=0.4,
            seed=0,
            tensor_parallel_size=args.tensor,
            **limits,
        )
        greedy = vllm.SamplingParams(temperature=0, max_tokens=ANSWER, ignore_eos=True, detokenize=False)
        print(MARK, json.dumps({"vllm": vllm.__version__}), flush=True)
        for line in sys.stdin:
            prompts = [{"prompt_token_ids": list(range(row, row + PROMPT))} for row in range(int(line))]
            began = time.perf_counter()
            answers = engine.generate(prompts, greedy, use_tqdm=False)
            seconds = time.perf_counter() - began
            tokens = sum(len(answer.outputs[0].token_ids) for answer in answers)
            print(MARK, json.dumps({"seconds": seconds, "tokens": tokens}), flush=True)


class Engine:
    """`serve` in a separate process. Raises RuntimeError if it ends before it answers."""

    def __init__(self, name: str, before: list[str], args: argparse.Namespace) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), "serve", "--config", str(args.config)]
        argv = [*before, *command, "--cache", str(args.cache), "--tensor", str(args.tensor)]
        self.name = name
        self.log = (args.out / f"{name}.log").open("w")
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=self.log, text=True)
        self.began = time.monotonic()

    def ready(self) -> tuple[str, float]:
        """vLLM's version, and the seconds until it was ready."""
        return str(self.answer()["vllm"]), round(time.monotonic() - self.began, 1)

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(MARK):
                return dict(json.loads(line.removeprefix(MARK)))
            self.log.write(line)
        raise RuntimeError(f"the {self.name} engine ended with {self.process.wait()}; see {self.log.name}")

    def times(self, batch: int) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{batch}\n")
        self.process.stdin.flush()
        answer = self.answer()
        assert answer["tokens"] == batch * ANSWER, f"{self.name} answered {answer['tokens']} tokens"
        return float(answer["seconds"])

    def close(self) -> None:
        """Close its input. Raises TimeoutExpired if it does not end."""
        self.process.communicate(timeout=60)
        self.log.close()


def pairs(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    folder = args.out / "effective"
    bundle = ("--bundle", str(args.bundle), "--effective", str(folder))
    run = [sys.executable, "-m", "flagkernels", "run", *bundle, "--"]
    engines = [Engine("native", [], args)]
    engines.append(Engine("flagos", run, args) if args.bundle else Engine("native again", [], args))
    ready = {engine.name: engine.ready() for engine in engines}
    time.sleep(2 * WRITE_EVERY_S)  # until the calls of the warm-up are reported
    before = in_effect(folder)
    times: dict[int, tuple[list[float], list[float]]] = {batch: ([], []) for batch in args.batches}
    for number in range(args.rounds + 1):
        for batch, kept in times.items():
            for side in (0, 1) if number % 2 else (1, 0):
                spent = engines[side].times(batch)
                if number:  # the first round warms up
                    kept[side].append(spent)
        if number:
            write_json(args.out / "engine.json", result(args, ready, times, before))
    time.sleep(2 * WRITE_EVERY_S)  # an engine's processes end without a final report
    for engine in engines:
        engine.close()
    write_json(args.out / "engine.json", result(args, ready, times, before))
    text = table(read_json(args.out / "engine.json"))
    write_text(args.out / "engine.md", text)
    print(text)


def in_effect(folder: Path) -> Effective | None:
    """The status that the engine with the bundle reported; None if there is no bundle."""
    return effective(folder) if files_of(folder) else None


def called(before: Effective, after: Effective) -> list[str]:
    """The operators called by requests, excluding the warm-up."""
    return [name for name, count in after.called.items() if count > before.called.get(name, 0)]


def result(
    args: argparse.Namespace,
    ready: dict[str, tuple[str, float]],
    times: dict[int, tuple[list[float], list[float]]],
    before: Effective | None,
) -> dict[str, Any]:
    import torch

    found = in_effect(args.out / "effective")
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "vllm": ready["native"][0],
        "model": args.config.stem,
        "ready_s": {name: seconds for name, (_, seconds) in ready.items()},
        "operators": found.operators if found else (),
        "called": called(before, found) if before and found else [],
        "captured": found.captured if found else (),
        "tuning_events": found.tuning_events if found else 0,
        "seconds": {batch: dict(zip(ready, kept, strict=True)) for batch, kept in times.items()},
        "ratios": {batch: asdict(ratio(*kept)) for batch, kept in times.items()},
    }


def table(data: dict[str, Any]) -> str:
    names = list(data["ready_s"])
    requests = f"{data['model']} with random weights; requests of {PROMPT} tokens, answers of {ANSWER}."
    by = {name: ", ".join(data[name]) or "none" for name in ("operators", "called", "captured")}
    effect = f"In effect: {by['operators']}. Requests called: {by['called']}; in graphs: {by['captured']}."
    lines = [
        f"{data['device']}, vLLM {data['vllm']}, {requests}",
        f"{effect} Tuning events: {data['tuning_events']}.",
        "",
        f"| requests at once | {names[0]}, tokens/s | {names[1]}, tokens/s | ratio of speed | pairs |",
        "|---|---|---|---|---|",
    ]
    for batch, kept in data["seconds"].items():
        best = [int(batch) * ANSWER / sorted(kept[name])[len(kept[name]) // 2] for name in names]
        found = data["ratios"][batch]
        lines.append(f"| {batch} | {best[0]:,.0f} | {best[1]:,.0f} | {Ratio(**found)} | {found['pairs']} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("pairs", "serve"))
    parser.add_argument("--bundle", type=Path, help="pairs: bundle from `flagrelease tune` or `prepare`")
    parser.add_argument("--out", type=Path, help="pairs: output folder")
    parser.add_argument("--config", type=Path, default=HERE / "qwen3-8b.json")
    parser.add_argument("--cache", type=int, default=4, metavar="GIB", help="size of each engine's KV cache")
    parser.add_argument("--tensor", type=int, default=1, metavar="N", help="devices of each engine (tensor parallel)")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--batches", type=lambda text: [int(size) for size in text.split(",")], default=[1, 8, 32])
    args = parser.parse_args()
    if args.part == "serve":
        serve(args)
    elif args.out is None:
        parser.error("pairs needs --out")
    else:
        pairs(args)


if __name__ == "__main__":
    main()
