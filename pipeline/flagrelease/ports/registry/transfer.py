"""Copy an image, and what is attached to it, to another repository, by digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from flagrelease.errors import UpstreamRefused
from flagrelease.ports.clock import Clock
from flagrelease.ports.registry import PIECE, Registry, referrers
from flagrelease.ports.registry.manifests import Manifest
from flagrelease.ports.retry import Backoff, retry

__all__ = ["Target", "Transfer"]

_BACKOFF = Backoff(first=1.0, most=30.0, budget=60.0, attempts=4)
"""Of one blob: it may take longer than the budget before it fails for the first time."""
_DEEPEST = 4
"""An image, what is attached to it, the signature of that, and one more."""


class Target(Registry, Protocol):
    """Where images are copied to: a registry, or a folder in the OCI layout."""

    def has_blob(self, repository: str, digest: str) -> bool: ...
    def mount_blob(self, repository: str, digest: str, source: str) -> bool: ...
    def write_blob(self, repository: str, digest: str, pieces: Iterator[bytes]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """A way from one repository to another. All methods are idempotent: what is there is not sent again. They raise the
    registries' errors."""

    source: Registry
    source_repository: str
    """HOST/NAME."""
    target: Target
    target_repository: str
    """HOST/NAME."""
    clock: Clock
    moved: Callable[[int], None] = lambda _count: None
    """Called with the number of bytes that were sent."""
    note: Callable[[str], None] = lambda _text: None
    """Called with a line for the user."""
    backoff: Backoff = _BACKOFF

    def image(self, digest: str) -> None:
        """Copy the manifest with this digest, after everything that it refers to. It gets no tag. Blobs that the target
        has lost since are sent again."""
        there = self.target.digest(self.target_repository, digest) == digest
        manifest = self.source.manifest(self.source_repository, digest)
        document = json.loads(manifest.body)
        for part in document.get("manifests", []):
            self.image(str(part["digest"]))
        for blob in (*([document["config"]] if "config" in document else []), *document.get("layers", [])):
            self.blob(str(blob["digest"]), int(blob["size"]))
        if not there:
            self._put(manifest)

    def attached(self, digest: str, depth: int = 1) -> None:
        """Copy what is attached to the image with this digest, and what is attached to that in turn."""
        there = {known.digest for known in referrers.attached(self.target, self.target_repository, digest)}
        for artifact in referrers.attached(self.source, self.source_repository, digest):
            self.image(artifact.digest)
            if artifact.digest not in there:
                body = self.source.manifest(self.source_repository, artifact.digest).body
                referrers.register(self.target, self.target_repository, digest, artifact, body)
            if depth < _DEEPEST:
                self.attached(artifact.digest, depth + 1)

    def _put(self, manifest: Manifest) -> None:
        self.target.put_manifest(self.target_repository, manifest.digest, manifest.body, manifest.media_type)

    def blob(self, digest: str, size: int) -> None:
        """Copy a blob, or take it over within one registry."""
        if self.target.has_blob(self.target_repository, digest):
            return
        same = self.source_repository.partition("/")[0] == self.target_repository.partition("/")[0]
        if same and self.target.mount_blob(self.target_repository, digest, self.source_repository):
            return
        if size <= PIECE:
            self.target.push_blob(self.target_repository, self.source.blob(self.source_repository, digest))
        else:
            retry(lambda: self._stream(digest), self.backoff, self.clock, self.note)
        self.moved(size)

    def _stream(self, digest: str) -> None:
        self.target.write_blob(self.target_repository, digest, self._verified(digest))

    def _verified(self, digest: str) -> Iterator[bytes]:
        """The blob in pieces of PIECE bytes. Raises UpstreamRefused before the last one if they are not the blob's."""
        hasher, held = hashlib.sha256(), bytearray()
        for piece in self.source.read_blob(self.source_repository, digest):
            hasher.update(piece)
            held += piece
            if len(held) > PIECE:
                yield bytes(held[:PIECE])
                del held[:PIECE]
        if f"sha256:{hasher.hexdigest()}" != digest:
            raise UpstreamRefused(
                f"{self.source_repository} sent a blob other than {digest}",
                why=f"its digest is sha256:{hasher.hexdigest()}",
                hint="the registry's storage or something on the way is damaged; nothing was published there",
            )
        yield bytes(held)
