"""file://: files on this machine. They are copied, so that later changes to the originals do no harm."""

from __future__ import annotations

import os
from pathlib import Path

from flagrelease.config.lockfile import LockedFile
from flagrelease.errors import HubRefused
from flagrelease.ports.hub.disk import BLOCK, sha256_of
from flagrelease.ports.hub.listing import Listing, check_names
from flagrelease.ports.hub.watch import Watch


class Folder:
    """A folder, or a single file."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self.name = name

    def listing(self, scratch: Path, watch: Watch) -> Listing:  # noqa: ARG002  nothing is fetched
        """All files, hashed. Raises HubRefused."""
        paths = self._paths()
        check_names(paths, self.name)
        files: list[LockedFile] = []
        for path in sorted(paths):
            size, sha256 = sha256_of(self._at(path))
            files.append(LockedFile(path=path, size=size, sha256=sha256))
        return Listing(source="", revision="", files=tuple(files))

    def get(self, file: LockedFile, staging: Path, watch: Watch, *, fresh: bool) -> Path:  # noqa: ARG002  nothing to resume
        """Copy the file below `staging`. Raises HubRefused."""
        target = staging / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            source = self._at(file.path).open("rb")
        except FileNotFoundError:
            raise HubRefused(
                f"{self.name} has no {file.path}", hint="if it was moved, run `flagrelease lock`"
            ) from None
        with source, target.open("wb") as out:
            while block := source.read(BLOCK):
                out.write(block)
                watch.arrived(len(block))
        return target

    def _paths(self) -> list[str]:
        if self._path.is_file():
            return [self._path.name]
        if not self._path.is_dir():
            raise HubRefused(f"{self.name} is neither a file nor a folder", why=f"{self._path} does not exist")
        paths = []
        for base, folders, names in os.walk(self._path):
            folders.sort()
            for name in names:
                path = Path(base) / name
                if not path.is_file():
                    raise HubRefused(f"{self.name} is refused", why=f"{path} is not a regular file")
                paths.append(path.relative_to(self._path).as_posix())
        return paths

    def _at(self, path: str) -> Path:
        return self._path if self._path.is_file() else self._path / path
