"""Check that a release folder has every file that its record names, unchanged, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flagrelease.stages.card.files import README, RECORD
from flagrelease.stages.publish.release_folder import SUMS
from flagrelease.store.digests import file_sha256, sha256_of
from flagrelease.verification.findings import Check, agrees, differs, not_checked
from flagrelease.verification.release import Release

__all__ = ["checks", "links"]

_CHECK = "files"


def links(release: Release) -> list[Check]:
    """Links in the folder. They may lead to anything on this machine, so nothing is read where there is one."""
    paths = sorted(path.relative_to(release.folder) for path in release.folder.rglob("*") if path.is_symlink())
    return [differs(_CHECK, path.as_posix(), "is a link, not a file; nothing was read") for path in paths]


def checks(release: Release) -> Iterator[Check]:
    """One line for each file that is missing, changed or unknown, and one for those that are as recorded."""
    present = _present(release.folder)
    without_evidence = release.sums is None and not any(path.startswith("evidence/") for path in present)
    found = [] if without_evidence else [*_evidence(release, present), *_sums(release, present)]
    yield from found
    if without_evidence:
        why = f"the folder has neither {SUMS} nor evidence: {len(release.evidence)} files of evidence are not checked"
        yield not_checked(_CHECK, "evidence", why, decisive=True)
    elif not found:
        yield agrees(_CHECK, f"{len(present)} files", "complete, with the recorded sha256")
    if release.sums is not None and (release.folder / SUMS).is_file():
        yield from _named(release)


def _evidence(release: Release, present: set[str]) -> Iterator[Check]:
    for path, file in release.evidence.items():
        if path not in present:
            yield differs(_CHECK, path, "missing; the record names it")
        elif (digest := file_sha256(release.folder / path)) != file.sha256:
            yield differs(_CHECK, path, f"sha256 is {digest[:12]}…, the record has {file.sha256[:12]}…")


def _sums(release: Release, present: set[str]) -> Iterator[Check]:
    """The files that SHA256SUMS names; those of the evidence have the record's digest."""
    sums = release.sums
    if sums is None:
        yield differs(_CHECK, SUMS, "missing, though the folder has evidence")
        sums = {}
    yield from (differs(_CHECK, SUMS, f"not a line of sha256 sums: {line!r}") for line in release.torn_sums)
    for path, digest in sums.items():
        recorded = release.evidence.get(path)
        if recorded is not None:
            if recorded.sha256 != digest:
                yield differs(_CHECK, SUMS, f"{path} has not the digest of the record, {recorded.sha256[:12]}…")
        elif path not in present:
            yield differs(_CHECK, path, f"missing; {SUMS} names it")
        elif (found := file_sha256(release.folder / path)) != digest:
            yield differs(_CHECK, path, f"sha256 is {found[:12]}…, {SUMS} has {digest[:12]}…")
    known = {*sums, *release.evidence, SUMS}
    for path in sorted(present - known):
        yield differs(_CHECK, path, f"neither the record nor {SUMS} names it")
    if release.sums is not None:
        for path in sorted({RECORD, README, *release.evidence} - sums.keys()):
            yield differs(_CHECK, SUMS, f"{path} is not in it")


def _named(release: Release) -> Iterator[Check]:
    """A release folder is named by its tag, which ends in the digest of the record."""
    name = release.folder.resolve().name
    digest = sha256_of(release.raw)
    if name == release.tag:
        yield agrees("record", RECORD, f"its sha256 {digest[:12]}… is in the name of the folder")
    elif name.startswith("tree_"):
        yield differs("record", RECORD, f"its sha256 is {digest[:12]}…, the folder is {name}")
    else:
        yield not_checked("record", RECORD, f"the folder is {name}, not {release.tag}: compare it with the tag")


def _present(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
