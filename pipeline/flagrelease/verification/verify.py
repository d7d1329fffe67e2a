"""Verify a release: every check, in the order in which one depends on the other."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flagrelease import __version__
from flagrelease.contract import code_version
from flagrelease.errors import FlagreleaseError
from flagrelease.ports.http import is_loopback
from flagrelease.ports.registry import Registry
from flagrelease.stages.card.files import RECORD
from flagrelease.store.digests import sha256_of
from flagrelease.verification import answers as stored
from flagrelease.verification import (
    background,
    card,
    files,
    image,
    regrade,
    scores,
    speed,
    tokens,
)
from flagrelease.verification.answers import Answers, Asked
from flagrelease.verification.attached import signatures, statements, weights
from flagrelease.verification.findings import Check, differs, exit_code, not_checked
from flagrelease.verification.image import Reference
from flagrelease.verification.release import Release

__all__ = ["Options", "accuracy", "receipt", "verify"]

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a verification may use besides the folder."""

    templates: Path
    """The folder with the card's template."""
    data: tuple[Path, ...] = ()
    """Folders with questions that are not drawn by a seed."""
    programs: bool = False
    """Whether programs in answers may be run, in a sandbox."""
    key: Path | None = None
    """The public key of whoever has to have signed the release."""
    reference: Reference | None = None
    """The image to compare with; None without a registry."""


def verify(release: Release, options: Options, registry: Registry | None = None) -> list[Check]:
    """All checks of a release. Raises the registry's errors; whatever is wrong with the release is a check."""
    if found := files.links(release):
        return found
    # Hundreds of thousands of objects without reference cycles.
    gc.disable()
    try:
        page = background.start(lambda: _page(release, options))
        found = _guarded("files", "the folder", lambda: files.checks(release))
        found += accuracy(release, options)
        found += page()
        found += _guarded("tokens", "token gate", lambda: tokens.checks(release))
        found += _guarded("speed", "all load points", lambda: speed.checks(release))
        found += _guarded("weights", "signature of the source", lambda: weights.of_source(release))
        found += _unverifiable(release)
        found += signatures.checks(release, options.key, options.reference, registry)
        if options.reference is not None and registry is not None:
            found += statements.checks(release, options.key, options.reference, registry)
            found += weights.checks(release, options.key, options.reference, registry)
            found += image.checks(release, options.reference, registry)
        elif release.record.image.runner == "docker":
            host = release.record.image.repository.partition("/")[0]
            where = " of the machine that made it" if is_loopback(host) else ""
            how = f"`flagrelease verify {release.record.image.repository}:{release.tag}` asks the registry{where}"
            found.append(not_checked("image", release.record.image.digest[:19], how))
    finally:
        gc.enable()
    return found


def _page(release: Release, options: Options) -> list[Check]:
    """The card and its charts."""
    found = _guarded("card", "README.md", lambda: card.checks(release, options.templates))
    return found + _guarded("card", "charts", lambda: card.pictures(release))


def _guarded(check: str, subject: str, part: Callable[[], Iterable[Check]]) -> list[Check]:
    """The lines of a part. Files are anybody's, so whatever a part stumbles over is a defect of the release."""
    found: list[Check] = []
    try:
        for line in part():
            found.append(line)  # noqa: PERF402 - those before an error are kept
    except FlagreleaseError as error:
        found.append(differs(check, subject, error.line()))
    except (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        found.append(differs(check, subject, f"cannot be checked: {type(error).__name__}: {error}"[:300]))
    return found


def accuracy(release: Release, options: Options) -> list[Check]:
    """Grade the answers again, and compute the scores and verdicts from them."""
    record = release.record
    found: list[Check] = []
    try:
        answers = stored.read(release)
    except (FlagreleaseError, OSError, ValueError) as error:
        answers = error.line() if isinstance(error, FlagreleaseError) else str(error)
        found.append(differs("answers", "all benchmarks", answers))
    asked: dict[str, Asked] = {}
    if isinstance(answers, Answers):
        known = answers
        for row in record.accuracy.benchmarks:
            if row.benchmark in known.candidate.samples and row.benchmark in record.benchmarks:
                asked[row.benchmark] = stored.asked(record, row, known, options.data)
    scored = background.start(
        lambda: _guarded("score", "all benchmarks", lambda: scores.checks(release, answers, asked))
    )
    if isinstance(answers, Answers):
        for each in asked.values():
            found += _guarded("answers", each.spec.benchmark, lambda each=each: _regraded(each, known, options))  # type: ignore[misc]
    return found + scored()


def _regraded(asked: Asked, answers: Answers, options: Options) -> Iterator[Check]:
    name = asked.spec.benchmark
    grader = code_version.of_function(asked.spec.evaluation.task.grade)
    for side in (answers.baseline, answers.candidate):
        recorded = answers.conditions.graders.get(name, "")
        yield from regrade.checks(asked, side, grader=grader, recorded_grader=recorded, programs=options.programs)


def _unverifiable(release: Release) -> list[Check]:
    """What only the machine that released it, or the weights, could show."""
    record = release.record
    found = [
        not_checked(
            "weights", record.weights.digest[:19], "the files are not in the release: its card has their sha256"
        ),
        not_checked("smoke", f"{len(record.smoke.checks)} checks", "observed on the chip; their log is evidence"),
    ]
    if record.kernels is not None:
        why = "measured on the chip; the reports are evidence"
        found.append(not_checked("kernels", f"{len(record.kernels.operators)} operators in effect", why))
    return found


def receipt(release: Release, options: Options, checks: Sequence[Check], at: str) -> dict[str, Any]:
    """What was checked, by which version and when (`at`, ISO 8601)."""
    code = exit_code(checks)
    return {
        "version": VERSION,
        "cell": release.record.cell,
        "tag": release.tag,
        "image": release.record.image.reference,
        "asked_for": "" if options.reference is None else str(options.reference),
        "record": {"name": RECORD, "sha256": sha256_of(release.raw)},
        "release_verdict": release.record.verdict,
        "by": f"flagrelease {__version__}",
        "at": at,
        "result": {0: "verified", 4: "differs", 5: "not verified"}[code],
        "exit_code": code,
        "programs_run": options.programs,
        "checks": [{**asdict(check), "state": check.state.value} for check in checks],
    }
