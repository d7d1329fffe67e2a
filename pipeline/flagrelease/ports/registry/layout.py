"""A folder in the OCI image layout (v1.1), used like a registry with one repository."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flagrelease.errors import ConfigError, UpstreamRefused
from flagrelease.ports.registry import INDEX_TYPE, MOVABLE, PIECE
from flagrelease.ports.registry.manifests import Manifest, manifest_type
from flagrelease.store.digests import sha256_of
from flagrelease.store.files import translate_disk_errors, unfinished, write_atomic

__all__ = ["INDEX", "MARK", "Layout", "blob_path"]

MARK, INDEX = "oci-layout", "index.json"
_NAME = "org.opencontainers.image.ref.name"
"""The annotation with the tag of a manifest."""


class Layout:
    """The registry's methods on a folder. `repository` is ignored. Nothing in the folder is trusted: manifests and
    blobs are verified as they are read, except by `read_blob`.

    Raises UpstreamRefused for content that is not what its digest says, and ConfigError for a damaged index.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._entries = _entries(folder / INDEX)

    @property
    def blobs(self) -> list[str]:
        """The digests of all blobs, which are not verified."""
        return sorted(f"sha256:{path.name}" for path in (self._folder / "blobs/sha256").iterdir())

    def digest(self, _repository: str, reference: str) -> str | None:
        found = [entry for entry in self._entries if reference in (entry["digest"], _tag(entry))]
        return str(found[0]["digest"]) if found else None

    def manifest(self, repository: str, reference: str) -> Manifest:
        digest = self.digest(repository, reference)
        if digest is None:
            raise UpstreamRefused(f"{self._folder} does not have {reference}")
        stated = next(str(entry.get("mediaType", "")) for entry in self._entries if entry["digest"] == digest)
        body = self.blob(repository, digest)
        return Manifest(digest=digest, media_type=manifest_type(stated, body, str(self._folder)), body=body)

    def blob(self, repository: str, digest: str) -> bytes:
        data = b"".join(self.read_blob(repository, digest))
        if f"sha256:{sha256_of(data)}" != digest:
            raise UpstreamRefused(f"{self._folder} has a blob other than {digest}", why=f"sha256:{sha256_of(data)}")
        return data

    def read_blob(self, _repository: str, digest: str) -> Iterator[bytes]:
        try:
            with blob_path(self._folder, digest).open("rb") as stream:
                while piece := stream.read(PIECE):
                    yield piece
        except OSError as error:
            raise UpstreamRefused(f"{self._folder} does not have the blob {digest}", why=error.strerror or "") from None

    def has_blob(self, _repository: str, digest: str) -> bool:
        return blob_path(self._folder, digest).is_file()

    def mount_blob(self, _repository: str, _digest: str, _source: str) -> bool:
        return False

    def push_blob(self, repository: str, data: bytes) -> str:
        digest = f"sha256:{sha256_of(data)}"
        self.write_blob(repository, digest, iter((data,)))
        return digest

    def write_blob(self, _repository: str, digest: str, pieces: Iterator[bytes]) -> None:
        path, hasher = blob_path(self._folder, digest), hashlib.sha256()
        with translate_disk_errors(f"writing {digest[:19]}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=unfinished())
            try:
                with os.fdopen(handle, "wb") as stream:
                    for piece in pieces:
                        hasher.update(piece)
                        stream.write(piece)
                if f"sha256:{hasher.hexdigest()}" != digest:
                    raise UpstreamRefused(f"what was sent is not {digest}", why=f"sha256:{hasher.hexdigest()}")
                Path(temporary).chmod(0o644)
                Path(temporary).replace(path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise

    def put_manifest(self, repository: str, reference: str, body: bytes, media_type: str) -> str:
        digest = self.push_blob(repository, body)
        entry: dict[str, Any] = {"mediaType": media_type, "digest": digest, "size": len(body)}
        document = json.loads(body)
        if "artifactType" in document:
            entry |= {"artifactType": document["artifactType"], "annotations": document.get("annotations") or {}}
        if reference != digest:
            entry["annotations"] = {_NAME: reference}
            self._entries = [each for each in self._entries if _tag(each) != reference]
        self._entries = [each for each in self._entries if each["digest"] != digest or _tag(each)]
        self._entries.append(entry)
        self._write()
        return digest

    def referrers(self, repository: str, digest: str) -> bytes | None:
        found = {}
        for entry in self._entries:
            if _subject(self.blob(repository, str(entry["digest"]))) == digest:
                found[entry["digest"]] = entry
        return json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": list(found.values())}).encode()

    def tag(self, repository: str, digest: str, tag: str) -> None:
        taken = self.digest(repository, tag)
        if taken not in (None, digest) and tag not in MOVABLE:
            raise UpstreamRefused(f"{self._folder} has {tag} already", why=f"it names {taken}, not {digest}")
        known = self.manifest(repository, digest)
        self.put_manifest(repository, tag, known.body, known.media_type)

    def check_push(self, _repository: str) -> None:
        with translate_disk_errors(f"writing {self._folder.name}"):
            self._folder.mkdir(parents=True, exist_ok=True)

    def _write(self) -> None:
        ordered = sorted(self._entries, key=lambda entry: (str(entry["digest"]), _tag(entry)))
        index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": ordered}
        write_atomic(self._folder / INDEX, json.dumps(index, indent=1, sort_keys=True).encode() + b"\n")
        write_atomic(self._folder / MARK, b'{"imageLayoutVersion": "1.0.0"}\n')


def blob_path(folder: Path, digest: str) -> Path:
    """The file of a blob. Raises UpstreamRefused for something else than a sha256."""
    algorithm, _, hexadecimal = digest.partition(":")
    if algorithm != "sha256" or len(hexadecimal) != 64 or not set(hexadecimal) <= set("0123456789abcdef"):
        raise UpstreamRefused(f"{digest[:80]!r} is not a sha256 digest")
    return folder / "blobs" / algorithm / hexadecimal


def _entries(index: Path) -> list[dict[str, Any]]:
    if not index.exists():
        return []
    try:
        document = json.loads(index.read_bytes())
        entries = [dict(entry) for entry in document["manifests"]]
        for entry in entries:
            blob_path(index.parent, entry["digest"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{index} is damaged", why=f"{type(error).__name__}: {error}") from None
    return entries


def _subject(manifest: bytes) -> str:
    """The digest of what a manifest is attached to; empty if there is none."""
    try:
        document = json.loads(manifest)
    except (ValueError, RecursionError):
        return ""
    subject = document.get("subject") if isinstance(document, dict) else None
    return str(subject.get("digest", "")) if isinstance(subject, dict) else ""


def _tag(entry: Mapping[str, Any]) -> str:
    annotations = entry.get("annotations")
    return str(annotations.get(_NAME, "")) if isinstance(annotations, dict) else ""
