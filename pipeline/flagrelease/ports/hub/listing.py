"""The file listing of a hub, and the check that its names are safe to write. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from flagrelease.config.lockfile import LockedFile, set_digest
from flagrelease.errors import HubRefused

MOST_FILES = 10_000
_LONGEST_NAME = 255
_LONGEST_PATH = 1024
_RESERVED = (".incomplete", ".parallel_tmp")  # the ModelScope client keeps unfinished files under these names
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of a source at one revision."""

    source: str
    revision: str
    files: tuple[LockedFile, ...]
    """A file's sha256 is empty if the hub does not list it."""
    archive: LockedFile | None = None
    """The archive that the files are members of."""
    blobs: Mapping[str, str] = field(default_factory=dict)
    """By path, the git blob id that the hub lists for a file without a sha256."""
    unverified: tuple[str, ...] = ()
    """The paths of the files whose sha256 was taken from the first download, since the hub lists neither it nor a
    blob id."""

    @property
    def digest(self) -> str:
        return set_digest(self.files)


def is_commit(revision: str) -> bool:
    """Whether `revision` is a commit id: immutable, unlike a branch or a tag."""
    return _COMMIT.fullmatch(revision) is not None


def check_names(paths: Iterable[str], source: str) -> None:
    """Raise HubRefused unless all `paths` can be written below one folder, each to a distinct file."""
    seen: dict[str, str] = {}
    for number, path in enumerate(paths):
        if number >= MOST_FILES:
            raise _refused(source, f"more than {MOST_FILES} files")
        if problem := _problem(path):
            raise _refused(source, f"{path!r} {problem}")
        # Names that differ only in case or Unicode composition are the same file on many file systems.
        plain = unicodedata.normalize("NFC", path).casefold()
        if plain in seen:
            raise _refused(source, f"{path!r} and {seen[plain]!r} are the same file if the file system ignores case")
        seen[plain] = path
    for plain, path in seen.items():
        above = plain.split("/")[:-1]
        for depth in range(1, len(above) + 1):
            if (folder := "/".join(above[:depth])) in seen:
                raise _refused(source, f"{seen[folder]!r} is both a file and the folder of {path!r}")
        for suffix in _RESERVED:
            if plain.endswith(suffix) and plain.removesuffix(suffix) in seen:
                raise _refused(source, f"{path!r} has the name of an unfinished download")
    if not seen:
        raise _refused(source, "no files")


def _problem(path: str) -> str:
    try:
        raw = path.encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    parts = path.split("/")
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return "is an absolute path"
    if "\\" in path:
        return "has a backslash"
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in path):
        return "has a control character"
    if any(part in ("", ".", "..") for part in parts):
        return "leaves its folder or has an empty part"
    if len(raw) > _LONGEST_PATH or any(len(part.encode()) > _LONGEST_NAME for part in parts):
        return "is longer than file systems allow"
    return ""


def _refused(source: str, why: str) -> HubRefused:
    return HubRefused(
        f"the file list of {source} is refused",
        why=why,
        hint="nothing was written; report it to the hub, or use another source",
    )
