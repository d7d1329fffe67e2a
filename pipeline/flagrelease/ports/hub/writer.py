"""The port by which a release is written to a model hub."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flagrelease.ports.hub.disk import git_blob

__all__ = ["Content", "HubWriter", "Upload", "differing"]


@dataclass(frozen=True, kw_only=True)
class Content:
    """A repository at one revision."""

    commit: str
    """The commit; empty if the hub does not name it."""
    digests: Mapping[str, str]
    """By path, `sha256:…` or, of files that the hub keeps in git, `git:…`."""
    private: bool
    """Whether only its owners see it."""


class Upload(Protocol):
    """Files of which the hub has the large ones, and which nobody sees yet."""

    def commit(self, delete: Collection[str], message: str, parent: str) -> None:
        """Make them visible, all at once, and remove the paths in `delete`. Refused if the repository is no longer at
        `parent`, where the hub supports that. Raises HubRefused, HubUnavailable."""
        ...


class HubWriter(Protocol):
    """One hub. `repository` is OWNER/NAME. Methods raise HubRefused, HubUnavailable."""

    def check(self, owner: str) -> None:
        """Raise unless the token may write to the owner's repositories, as far as the hub says so."""
        ...

    def at(self, repository: str, revision: str = "") -> Content | None:
        """The content at a tag or, by default, the newest; None if there is no such repository or tag."""
        ...

    def create(self, repository: str, *, private: bool, license_id: str) -> None: ...

    def upload(self, repository: str, files: Mapping[str, Path]) -> Upload:
        """Send the large files that the hub does not have."""
        ...

    def tag(self, repository: str, tag: str, commit: str) -> None:
        """Give a commit a tag; the newest one if `commit` is empty."""
        ...

    def page(self, repository: str, tag: str) -> str:
        """The URL of a release."""
        ...

    def repository(self, page: str) -> str:
        """The repository that a `page` is of; empty for a page of another hub."""
        ...


def differing(content: Content, files: Mapping[str, Path], sha256: Mapping[str, str]) -> list[str]:
    """The paths of `files` that the hub does not have with the same content; `sha256` has their sums (hex)."""

    def own(path: str, kind: str) -> str:
        return git_blob(files[path]) if kind == "git" else sha256[path]

    return [
        path
        for path in files
        if (known := content.digests.get(path, "")) != f"{(kind := known.partition(':')[0])}:{own(path, kind)}"
    ]
