"""Publish a release that passed the gates, or keep a private draft of it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from flagrelease.contract import accuracy_results, results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.contract.speed_results import Speed
from flagrelease.errors import ConfigError, FlagreleaseError, GateFailed, Inconclusive, UpstreamRefused
from flagrelease.ports.registry import referrers
from flagrelease.stages.card import record
from flagrelease.stages.card.files import README, RECORD, published
from flagrelease.stages.card.record import Record
from flagrelease.stages.publish import attach, deliver, index, issue, release_folder, signature
from flagrelease.stages.publish.publisher import Shipment
from flagrelease.stages.publish.release_folder import LATEST, SUMS
from flagrelease.store.evidence import Evidence
from flagrelease.store.files import write_atomic
from flagrelease.store.ledger import evidence_of

_AFTER = ("card", "publish")
_NAME = re.compile(r"[\w.-]+(:\d+)?(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)+")


def publish(job: Job, context: Context) -> results.Publish:
    """Raises GateFailed or Inconclusive unless the gates pass, UpstreamRefused for a tag that is taken or an image that
    the registry has lost, EnvironmentFault for a release folder that was edited, and the error of a target."""
    card_files = published(context.result(results.CARD))
    record_file = card_files[RECORD]
    release = record.loads(context.evidence.read(record_file))
    drafted = {name: context.evidence.read(file) for name, file in card_files.items()}
    if (refusal := _refusal(release)) is not None:
        raise _withheld(release, refusal, job, context, card_files)
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
    # A yanked release that is published again stays yanked.
    withdrawn = job.previous is not None and job.previous.tag == tag and bool(job.previous.yanked)
    tags = (tag,) if withdrawn else (tag, LATEST)
    _check_name(image.repository)
    _check_image(image, job, context)
    context.progress.doing("writing the release folder")
    sources = {name: context.evidence.path(file) for name, file in (card_files | _evidence(job, context)).items()}
    folder = context.workspace.releases / job.cell.chip_name / job.cell.model_name / tag
    release_folder.write(folder, sources)
    with context.meter.waiting():
        context.progress.doing("attaching the release to the image")
        sources[SUMS] = folder / SUMS
        whole, *statements = attach.artifacts(release, tag, sources)
        for artifact in (whole, *statements):
            referrers.attach(context.ports.registry, image.repository, image.digest, artifact)
        signature.attach_signed(context.ports.registry, image.repository, image.digest, statements, os.environ)
        signature.attach_weights(context.ports.registry, release, os.environ)
        for name in tags:
            context.progress.doing(f"tagging {name}")
            context.ports.registry.tag(image.repository, image.digest, name)
    if not withdrawn:
        release_folder.point_latest(folder)
    done, failed = _deliver(release, sources, job, context, private=False, latest=not withdrawn)
    index.add(
        context.workspace,
        index.Release(
            cell=job.cell.id,
            tag=tag,
            image=image.reference,
            verdict=release.verdict,
            record_sha256=record_file.sha256,
            folder=folder.relative_to(context.workspace.releases).as_posix(),
            targets={one.target: one.place for one in done},
        ),
        context.run_id,
        context.ports.clock.sleep,
    )
    if failed:
        raise deliver.failure(job.cell.id, done, failed)
    return results.Publish(
        digest=image.digest,
        tags=tuple(f"{image.repository}:{name}" for name in tags),
        folder=folder.relative_to(context.workspace.root).as_posix(),
        record=record_file,
        targets=done,
    )


def _deliver(
    release: Record, sources: Mapping[str, Path], job: Job, context: Context, *, private: bool, latest: bool = True
) -> tuple[tuple[results.Delivered, ...], dict[str, FlagreleaseError]]:
    shipment = Shipment(
        release=release,
        tag=release.tag,
        files=sources,
        registry=context.ports.registry,
        clock=context.ports.clock,
        meter=context.meter,
        latest=latest,
    )
    return deliver.send(shipment, deliver.places(job.matrix.targets, private=private), context.progress)


def _withheld(
    release: Record, refusal: FlagreleaseError, job: Job, context: Context, card_files: dict[str, Evidence]
) -> FlagreleaseError:
    """Keep the card as a draft with a report, and send all to the private places of the targets; the refusal, with the
    places in it."""
    evidence = _evidence_paths(job, context)
    report = issue.report(release, refusal, evidence)
    draft = _draft(job, context, {name: context.evidence.read(file) for name, file in card_files.items()})
    write_atomic(draft / issue.FILE, report)
    kept = f"the card is kept as a private draft: {draft / README}"
    refusal.hint = f"{refusal.hint}; {kept}" if refusal.hint else kept
    if release.image.runner == "process" or not deliver.places(job.matrix.targets, private=True):
        return refusal
    sources = {name: context.evidence.path(file) for name, file in (card_files | _evidence(job, context)).items()}
    folder = context.workspace.scratch(job.cell.slug, "publish") / release.tag
    release_folder.write(folder, {**sources, issue.FILE: draft / issue.FILE})
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    done, failed = _deliver(release, files, job, context, private=True)
    lines = [f"{one.target}: kept privately, {one.place}" for one in done]
    lines += [f"{target}: not kept there: {error.line()}" for target, error in failed.items()]
    refusal.detail = "\n".join([*([refusal.detail] if refusal.detail else []), *lines])
    return refusal


def _refusal(release: Record) -> FlagreleaseError | None:
    """Why the release must not be public; None if it passed."""
    failed = [check for check in release.smoke.checks if not check.passed]
    if release.verdict == "PASS" and not failed:
        return None
    if failed:
        return GateFailed(
            f"{release.cell} is not published: smoke failed",
            why="; ".join(f"{check.name}: {check.detail}" for check in failed),
        )
    return _verdict_error(release)


def _draft(job: Job, context: Context, draft: Mapping[str, bytes]) -> Path:
    folder = context.workspace.drafts / job.cell.chip_name / job.cell.model_name
    for name, data in draft.items():
        write_atomic(folder / name, data)
    return folder


def _verdict_error(release: Record) -> FlagreleaseError:
    rows = [row for row in release.accuracy.benchmarks if row.verdict == release.verdict]
    slow = release.speed is not None and release.accuracy.verdict != release.verdict
    why = "; ".join(_numbers(row) for row in rows) or release.reason
    if release.verdict == "INCONCLUSIVE":
        return Inconclusive(
            f"{release.cell} is not published: the evidence is inconclusive",
            why=why,
            hint=_measure_more(release.speed) if slow else _ask_more(release),
        )
    if release.speed is not None and slow:
        return GateFailed(
            f"{release.cell} is not published: it is slower than {release.speed.baseline_name}",
            why=why,
            hint="evidence file speed/requests.jsonl lists every request",
        )
    if not release.accuracy.benchmarks:
        return GateFailed(
            f"{release.cell} is not published: it does not compute like {release.accuracy.baseline_name}",
            why=why,
            hint="evidence file accuracy/tokens.json has the distances of each prompt",
        )
    return GateFailed(
        f"{release.cell} is not published: its answers are worse than those of {release.accuracy.baseline_name}",
        why=why,
        hint=f"`flagrelease explain {release.cell}` shows where to find the answers that changed",
    )


def _measure_more(measured: Speed | None) -> str:
    busy = measured is not None and measured.other_work is not None and measured.other_work.text
    sooner = "; it takes less time after other programs have ended" if busy else ""
    return f"run again: speed is measured further, in addition to what was measured{sooner}"


def _ask_more(release: Record) -> str:
    if not any(row.sensitive for row in release.accuracy.benchmarks):
        return (
            f"give profile {release.profile_name} a benchmark on which the baseline scores more than twice the margin "
            "above the chance level"
        )
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
    files_by_path = _evidence_paths(job, context)
    for file in files_by_path.values():
        context.evidence.read(file)
    return files_by_path


def _evidence_paths(job: Job, context: Context) -> dict[str, Evidence]:
    made = [(done.stage, done.result) for done in context.finished if done.stage not in _AFTER]
    made += [(results.ATTRIBUTION.stage, attributed) for attributed in job.attributed]
    return release_folder.evidence_paths((name, evidence_of(result)) for name, result in made)
