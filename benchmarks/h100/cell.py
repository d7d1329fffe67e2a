"""Release a cell on a chip's host without Docker, and collect the results in one folder:

    python benchmarks/h100/cell.py --data DIR --out DIR        # --cell nvidia-h100/smollm2-135m, --minutes 9

It serves the host's vLLM, so run it inside the chip's base image, with a Python that also has flagrelease's
dependencies. A run ended by --minutes resumes when it is run again. The data folder contains `manifest.json`
(docs/evaluation.md).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "import sys\nfrom flagrelease.cli.app import main\nsys.exit(main())"
LEFT = ("weights", "wheels", "images", "processes", "data", "drafts", "kernels")
SCRATCH = ("accuracy", "speed")
"""Stages whose unfinished work is collected: the answers and rounds from which a stopped run resumes."""
LARGEST = 15_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", default="nvidia-h100/smollm2-135m", metavar="CHIP/MODEL")
    parser.add_argument("--workspace", type=Path, default=ROOT / ".flagrelease", metavar="DIR")
    parser.add_argument("--matrix", type=Path, default=ROOT / "matrix.yaml", metavar="FILE")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="benchmark data with its manifest")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--minutes", type=float, default=60.0, help="end the run after this time; run again to resume")
    arguments = parser.parse_args()
    for name in ("workspace", "matrix", "data", "out"):
        setattr(arguments, name, getattr(arguments, name).resolve())
    arguments.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    code = released(arguments, environment())
    print(f"cell: ended with {code} after {time.monotonic() - began:.0f} s", flush=True)
    gather(arguments.workspace, arguments.cell, arguments.out)
    return code


def environment() -> dict[str, str]:
    """This environment, with flashinfer's sampler disabled if flashinfer is not installed: vLLM would not start."""
    env = dict(os.environ)
    if importlib.util.find_spec("flashinfer") is None:
        env["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
    return env


def released(arguments: argparse.Namespace, env: dict[str, str]) -> int:
    """Run flagrelease, printing and recording its output. Returns its exit code."""
    options = ["run", arguments.cell, "--runner", "process", "--engine", "inline", "--matrix", arguments.matrix]
    options += ["--workspace", arguments.workspace, "--data-dir", arguments.data]
    argv = [sys.executable, "-c", PROGRAM, *map(str, options)]
    with (arguments.out / "run.log").open("ab") as log:
        run = subprocess.Popen(argv, cwd=ROOT / "pipeline", env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        signal.signal(signal.SIGALRM, lambda *_: run.send_signal(signal.SIGINT))
        signal.setitimer(signal.ITIMER_REAL, arguments.minutes * 60)
        assert run.stdout is not None
        for line in run.stdout:
            stamped = f"{time.strftime('%H:%M:%S')} ".encode() + line
            log.write(stamped)
            sys.stdout.buffer.write(stamped)
            sys.stdout.buffer.flush()
        signal.setitimer(signal.ITIMER_REAL, 0)
        return run.wait()


def gather(workspace: Path, cell: str, out: Path) -> None:
    """Copy the card with its charts and record, and pack the evidence and the ledger into an archive."""
    draft = workspace / "drafts" / cell
    for path in draft.iterdir() if draft.is_dir() else ():
        shutil.copyfile(path, out / path.name)
    with tarfile.open(out / "evidence.tar.xz", "w:xz") as tar:
        for path in sorted(workspace.rglob("*")):
            inside = path.relative_to(workspace)
            shown = inside.parts[0] != "work" or any(name in inside.parts[2:3] for name in SCRATCH)
            wanted = inside.parts[0] not in LEFT and shown
            if wanted and path.is_file() and path.stat().st_size <= LARGEST:
                tar.add(path, arcname=str(inside))


if __name__ == "__main__":
    sys.exit(main())
