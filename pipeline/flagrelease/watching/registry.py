"""Check an image in a registry: what `docker pull` and `flagrelease verify` need, and where its tags lead."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from flagrelease.config.targets import Target
from flagrelease.contract.results import Delivered
from flagrelease.errors import Corrupt
from flagrelease.ports.registry import OciRegistry, referrers
from flagrelease.ports.registry.referrers import TITLE, VERSION
from flagrelease.ports.retry import Backoff
from flagrelease.releases.rot import Check
from flagrelease.stages.publish.attach import RELEASE
from flagrelease.stages.publish.publisher import Place
from flagrelease.stages.publish.release_folder import LATEST
from flagrelease.stages.publish.targets.registry import client
from flagrelease.verification.attached import signatures
from flagrelease.verification.findings import State as Verified
from flagrelease.verification.image import Reference
from flagrelease.verification.release import open_release
from flagrelease.watching.subject import Look, Step, Subject, holds, not_checked, rotten

__all__ = ["inspect", "patience", "steps"]

_WHO = "find out who moved it and why; users of the digest are not affected"


def inspect(subject: Subject, copy: Delivered, target: Target, look: Look) -> Sequence[Step]:
    """The checks of a copy in another registry."""
    repository = copy.place.rpartition(":")[0]
    place = Place(target=copy.target, settings=target, at=target.to, private=False)
    if repository.partition("/")[0] != target.to.partition("/")[0]:
        why = f"it was published to {repository.partition('/')[0]}, and targets.{copy.target} is now {target.to}"
        return [Step(check="image", make=lambda: not_checked("image", repository, why))]
    registry = client(place, patience(look), look.patience)
    return steps(subject, repository, registry, look)


def patience(look: Look) -> Backoff:
    """How long a registry is asked again."""
    return Backoff(first=0.5, most=look.patience, budget=look.patience)


def steps(subject: Subject, repository: str, registry: OciRegistry, look: Look, *, again: str = "") -> Sequence[Step]:
    """The checks of the image in a repository; `again` says how what is missing of the image gets there."""
    place = _Image(subject, repository, registry, look, again)
    return [
        Step(check="image", make=place.manifest, decides=True),
        Step(check="layers", make=place.layers),
        Step(check="tag", make=place.tag),
        *([Step(check="latest", make=place.latest)] if subject.latest else []),
        Step(check="attached", make=place.attached),
        Step(check="signature", make=place.signature),
    ]


class _Image:
    def __init__(self, subject: Subject, repository: str, registry: OciRegistry, look: Look, again: str) -> None:
        self._subject = subject
        self._repository = repository
        self._registry = registry
        self._look = look
        self._again = again

    def manifest(self) -> Check:
        short = _short(self._subject.digest)
        try:
            if self._registry.digest(self._repository, self._subject.digest) is not None:
                self._registry.manifest(self._repository, self._subject.digest)
                return holds("image", self._repository, f"{short} is there")
        except Corrupt as error:
            return rotten(
                "image", self._repository, f"the manifest of {short} is damaged", why=error.why, hint=_DAMAGED
            )
        return self._lost(
            "image", f"{short} is no longer there", "the registry does not have its manifest", self._again
        )

    def layers(self) -> Check:
        parts = list(self._parts(self._subject.digest))
        lost = [each for each in parts if self._registry.lost_blob(self._repository, each["digest"])]
        total = sum(int(each["size"]) for each in parts)
        if lost:
            names = ", ".join(_short(each["digest"]) for each in lost[:3]) + (" …" if lost[3:] else "")
            return self._lost(
                "layers", f"{len(lost)} of {len(parts)} blobs of the image are missing", names, self._again
            )
        if not self._look.deep:
            return holds("layers", self._repository, f"all {len(parts)} blobs are there, {total / 1e6:,.1f} MB")
        for each in parts:
            if (found := self._hash(each["digest"])) != each["digest"]:
                why = f"{_short(each['digest'])} has now the digest {_short(found)}"
                return rotten("layers", self._repository, "a blob of the image is damaged", why=why, hint=_DAMAGED)
        return holds("layers", self._repository, f"all {len(parts)} blobs were read, {total / 1e6:,.1f} MB")

    def tag(self) -> Check:
        tag, digest = self._subject.tag, self._subject.digest
        named = self._registry.digest(self._repository, tag)
        if named == digest:
            return holds("tag", self._repository, f"{tag} names the release")
        if named is not None:
            why = f"it names {_short(named)}, and {_short(digest)} was published"
            return rotten("tag", self._repository, f"the tag {tag} was moved", why=why, hint=_WHO)
        return self._lost("tag", f"the tag {tag} is missing", "the registry does not have it")

    def latest(self) -> Check:
        named = self._registry.digest(self._repository, LATEST)
        if named == self._subject.latest:
            return holds("latest", self._repository, f"{LATEST} names the newest release")
        if named is None:
            return self._lost("latest", f"the tag {LATEST} is missing", "the registry does not have it")
        why = f"it names {_short(named)}, and the newest release that is not yanked is {_short(self._subject.latest)}"
        hint = f"find out who moved it; `oras tag {self._repository}@{self._subject.latest} {LATEST}` moves it back"
        return rotten("latest", self._repository, f"the tag {LATEST} names something else", why=why, hint=hint)

    def attached(self) -> Check:
        """Whether a stranger can verify the release: what is attached to the image is complete."""
        found = [
            each
            for each in referrers.attached(self._registry, self._repository, self._subject.digest)
            if each.annotations.get(VERSION) == self._subject.tag
        ]
        if not found and (self._subject.pins is None or self._subject.pins.lineage is None):
            why = "nothing is attached, as earlier versions of flagrelease published"
            return not_checked("attached", self._repository, why)
        if RELEASE not in [each.kind for each in found]:
            return self._lost("attached", "the release is not attached to the image", "card and evidence are missing")
        seen: set[str] = set()
        for each in found:
            if self._registry.digest(self._repository, each.digest) is None:
                why = f"{_short(each.digest)}, {each.kind}"
                return self._lost("attached", "a part of what is attached to the image is missing", why)
            for blob in self._parts(each.digest):
                if blob["digest"] not in seen and self._registry.lost_blob(self._repository, blob["digest"]):
                    name = (blob.get("annotations") or {}).get(TITLE) or _short(blob["digest"])
                    return self._lost(
                        "attached", "a file that is attached to the image is missing", f"{name}, {each.kind}"
                    )
                seen.add(blob["digest"])
        return holds("attached", self._repository, f"{len(found)} parts of the release are attached")

    def signature(self) -> Check:
        key, reference = self._look.key, Reference(repository=self._repository, name=self._subject.digest)
        if key is None:
            return not_checked("signature", self._repository, "no key is given", hint="--key FILE checks who signed")
        release = open_release(self._subject.folder)
        checks = list(signatures.checks(release, key, reference, self._registry))
        wrong = [each.detail for each in checks if each.state is Verified.DIFFERS]
        if wrong:
            hint = "find out who replaced image or signature; `flagrelease verify` names what differs"
            why = f"{key.name}: {wrong[0]}"
            return rotten("signature", self._repository, "the signature does not hold", why=why, hint=hint)
        return holds("signature", self._repository, f"signed with {key.name}")

    def _lost(self, check: str, what: str, why: str, again: str = "") -> Check:
        self._registry.check_answers(self._repository)
        hint = again or f"`flagrelease run {self._subject.cell} --force publish` publishes what is missing"
        return rotten(check, self._repository, what, why=why, hint=hint)

    def _parts(self, digest: str) -> Iterator[dict[str, Any]]:
        """The blobs of a manifest, and of those that an index names."""
        document = json.loads(self._registry.manifest(self._repository, digest).body)
        for each in document.get("manifests", []):
            yield from self._parts(str(each["digest"]))
        yield from ([document["config"]] if "config" in document else [])
        yield from document.get("layers", [])

    def _hash(self, digest: str) -> str:
        hasher = hashlib.sha256()
        for piece in self._registry.read_blob(self._repository, digest):
            hasher.update(piece)
        return f"sha256:{hasher.hexdigest()}"


def _short(digest: str) -> str:
    return f"{digest[:19]}…"


_DAMAGED = "its storage is damaged: delete it there, and publish it again"
