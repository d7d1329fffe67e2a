"""Check the statements that are attached to an image against the record and the evidence of its release."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flagrelease import __version__
from flagrelease.errors import FlagreleaseError
from flagrelease.ports.registry import Registry, referrers
from flagrelease.ports.registry.referrers import VERSION
from flagrelease.stages.card.files import RECORD
from flagrelease.stages.publish import signature
from flagrelease.stages.publish.attach import STATEMENT
from flagrelease.stages.publish.attestations import facts, provenance, sbom, summary, test_results
from flagrelease.stages.publish.attestations.statement import FORMAT, Statement
from flagrelease.stages.publish.attestations.statements import statements
from flagrelease.store.digests import sha256_of
from flagrelease.verification.findings import Check, agrees, differs, not_checked
from flagrelease.verification.image import Reference
from flagrelease.verification.release import Release
from flagrelease.verification.values import differences

__all__ = ["checks", "parse"]

_CHECK = "attestation"
_MOST_BYTES = 64 << 20
_MOST_LINES = 10
_KEYS = ("bom-ref", "uri", "path", "name", "ref")
"""Fields that name the entries of a list, so that an added entry does not move the others."""
_MAKERS = ("metadata.tools", "runDetails.builder.version", "verifier.version")
"""Fields of predicates with the version of the program that made the statement."""


@dataclass(frozen=True, kw_only=True)
class _Attached:
    """A statement in the registry."""

    name: str
    """Its file name."""
    data: bytes
    """Its bytes."""


def checks(release: Release, key: Path | None, reference: Reference, registry: Registry) -> Iterator[Check]:
    """One line for each statement, or more if something is wrong with it. Raises ConfigError for a bad key, and the
    registry's errors."""
    image = release.record.image.digest
    found = _attached(registry, reference.repository, image, release.tag)
    signed = _signed(registry, reference.repository, image, release.tag, key)
    try:
        known = facts.gather(release.record, release.raw, release.tag, release.read)
        expected = {f"{made.name}.json": made for made in statements(known)}
    except (FlagreleaseError, ArithmeticError, LookupError, OSError, TypeError, ValueError) as error:
        why = error.line() if isinstance(error, FlagreleaseError) else f"{type(error).__name__}: {error}"
        yield differs(_CHECK, "all statements", f"cannot be compared with the evidence: {why}"[:300])
        return
    summaries = [made for one in found if (made := parse(one.data)).get("predicateType") == summary.TYPE]
    named, maker = _named(summaries), _maker(summaries)
    for one in found:
        yield from _checks(one, expected.get(one.name), image, named, signed, maker)
    present = {one.name for one in found}
    for name in sorted(named.keys() - present - {RECORD}):
        yield differs(_CHECK, name, "missing; the verification summary names it")
    for name in sorted(expected.keys() - named.keys() - present):
        yield not_checked(_CHECK, name, "the release has no such statement")


def parse(raw: bytes) -> dict[str, Any]:
    """A statement; empty if it is not one."""
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) and content.get("_type") == FORMAT else {}


def _attached(registry: Registry, repository: str, image: str, tag: str) -> list[_Attached]:
    return [
        _Attached(name=file.name, data=file.data)
        for known in referrers.attached(registry, repository, image)
        if known.kind == STATEMENT and known.annotations.get(VERSION) == tag
        for file in referrers.files(registry, repository, known, most_bytes=_MOST_BYTES)
    ]


def _signed(registry: Registry, repository: str, image: str, tag: str, key: Path | None) -> Collection[bytes] | None:
    """The statements that are signed with the key; None without one."""
    if key is None:
        return None
    try:
        return set(signature.opened(registry, repository, image, tag, key))
    except signature.InvalidSignatureError:
        return ()


def _named(summaries: list[dict[str, Any]]) -> dict[str, set[str]]:
    """What the verification summaries name: digests by file name."""
    found: dict[str, set[str]] = {}
    for made in summaries:
        predicate = made.get("predicate")
        listed = predicate.get("inputAttestations") if isinstance(predicate, dict) else None
        for entry in listed if isinstance(listed, list) else []:
            digest = entry.get("digest") if isinstance(entry, dict) else None
            if isinstance(digest, dict):
                found.setdefault(str(entry.get("uri")), set()).add(str(digest.get("sha256")))
    return found


def _checks(
    one: _Attached,
    expected: Statement | None,
    image: str,
    named: Mapping[str, Collection[str]],
    signed: Collection[bytes] | None,
    maker: str,
) -> Iterator[Check]:
    content = parse(one.data)
    if not content:
        yield differs(_CHECK, one.name, "is not a statement of in-toto")
        return
    wrong = [*_subject(content, image)]
    if one.name in named and sha256_of(one.data) not in named[one.name]:
        wrong.append("is not the one that the verification summary names")
    if signed is not None and one.data not in signed:
        wrong.append("is not signed with this key")
    try:
        other = _predicate(content, expected) if expected is not None else []
    except RecursionError:
        other = ["is nested too deeply to be compared"]
    if other and not wrong and maker not in ("", __version__):
        why = f"flagrelease {maker} made it, and version {__version__} makes another: {other[0]}"
        yield not_checked(_CHECK, one.name, f"{why}; verify with version {maker}", decisive=True)
        return
    wrong += other
    yield from (differs(_CHECK, one.name, text) for text in wrong[:_MOST_LINES])
    if len(wrong) > _MOST_LINES:
        yield differs(_CHECK, one.name, f"and {len(wrong) - _MOST_LINES} further differences")
    if wrong:
        return
    if expected is None:
        yield not_checked(_CHECK, one.name, "of the right image; this version of flagrelease does not make one")
        return
    by = ", signed with this key" if signed is not None else ""
    yield agrees(_CHECK, one.name, _summed_up(expected, named) + by)


def _summed_up(statement: Statement, named: Collection[str]) -> str:
    """What the statement says, in a few words."""
    predicate = statement.content["predicate"]
    match statement.predicate_type:
        case sbom.TYPE:
            kinds = Counter(str(part.get("purl", ""))[4:].partition("/")[0] for part in predicate["components"])
            return f"{kinds['pypi']} Python packages, {kinds['deb']} Debian packages, as in the evidence"
        case provenance.TYPE:
            return f"{len(predicate['buildDefinition']['resolvedDependencies'])} dependencies, as in the evidence"
        case test_results.TYPE:
            return f"{predicate['result']}, {len(predicate['passedTests'])} passed, as in the record"
        case summary.TYPE:
            return f"{predicate['verificationResult']}, names {len(set(named) - {RECORD})} other statements"
    return f"is {RECORD}"


def _maker(summaries: list[dict[str, Any]]) -> str:
    """The version of flagrelease that made the statements; empty if it is unknown."""
    for made in summaries:
        verifier = made["predicate"].get("verifier") if isinstance(made.get("predicate"), dict) else None
        version = verifier.get("version") if isinstance(verifier, dict) else None
        if isinstance(version, dict):
            return str(version.get("flagrelease", ""))
    return ""


def _subject(content: Mapping[str, Any], image: str) -> Iterator[str]:
    """Whether the statement is about another image."""
    subjects = content.get("subject")
    digests = [
        entry["digest"].get("sha256")
        for entry in (subjects if isinstance(subjects, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("digest"), dict)
    ]
    if digests != [image.removeprefix("sha256:")]:
        yield f"is about {', '.join(f'sha256:{each}'[:19] for each in digests) or 'nothing'}, not {image[:19]}…"


def _predicate(content: Mapping[str, Any], expected: Statement) -> list[str]:
    """What the statement says other than record and evidence."""
    if content.get("predicateType") != expected.predicate_type:
        return [f"predicateType is {content.get('predicateType')}, not {expected.predicate_type}"]
    ours = _keyed(parse(expected.data)["predicate"])
    said = _keyed(content.get("predicate"))
    if expected.predicate_type == summary.TYPE:
        # The digests of the other statements are compared with what is attached.
        ours, said = ({**each, "inputAttestations": None} if isinstance(each, dict) else each for each in (ours, said))
    return differences(said, ours, without=_MAKERS)


def _keyed(value: Any) -> Any:
    """Lists of named entries as mappings by name."""
    if isinstance(value, Mapping):
        return {name: _keyed(inner) for name, inner in value.items()}
    if not isinstance(value, list):
        return value
    entries = [_keyed(inner) for inner in value]
    for key in _KEYS:
        names = [entry.get(key) if isinstance(entry, dict) else None for entry in entries]
        if entries and all(isinstance(name, str) for name in names) and len(set(names)) == len(names):
            return dict(zip(names, entries, strict=True))
    return entries
