"""Write a layer of an image as a compressed tar whose bytes follow from its content alone."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from flagrelease.packaging.wheelhouse import EPOCH
from flagrelease.stages.image.compressed import Gzip
from flagrelease.store.files import translate_disk_errors, unfinished

__all__ = ["File", "Folder", "Layer", "Link", "with_folders", "write"]


@dataclass(frozen=True, kw_only=True)
class File:
    """A regular file."""

    content: bytes | Path
    """Its bytes, or a file of this machine that has them."""
    mode: int = 0o644


@dataclass(frozen=True, kw_only=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder. It has an entry also if the base has it: without one, container engines create it as their default."""

    mode: int = 0o755
    uid: int = 0
    gid: int = 0


Entry = File | Link | Folder


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer on this machine."""

    path: Path
    """The compressed tar."""
    digest: str
    """sha256:… of the compressed tar."""
    size: int
    """Of the compressed tar, in bytes."""
    diff_id: str
    """sha256:… of the tar."""
    unpacked: int
    """The size of its files and links, in bytes."""


def with_folders(entries: Mapping[str, Entry], known: Mapping[str, Folder]) -> dict[str, Entry]:
    """The entries, by path relative to the root, and an entry for each of their folders; `known` has the base's."""
    made: dict[str, Entry] = dict(entries)
    for name in entries:
        for parent in PurePosixPath(name).parents:
            if str(parent) != ".":
                made.setdefault(str(parent), known.get(str(parent), Folder()))
    return made


def write(entries: Mapping[str, Entry], target: Path) -> Layer:
    """Write the layer to `target`: sorted, without owners, dates and extended attributes of this machine.

    Raises NoSpace, EnvironmentFault.
    """
    with translate_disk_errors(f"writing the layer {target.name}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=unfinished())
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                digest, diff_id, unpacked = _write(entries, stream)
            size = temporary.stat().st_size
            temporary.chmod(0o644)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return Layer(path=target, digest=digest, size=size, diff_id=diff_id, unpacked=unpacked)


class _Tee:
    """What tarfile writes to: compressed, and hashed before that."""

    def __init__(self, packer: Gzip) -> None:
        self._packer, self.hasher = packer, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hasher.update(data)
        return self._packer.write(data)

    def tell(self) -> int:
        return self._packer.tell()


def _write(entries: Mapping[str, Entry], stream: IO[bytes]) -> tuple[str, str, int]:
    """Write the compressed tar; its digest, that of the tar, and the size of its files and links."""
    compressed = hashlib.sha256()

    def sink(data: bytes) -> None:
        compressed.update(data)
        stream.write(data)

    packer, unpacked = Gzip(sink), 0
    try:
        tee = _Tee(packer)
        with tarfile.open(fileobj=tee, mode="w", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
            for name in sorted(entries, key=lambda path: path.split("/")):
                unpacked += _add(tar, name, entries[name])
        packer.close()
    except BaseException:
        packer.abort()
        raise
    return f"sha256:{compressed.hexdigest()}", f"sha256:{tee.hasher.hexdigest()}", unpacked


def _add(tar: tarfile.TarFile, name: str, entry: Entry) -> int:
    """Add an entry; the size of its content."""
    header = tarfile.TarInfo(name)
    header.mtime = int(EPOCH)
    if isinstance(entry, Folder):
        header.type, header.mode, header.uid, header.gid = tarfile.DIRTYPE, entry.mode, entry.uid, entry.gid
        tar.addfile(header)
        return 0
    if isinstance(entry, Link):
        header.type, header.mode, header.linkname = tarfile.SYMTYPE, 0o777, entry.target
        tar.addfile(header)
        return len(entry.target.encode())  # as file systems and Docker count
    header.mode = entry.mode
    if isinstance(entry.content, bytes):
        header.size = len(entry.content)
        tar.addfile(header, io.BytesIO(entry.content))
    else:
        with entry.content.open("rb") as source:
            header.size = entry.content.stat().st_size
            tar.addfile(header, source)
    return header.size
