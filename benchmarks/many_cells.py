"""Time and memory of `flagrelease plan` for a large matrix, all of whose cells are locked.

    .venv/bin/python benchmarks/many_cells.py [CHIPS] [MODELS]

The chips and models are those of matrix.yaml, repeated under other names. It prints what a loop of 30 million rounds
takes on this machine besides, since a busy machine takes several times as long.
"""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from flagrelease.config import lockfile as locks
from flagrelease.config import matrix as matrices
from flagrelease.config.cell import expand
from flagrelease.config.lockfile import Lock, LockedChip, LockedFile, LockedModel, LockedWheels, set_digest
from flagrelease.config.matrix import Matrix
from flagrelease.packaging.requirements import wanted

ROOT = Path(__file__).parents[1]
FILES = tuple(LockedFile(path=name, size=1, sha256="0" * 64) for name in ("config.json", "model.safetensors"))


def matrix(chips: int, models: int) -> str:
    """The text of a matrix with so many of both, and a profile whose questions need no data folder."""
    text = (ROOT / "matrix.yaml").read_text().replace("  profile: full\n", "  profile: embedded\n", 1)
    start, end = text.index("\n  qwen3-8b:\n") + 1, text.index("\n# data://")
    model = re.sub(r"    per_chip:\n(?:      .*\n)+", "", text[start:end])
    names = [f"model-{number}" for number in range(models - 2)]
    more = "".join(model.replace("qwen3-8b:", f"{name}:").replace("Qwen3-8B\n", f"{name}\n") for name in names)
    text = f"{text[:end]}\n{more.rstrip()}\n{text[end:]}"
    chip = text[text.index("\n  ascend:\n") + 1 : text.index("\n  cambricon:\n") + 1]
    here = len(matrices.load(ROOT / "matrix.yaml").chips)
    copies = "".join(chip.replace("  ascend:", f"  ascend-{number}:", 1) for number in range(chips - here))
    return text.replace("\nmodels:\n", f"\n{copies}models:\n", 1)


def lock(made: Matrix) -> Lock:
    """A lock of everything in the matrix."""
    cells = [cell for cell in expand(made) if not cell.excluded]
    digest = set_digest(FILES)
    return Lock(
        models={
            name: LockedModel(source=model.source, revision="1", files=FILES, digest=digest)
            for name, model in made.models.items()
        },
        chips={name: LockedChip(base=chip.base, digest=f"sha256:{'1' * 64}") for name, chip in made.chips.items()},
        wheels={
            cell.wheels_entry: LockedWheels(inputs=wanted(cell), requirements=("one==1 --hash=sha256:" + "2" * 64,))
            for cell in cells
        },
    )


def main() -> None:
    chips, models = (int(argument) for argument in (*sys.argv[1:], "20", "200")[:2])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "matrix.yaml"
        path.write_text(matrix(chips, models))
        locks.save(path.with_suffix(".lock"), lock(matrices.load(path)))
        argv = [sys.executable, "-c", "import sys; from flagrelease.cli.app import main; sys.exit(main())"]
        for _ in range(2):  # the first run fills the cache of the code's analysis
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
            plan = [*argv, "plan", "--matrix", str(path)]
            done = subprocess.run(plan, capture_output=True, text=True, check=False)
            seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    count = next(line for line in done.stdout.splitlines() if " cells: " in line)
    print(f"{count}; {seconds:.1f} s, {cpu:.1f} s of processor time, at most {after.ru_maxrss / 1024:.0f} MB")
    start = time.process_time()
    for _ in range(30_000_000):
        pass
    print(f"a loop of 30 million rounds takes {time.process_time() - start:.1f} s of processor time")


if __name__ == "__main__":
    main()
