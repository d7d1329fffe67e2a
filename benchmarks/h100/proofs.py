"""Run all proofs of this folder in sequence, on a chip's host prepared by `host.py unpack`:

    python3 benchmarks/h100/proofs.py --place PLACE --out RESULTS        # --only cell tune …, --minutes 20 for the cell

Run it with the chip's Python. A proof that fails does not end the others. RESULTS/NAME.log has the output of each,
RESULTS/NAME/ its files, RESULTS/proofs.json its command, exit code and seconds. `engine`, `engine-small` and `record`
serve the bundles made by `tune` and `cell`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BIG, SMALL = HERE / "qwen3-8b.json", HERE / "smollm2-135m.json"
FLAGRELEASE = "import sys\nfrom flagrelease.cli.app import main\nsys.exit(main())"
RELEASING = ("cell", "tune")
"""Proofs that run flagrelease in its own environment, and install FlagGems themselves."""


class Missing(Exception):
    """A file from an earlier proof is missing."""


def commands(place: Path, out: Path, minutes: float) -> dict[str, Callable[[], list[object]]]:
    """Functions that make the command of each proof, in the order in which they run."""
    own, workspace = place / "env/bin/python", place / "workspace"
    tune = ("tune", "--chip", "nvidia-h100", "--model", "qwen3-8b", "--config", BIG, "--runner", "process")

    def program(name: str, *words: object) -> list[object]:
        return [sys.executable, HERE / name, *words]

    def served(cell: str, *words: object) -> list[object]:
        return program("engine.py", "pairs", "--bundle", newest(workspace / "kernels" / cell, "compat.json"), *words)

    def recorded() -> list[object]:
        trace = newest(workspace / "work" / "nvidia-h100--smollm2-135m", "trace.json") / "trace.json"
        record = (sys.executable, "-m", "flagkernels", "record", "--calls", out / "record", "--trace", trace)
        return [*record, "--", *program("engine.py", "serve", "--config", SMALL)]

    return {
        "drawn": lambda: program("drawn.py", "--out", out / "drawn"),
        "cell": lambda: [
            *(own, HERE / "cell.py", "--workspace", workspace, "--data", place / "data"),
            *("--out", out / "cell", "--minutes", minutes),
        ],
        "tune": lambda: [own, "-c", FLAGRELEASE, *tune, "--budget", "1m", "--workspace", workspace],
        "engine": lambda: served("nvidia-h100--qwen3-8b.config", "--out", out / "engine"),
        "engine-small": lambda: served("nvidia-h100--smollm2-135m", "--config", SMALL, "--out", out / "engine-small"),
        "record": recorded,
        "attribute": lambda: program("attribute.py", "--out", out / "attribute"),
        "start": lambda: [
            *(sys.executable, ROOT / "docs/proofs/h100/tuning.py", "all", "--only", "start", "--out", out / "start")
        ],
    }


def newest(folder: Path, name: str) -> Path:
    """The folder of the newest file of this name. Raises Missing if there is none."""
    files = sorted(folder.rglob(name), key=lambda path: path.stat().st_mtime)
    if not files:
        raise Missing(f"no {name} in {folder}")
    return files[-1].parent


def environment(place: Path, name: str) -> dict[str, str]:
    """The environment of a proof. FlagGems is kept outside the chip's Python, which flagrelease expects unmodified."""
    path = [ROOT / "pipeline", *([] if name in RELEASING else [place / "gems"])]
    settings = {"FLAGRELEASE_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"}
    return {**os.environ, **settings, "PYTHONPATH": os.pathsep.join(map(str, path))}


def unpack_flaggems(place: Path) -> None:
    """Install FlagGems' wheel. Raises CalledProcessError if pip fails, Missing if the workspace has no wheel."""
    wheels = newest(place / "workspace/wheels", "flag_gems-*.whl").glob("flag_gems-*.whl")
    install = ("install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--upgrade", "--target")
    subprocess.run([sys.executable, "-m", "pip", *install, place / "gems", *wheels], check=True)


def prove(name: str, command: Callable[[], list[object]], place: Path, out: Path) -> dict[str, object]:
    began = time.monotonic()
    try:
        argv = [str(word) for word in command()]
    except Missing as error:
        return {"command": "", "code": None, "seconds": 0.0, "why": str(error)}
    batches = "1\n8\n32\n" if name == "record" else ""
    with (out / f"{name}.log").open("w") as log:
        done = subprocess.run(
            argv, cwd=ROOT, env=environment(place, name), input=batches, text=True, stdout=log, stderr=log, check=False
        )
    return {"command": " ".join(argv), "code": done.returncode, "seconds": round(time.monotonic() - began, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path, required=True, metavar="DIR", help="folder made by `host.py unpack`")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--minutes", type=float, default=60.0, help="time limit of the cell")
    parser.add_argument("--only", nargs="+", metavar="PROOF", help="run only these proofs, in this order")
    args = parser.parse_args()
    place, out = args.place.resolve(), args.out.resolve()
    known = commands(place, out, args.minutes)
    names = args.only or list(known)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown proof: {', '.join(unknown)}; choose from {', '.join(known)}")
    out.mkdir(parents=True, exist_ok=True)
    unpack_flaggems(place)
    results: dict[str, dict[str, object]] = {}
    for name in names:
        print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
        results[name] = prove(name, known[name], place, out)
        print(f"  {results[name]}", flush=True)
        (out / "proofs.json").write_text(json.dumps(results, indent=1) + "\n")
    return 0 if all(result["code"] == 0 for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
