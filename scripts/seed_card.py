#!/usr/bin/env python3
"""Write docs/seed-card/: the card that flagrelease renders from the facts of a published card for Qwen3-8B on MetaX.

Chip, model and container are those of matrix.yaml; scores and versions are those of the published card. It names no
digest, number of questions or answer, so the verdict is INCONCLUSIVE, and the digests are stand-ins.
"""

import argparse
import hashlib
import sys
from dataclasses import replace
from pathlib import Path

from flagrelease.config import matrix as matrices
from flagrelease.config.cell import Cell, expand
from flagrelease.config.lockfile import LockedFile
from flagrelease.contract.accuracy_results import Accuracy, BenchmarkScore
from flagrelease.contract.results import Image, Smoke, Weights
from flagrelease.recipe.container import Placement, for_serving, model_path
from flagrelease.stages.card import charts, chinese, lint, record, render
from flagrelease.stages.card.files import README, README_ZH, RECORD
from flagrelease.stages.card.stage import STAGE
from flagrelease.store.files import write_atomic

ROOT = Path(__file__).resolve().parent.parent
CELL = "metax/qwen3-8b"
SCORES = (
    # benchmark of matrix.yaml, score on H100 with CUDA, score on MetaX with FlagOS
    ("aime", 0.700, 0.733),
    ("gpqa", 0.507, 0.503),
    ("livebench", 0.502, 0.488),
    ("mmlu", 0.699, 0.699),
    ("musr", 0.602, 0.607),
)
ENVIRONMENT = {
    "Operating system": "Ubuntu 22.04.4 LTS",
    "Docker": "28.2.1, build 879ac3f",
    "Kernel mode driver": "2.3.0",
}
REMARKS = (
    "This card is rendered from the facts of another card, and nothing on it was measured by flagrelease.",
    "The digests of image and weights are stand-ins: the other card names none.",
    "The numbers of questions are those of the complete benchmarks: the other card gives none.",
)


def made(templates: Path = ROOT / "templates") -> record.Record:
    """The record with the published card's facts."""
    matrix = matrices.load(ROOT / "matrix.yaml")
    cell = next(cell for cell in expand(matrix) if cell.id == CELL)
    digest = f"sha256:{hashlib.sha256(b'the image of the published card').hexdigest()}"
    image = Image(
        repository=f"{matrix.registry}/flagrelease_metax_qwen3_8b",
        digest=digest,
        image_id=digest,
        base=cell.chip.base,
        base_id="",
        size=0,
        pushed_bytes=0,
        labels={},
        versions={},
        remarks=REMARKS,
    )
    served = for_serving(cell.chip, cell.model, image.reference, model_path(cell.model), cell.stack, Placement())
    file = LockedFile(
        path="model.safetensors",
        size=16_400_000_000,  # 8.2 billion parameters in bfloat16
        sha256=hashlib.sha256(b"the weights of the published card").hexdigest(),
    )
    weights = Weights(
        folder="",
        source=cell.model.source,
        revision="master",
        digest=f"sha256:{file.sha256}",
        files=(file,),
        bytes_moved=0,
    )
    rows = tuple(score(matrix, *row) for row in SCORES)
    return record.Record(
        rendered_by=STAGE.code_version(templates),
        cell=cell.id,
        chip_name=cell.chip_name,
        model_name=cell.model_name,
        chip=replace(cell.chip, hosts=()),
        model=cell.model,
        stack=cell.stack,
        baseline=cell.baseline,
        profile_name=cell.profile_name,
        profile=cell.profile,
        benchmarks={name: matrix.benchmarks[name] for name, *_ in SCORES},
        pins=record.Pins(),
        weights=weights,
        image=image,
        smoke=Smoke(
            ready_seconds=0.0,
            checks=(),
            docker_run=served.argv(),
            commands={},
            environment=ENVIRONMENT,
        ),
        accuracy=Accuracy(
            verdict="INCONCLUSIVE",
            reason="two scores for each benchmark and no answers give no interval",
            benchmarks=rows,
            baseline_name="native on nvidia-h100",
            baseline_key="",
            sampling={},
            questions_asked=0,
            inference_seconds=0.0,
        ),
        stages=(),
        differences=(*REMARKS, *reasons(cell)),
    )


def score(matrix: matrices.Matrix, name: str, baseline: float, candidate: float) -> BenchmarkScore:
    """A row of the published card's table."""
    benchmark = matrix.benchmarks[name]
    return BenchmarkScore(
        benchmark=name,
        metric=f"{benchmark.title}_{benchmark.shots}fewshot_@avg1",
        n=benchmark.total or 0,
        repeats=1.0,
        baseline=baseline,
        candidate=candidate,
        difference=round(candidate - baseline, 3),
        interval90=None,
        margin=benchmark.margin,
        p_regression=None,
        flips=None,
        errors=0,
        truncated=0,
        partial="",
        data_sha256="",
        verdict="INCONCLUSIVE",
        reason="no answers, so no interval",
    )


def reasons(cell: Cell) -> tuple[str, ...]:
    """Why parts of FlagOS are not in the image, as in matrix.yaml."""
    return tuple(f"{record.COMPONENTS[part]} is not applied: {why}." for part, why in cell.chip.reasons.items())


def files(release: record.Record, templates: Path = ROOT / "templates") -> dict[str, bytes]:
    """The contents of the folder, by name."""
    return {
        README: render.render(release, templates).encode(),
        README_ZH: chinese.render_card(release, templates).encode(),
        RECORD: record.dumps(release),
        charts.SCORES: charts.scores(release),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "seed-card", metavar="DIR")
    output = parser.parse_args().output
    release = made()
    written = files(release)
    pictures = {charts.SCORES: written[charts.SCORES]}
    for name, beside in ((README, pictures), (README_ZH, pictures | {README: written[README]})):
        lint.check(written[name].decode(), release, beside, name)
    for name, data in sorted(written.items()):
        write_atomic(output / name, data)
    print(f"seed card: {', '.join(sorted(written))} in {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
