"""Check that the accuracy stage of a release fails deliberately damaged copies of the chip `cpu`'s model.

    make release                                         # builds and pushes the image to serve
    python benchmarks/damaged_model.py [DATA --benchmark ifeval] [--margin 0.05] [--threads 2] [--work DIR]

The native stack serves the unchanged model. The flagos stack serves the same file, then copies with one layer scaled,
all blocks quantised further or another model's chat template, patched in place in the GGUF. The questions are those of
the cell, or of a benchmark whose data is in DATA, a data folder with its manifest. Prints a table; exits with 1 if a
damaged copy does not FAIL or the unchanged one does. Answers are kept in --work.
"""

from __future__ import annotations

import argparse
import re
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from flagrelease.config.matrix import Profile, Share
from flagrelease.contract import accuracy_results, results
from flagrelease.contract.context import Context, T
from flagrelease.contract.handles import Done, Finished
from flagrelease.contract.job import Job
from flagrelease.ports.meter import Meter
from flagrelease.ports.progress import Count
from flagrelease.run.project import Options, Project, open_project, real_ports
from flagrelease.serving.server import Served, ServeRequest, served
from flagrelease.serving.servers import Serve
from flagrelease.stages.accuracy.run import evaluate
from flagrelease.stages.accuracy.stage import STAGE
from flagrelease.store.evidence import EvidenceStore
from flagrelease.store.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent
CELL = "cpu/smollm2-135m"
Q4_1, Q4_1_BYTES, Q4_1_WEIGHTS = 3, 20, 32
Blocks = NDArray[np.uint8]


@dataclass(frozen=True)
class Tensor:
    """A tensor of a GGUF file."""

    name: str
    kind: int
    """GGML type number."""
    start: int
    """Offset of its first byte in the file."""
    weights: int
    """Number of weights."""


def tensors(path: Path) -> list[Tensor]:
    """The tensor table of a GGUF file, version 3 (github.com/ggml-org/ggml, docs/gguf.md)."""
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise SystemExit(f"{path} is not a GGUF file")
        _version, count, keys = struct.unpack("<IQQ", file.read(20))
        alignment = 32
        for _ in range(keys):
            key, value = _text(file), _value(file, _number(file, "<I"))
            alignment = value if key == "general.alignment" else alignment
        table = []
        for _ in range(count):
            name = _text(file)
            sizes = [_number(file, "<Q") for _ in range(_number(file, "<I"))]
            table.append((name, int(np.prod(sizes)), _number(file, "<I"), _number(file, "<Q")))
        data = -(-file.tell() // alignment) * alignment
    return [Tensor(name, kind, data + offset, weights) for name, weights, kind, offset in table]


_FORMS = ("<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?", "", "", "<Q", "<q", "<d")
_TEXT, _LIST = 8, 9


def _number(file: BinaryIO, form: str) -> int:
    (value,) = struct.unpack(form, file.read(struct.calcsize(form)))
    return int(value)


def _text(file: BinaryIO) -> str:
    return file.read(_number(file, "<Q")).decode(errors="replace")


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _TEXT:
        return _text(file)
    if kind == _LIST:
        inner, count = _number(file, "<I"), _number(file, "<Q")
        return [_value(file, inner) for _ in range(count)]
    (value,) = struct.unpack(_FORMS[kind], file.read(struct.calcsize(_FORMS[kind])))
    return value


def scaled(factor: float) -> Callable[[Blocks], None]:
    """Scale all weights. A Q4_1 block is scale and minimum as float16 and 32 4-bit weights: scale·q + minimum."""

    def change(blocks: Blocks) -> None:
        ends = blocks[:, :4].copy().view(np.float16)
        blocks[:, :4] = (ends * np.float16(factor)).view(np.uint8)

    return change


def coarser(bits: int) -> Callable[[Blocks], None]:
    """Keep `bits` of each weight's four bits; the mean of the dropped bits is added to the minimum."""

    def change(blocks: Blocks) -> None:
        mask = 0b1111 & ~(2 ** (4 - bits) - 1)
        blocks[:, 4:] &= np.uint8(mask << 4 | mask)
        ends = blocks[:, :4].copy().view(np.float16)
        ends[:, 1] += ends[:, 0] * np.float16((2 ** (4 - bits) - 1) / 2)
        blocks[:, :4] = ends.view(np.uint8)

    return change


@dataclass(frozen=True)
class Damage:
    """A change of every Q4_1 tensor whose name starts with `prefix`."""

    name: str
    prefix: str
    change: Callable[[Blocks], None]

    def to(self, source: Path, target: Path) -> int:
        """Write a damaged copy. Returns the number of changed weights."""
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        data: NDArray[np.uint8] = np.memmap(target, np.uint8, "r+")
        changed = 0
        for tensor in tensors(source):
            if tensor.kind == Q4_1 and tensor.name.startswith(self.prefix):
                size = tensor.weights // Q4_1_WEIGHTS * Q4_1_BYTES
                self.change(data[tensor.start : tensor.start + size].reshape(-1, Q4_1_BYTES))
                changed += tensor.weights
        data.flush()  # type: ignore[attr-defined]
        return changed


TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '### Instruction:\\n' }}"
    "{% else %}{{ '### Response:\\n' }}{% endif %}{{ message['content'] + '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
)
"""Alpaca's chat template, which has none of the model's own tokens for roles and ends of turns."""


@dataclass(frozen=True)
class OtherTemplate:
    """Another chat template in the file's metadata."""

    name: str
    template: str = TEMPLATE

    def to(self, source: Path, target: Path) -> int:
        """Write a damaged copy. Returns the number of changed weights, 0."""
        target.parent.mkdir(parents=True, exist_ok=True)
        content = bytearray(source.read_bytes())
        key = b"tokenizer.chat_template"
        at = content.index(key) + len(key)
        kind, size = struct.unpack_from("<IQ", content, at)
        # A comment of the template language fills the rest, so that no offset in the file changes.
        filler = size - len(self.template) - len("{##}")
        if kind != _TEXT or filler < 0:
            raise SystemExit(f"{source} has no chat template of at least {len(self.template) + 4} bytes")
        start = at + struct.calcsize("<IQ")
        content[start : start + size] = f"{self.template}{{#{' ' * filler}#}}".encode()
        target.write_bytes(content)
        return 0


DAMAGES = (
    Damage("one layer of 30 scaled by 1.5", "blk.10.", scaled(1.5)),
    OtherTemplate("the chat template of another model"),
    Damage("all layers quantised to 3 bits", "blk.", coarser(3)),
)


class Plain:
    """Progress as plain lines, one per tenth."""

    def __init__(self, name: str) -> None:
        self._name, self._last = name, ""

    def doing(self, text: str, count: Count | None = None) -> None:
        tenth = f" {10 * count.done // max(count.total or 1, 1)}0 % of {count.total}" if count else ""
        line = f"{self._name}: {text.partition(', accuracy')[0]}{tenth}"
        if line != self._last and not text.startswith("waiting"):
            print(line, file=sys.stderr, flush=True)
            self._last = line

    def note(self, text: str) -> None:
        print(f"{self._name}: {text}", file=sys.stderr, flush=True)


def job_for(project: Project, wanted: argparse.Namespace) -> Job:
    job = project.job(next(one for one in project.cells if one.id == CELL))
    benchmark = replace(job.matrix.benchmarks[wanted.benchmark], margin=wanted.margin)
    matrix = replace(job.matrix, benchmarks={**job.matrix.benchmarks, wanted.benchmark: benchmark})
    # Without the token gate, which would fail the copies before a question is asked (benchmarks/token_gate.py).
    profile = Profile(benchmarks={wanted.benchmark: Share(limit=wanted.limit)}, gate_tokens=0)
    sampling = replace(job.cell.model.sampling, max_tokens=wanted.max_tokens)
    model = replace(job.cell.model, sampling=sampling)
    return replace(job, matrix=matrix, cell=replace(job.cell, profile=profile, model=model))


def with_threads(job: Job, image: results.Image, workspace: Workspace, threads: int) -> Job:
    """Run both stacks with `threads` threads, by mounting changed copies of the image's two settings files.

    On a busy machine, one thread is much faster than two that wait for each other.
    """
    runner, chip, folder = real_ports(workspace, job.registry).runner, job.cell.chip, workspace.root / "config"
    folder.mkdir(parents=True, exist_ok=True)
    mounts = list(chip.container.mounts)
    for name, before, after in (
        ("serve.yaml", "threads: 2", f"threads: {threads}"),
        ("manifest.json", r'("--threads",\s*)"2"', rf'\1"{threads}"'),
    ):
        text = runner.output(image.reference, ["cat", f"/etc/flagos/{name}"], {})
        text, changed = re.subn(before, after, text)
        if not changed:
            raise SystemExit(f"/etc/flagos/{name} of the image does not set two threads")
        (folder / name).write_text(text)
        mounts.append(f"{folder / name}:/etc/flagos/{name}:ro")
    container = replace(chip.container, mounts=tuple(mounts))
    return replace(job, cell=replace(job.cell, chip=replace(chip, container=container)))


def released(project: Project, stage: str, kind: type[Any]) -> Any:
    entry = project.ledger.last_done(CELL, stage)
    if entry is None:
        raise SystemExit(f"{CELL} has no {stage} yet: run `make release` first")
    return msgspec.convert(entry.result, kind)


def serving(candidate: results.Weights) -> Serve:
    """The stage's serving function, with other weights for the candidate."""

    def serve(job: Job, context: Context, request: ServeRequest) -> AbstractContextManager[Served]:
        chosen = candidate if request.stack == job.cell.stack else request.weights
        return served(job, context, replace(request, weights=chosen))

    return serve


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--benchmark", default="short-tasks")
    parser.add_argument("--margin", type=float, default=0.05)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path(".flagrelease/damaged"))
    wanted = parser.parse_args()
    project = open_project(Options(matrix=ROOT / "matrix.yaml", data_dir=wanted.data and wanted.data.resolve()))
    job = job_for(project, wanted)
    weights: results.Weights = released(project, "weights", results.Weights)
    image: results.Image = released(project, "image", results.Image)
    workspace = Workspace(wanted.work.resolve())
    if wanted.threads != 2:
        job = with_threads(job, image, workspace, wanted.threads)
    source = next((project.workspace.weights / weights.folder).rglob("*.gguf"))
    rows, wrong = [], 0
    for name, folder in copies(source, workspace, weights.folder):
        candidate = replace(weights, folder=folder)
        result = evaluate(
            job, context_for(name, workspace, replace(weights, folder="honest"), image), serve=serving(candidate)
        )
        (score,) = result.benchmarks
        rows.append(row(name, score))
        print(rows[-1], flush=True)
        wrong += (score.verdict == "FAIL") is (folder == "honest")
    head = ("candidate", "baseline", "candidate's", "difference", "90 % interval", "answers", "look", "verdict")
    print("\n| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|\n" + "\n".join(rows))
    return 1 if wrong else 0


def copies(source: Path, workspace: Workspace, model: str) -> Iterator[tuple[str, str]]:
    """(description, folder) of the unchanged file and of each damaged copy."""
    target = workspace.weights / "honest" / source.name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    yield "the same file", "honest"
    for number, damage in enumerate(DAMAGES):
        folder = f"damaged-{number}"
        changed = damage.to(source, workspace.weights / folder / source.name)
        of = f" ({changed / 1e6:.1f} M weights of {model.partition('/')[0]})" if changed else ""
        yield f"{damage.name}{of}", folder


def context_for(name: str, workspace: Workspace, weights: results.Weights, image: results.Image) -> Context:
    ports = real_ports(workspace, image.repository)
    made = (Done(stage="weights", key="", result=weights), Done(stage="image", key="", result=image))
    return Context(
        run_id="damaged",
        workspace=workspace,
        evidence=EvidenceStore(workspace.evidence),
        ports=ports,
        progress=Plain(name),
        meter=Meter(ports.clock),
        reads=STAGE.reads,
        finished=Finished(made),
        shared=InFolder(workspace.root / "baselines"),
    )


@dataclass(frozen=True)
class InFolder:
    """Stores baseline evaluations as files in a folder."""

    folder: Path

    def recall(self, key: str, kind: type[T]) -> T | None:
        path = self.folder / f"{key}.json"
        return msgspec.json.decode(path.read_bytes(), type=kind | None) if path.exists() else None

    def remember(self, key: str, value: object) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{key}.json").write_bytes(msgspec.json.encode(value))


def row(name: str, score: accuracy_results.BenchmarkScore) -> str:
    low, high = score.interval90 or (0.0, 0.0)
    course = score.course
    asked = f"{course.answers} of {course.planned}" if course else str(score.n)
    look = f"{course.look} of {course.looks}" if course else "–"
    cells = (
        name,
        f"{score.baseline or 0:.3f}",
        f"{score.candidate:.3f}",
        f"{score.difference or 0:+.3f}",
        f"{low:+.3f} {high:+.3f}",
        asked,
        look,
        score.verdict,
    )
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
