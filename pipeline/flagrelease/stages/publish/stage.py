"""publish: make a release that passed the gates visible, each part after everything that it refers to.

The order is: verify the image digest, then write evidence and card, the release tag, `latest`, and the index. Every
step is idempotent by content, so that an interrupted run is resumed by running again.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flagrelease.contract import accuracy_results, results
from flagrelease.contract.context import Context, Look
from flagrelease.contract.job import Job
from flagrelease.contract.stage import Stage
from flagrelease.errors import (
    ConfigError,
    EnvironmentFault,
    FlagreleaseError,
    GateFailed,
    Inconclusive,
    UpstreamRefused,
)
from flagrelease.stages.card import record
from flagrelease.stages.card.files import README, RECORD, published
from flagrelease.stages.card.record import Record
from flagrelease.stages.publish import index
from flagrelease.store.digests import file_sha256
from flagrelease.store.evidence import Evidence
from flagrelease.store.files import abandoned, sync_folder, translate_disk_errors, unfinished, write_atomic
from flagrelease.store.ledger import evidence_of

LATEST = "latest"
SUMS = "SHA256SUMS"
_AFTER = ("card", "publish")
_NAME = re.compile(r"[\w.-]+(:\d+)?(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)+")


def inputs(job: Job) -> Mapping[str, Any]:
    return {"cell": job.cell.id, "registry": job.registry}


def run(job: Job, context: Context) -> results.Publish:
    """Raises GateFailed or Inconclusive unless the gates pass, UpstreamRefused for a tag that is taken or an image that
    the registry has lost, EnvironmentFault for a release folder that was edited."""
    card_files = published(context.result(results.CARD))
    record_file = card_files[RECORD]
    release = record.loads(context.evidence.read(record_file))
    drafted = {name: context.evidence.read(file) for name, file in card_files.items()}
    _gate(release, job, context, drafted)
    if release.image.runner == "process":
        folder = _draft(job, context, drafted)
        return results.Publish(
            digest=release.image.digest,
            tags=(),
            folder=folder.relative_to(context.workspace.root).as_posix(),
            record=record_file,
            withheld=f"served by processes, so there is no image to publish; the card is in {folder}",
        )
    image, tag = release.image, release.tag
    _check_name(image.repository)
    _check_image(image, job, context)
    context.progress.doing("writing the release folder")
    sources = {name: context.evidence.path(file) for name, file in (card_files | _evidence(job, context)).items()}
    folder = context.workspace.releases / job.cell.chip_name / job.cell.model_name / tag
    _keep_folder(folder, sources)
    with context.meter.waiting():
        for name in (tag, LATEST):
            context.progress.doing(f"tagging {name}")
            context.ports.registry.tag(image.repository, image.digest, name)
    _point_latest(folder)
    index.add(
        context.workspace,
        index.Release(
            cell=job.cell.id,
            tag=tag,
            image=image.reference,
            verdict=release.verdict,
            record_sha256=record_file.sha256,
            folder=folder.relative_to(context.workspace.releases).as_posix(),
        ),
        context.run_id,
        context.ports.clock.sleep,
    )
    return results.Publish(
        digest=image.digest,
        tags=tuple(f"{image.repository}:{name}" for name in (tag, LATEST)),
        folder=folder.relative_to(context.workspace.root).as_posix(),
        record=record_file,
    )


def intact(result: results.Publish, look: Look) -> str:
    """Check the release folder and, with a registry, the tags."""
    folder = look.workspace.root / result.folder
    if result.withheld:
        return "" if (folder / README).is_file() else "its draft is missing"
    if not (folder / SUMS).is_file():
        return "its release folder is missing"
    if look.registry is not None:
        for reference in result.tags:
            repository, _, tag = reference.rpartition(":")
            digest = look.registry.digest(repository, tag)
            if digest is None or (digest != result.digest and tag != LATEST):
                return f"the tag {tag} is missing" if digest is None else f"the tag {tag} was moved"
    return ""


def _gate(release: Record, job: Job, context: Context, draft: Mapping[str, bytes]) -> None:
    failed = [check for check in release.smoke.checks if not check.passed]
    if release.verdict == "PASS" and not failed:
        return
    folder = _draft(job, context, draft)
    private = f"the card is kept as a private draft: {folder / README}"
    if failed:
        raise GateFailed(
            f"{job.cell.id} is not published: smoke failed",
            why="; ".join(f"{check.name}: {check.detail}" for check in failed),
            hint=private,
        )
    raise _verdict_error(release, private)


def _draft(job: Job, context: Context, draft: Mapping[str, bytes]) -> Path:
    folder = context.workspace.drafts / job.cell.chip_name / job.cell.model_name
    for name, data in draft.items():
        write_atomic(folder / name, data)
    return folder


def _verdict_error(release: Record, private: str) -> FlagreleaseError:
    rows = [row for row in release.accuracy.benchmarks if row.verdict == release.verdict]
    slow = release.speed is not None and release.accuracy.verdict != release.verdict
    why = "; ".join(_numbers(row) for row in rows) or release.reason
    if release.verdict == "INCONCLUSIVE":
        return Inconclusive(
            f"{release.cell} is not published: the evidence is inconclusive",
            why=why,
            hint=("measure again without other load on the machine: `--force speed`" if slow else _ask_more(release))
            + f"; {private}",
        )
    if release.speed is not None and slow:
        return GateFailed(
            f"{release.cell} is not published: it is slower than {release.speed.baseline_name}",
            why=why,
            hint=f"evidence file speed/requests.jsonl lists every request; {private}",
        )
    return GateFailed(
        f"{release.cell} is not published: its answers are worse than those of {release.accuracy.baseline_name}",
        why=why,
        hint=f"`flagrelease explain {release.cell}` shows where to find the answers that changed; {private}",
    )


def _ask_more(release: Record) -> str:
    return (
        f"ask more questions: raise `limit` or `repeats` of profile {release.profile_name}, or use a larger --profile"
    )


def _numbers(row: accuracy_results.BenchmarkScore) -> str:
    if row.baseline is None or row.difference is None or row.interval90 is None:
        return f"{row.benchmark}: {row.reason}"
    low, high = row.interval90
    return (
        f"{row.benchmark}: {row.candidate:.3f} versus {row.baseline:.3f} over {row.n} questions, difference "
        f"{row.difference:+.3f} [{low:+.3f}, {high:+.3f}], margin {row.margin:.3f}; {row.reason}"
    )


def _check_name(repository: str) -> None:
    if not _NAME.fullmatch(repository) or len(repository) > 255:
        raise ConfigError(
            f"{repository!r} is not a valid image name",
            why="after the host lower-case letters, digits and single separators . _ - / are allowed",
            hint="fix `registry` in matrix.yaml, or --registry",
        )


def _check_image(image: results.Image, job: Job, context: Context) -> None:
    context.progress.doing("verifying the image in the registry")
    with context.meter.waiting():
        digest = context.ports.registry.digest(image.repository, image.digest)
    if digest != image.digest:
        raise UpstreamRefused(
            f"the registry no longer has {image.reference}",
            why=f"it returned {digest}" if digest else "it does not have this digest",
            hint=f"build and push it again: `flagrelease run {job.cell.id} --force image`",
        )


def _evidence(job: Job, context: Context) -> dict[str, Evidence]:
    """The verified evidence of all stages before the card, by path in the release folder."""
    files_by_path: dict[str, Evidence] = {}
    made = [(done.stage, done.result) for done in context.finished if done.stage not in _AFTER]
    for name, result in [*made, *((results.ATTRIBUTION.stage, attributed) for attributed in job.attributed)]:
        for file in evidence_of(result):
            context.evidence.read(file)
            base = re.sub(r"[^\w.-]+", "_", file.name).lstrip(".") or "file"
            path = f"evidence/{name}/{base}"
            if files_by_path.get(path, file) != file:
                path = f"evidence/{name}/{file.sha256[:12]}-{base}"
            files_by_path[path] = file
    return files_by_path


def _keep_folder(folder: Path, sources: Mapping[str, Path]) -> None:
    """Write exactly `sources` and their sha256 sums to `folder`, which appears only once it is complete."""
    sums = "".join(f"{file_sha256(source)}  {name}\n" for name, source in sorted(sources.items()))
    if folder.exists():
        _compare(folder, sums)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    for leftover in filter(abandoned, folder.parent.iterdir()):
        shutil.rmtree(leftover, ignore_errors=True)
    with translate_disk_errors(f"writing {folder.name}"):
        fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=unfinished()))
        try:
            fresh.chmod(0o755)
            for name, source in sources.items():
                write_atomic(fresh / name, source.read_bytes())
            write_atomic(fresh / SUMS, sums.encode())
            fresh.rename(folder)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        sync_folder(folder.parent)


def _compare(folder: Path, sums: str) -> None:
    listed = [line.split("  ", 1) for line in sums.splitlines()]
    changed = [name for digest, name in listed if not (folder / name).is_file() or file_sha256(folder / name) != digest]
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    changed += sorted(present - {name for _, name in listed} - {SUMS})
    if changed or (folder / SUMS).read_text() != sums:
        raise EnvironmentFault(
            f"the release folder {folder} was changed after it was written",
            why=", ".join(changed) or SUMS,
            hint="move it away and run again: it is rewritten from the evidence",
        )


def _point_latest(folder: Path) -> None:
    fresh = folder.parent / f"{unfinished()}{LATEST}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(folder.name)
    fresh.replace(folder.parent / LATEST)
    sync_folder(folder.parent)


STAGE = Stage(
    result=results.PUBLISH,
    doing="publishing",
    inputs=inputs,
    run=run,
    reads=(results.IMAGE, results.ACCURACY, results.CARD),
    intact=intact,
)
