"""file://: files on this machine. They are copied, so that later changes to the originals do no harm."""

from __future__ import annotations

import re
from pathlib import Path

from flagrelease.config.lockfile import LockedFile
from flagrelease.errors import HubRefused
from flagrelease.ports.hub.disk import BLOCK, sha256_of
from flagrelease.ports.hub.listing import Listing, check_names
from flagrelease.ports.hub.watch import Watch

# The remains of git, of download programs, of editors and of file managers. They change while the model does not, and
# would be in its digest.
_LITTER = re.compile(
    r"\.(git|svn|hg|cache|huggingface|ipynb_checkpoints|idea|vscode|DS_Store|Spotlight-V100|Trashes|fseventsd)"
    r"|\.(msc|mv|mdl|_____temp)|\._.*|\.nfs.*|\.fuse_hidden.*|\.~lock\..*|.*~|\..*\.sw[a-p]"
    r"|__MACOSX|__pycache__|Thumbs\.db|desktop\.ini|lost\+found"
    r"|.*\.(incomplete|partial|part|crdownload|aria2|download|lock|tmp)",
    re.IGNORECASE,
)

_REPLACE_LINK = "put the file itself there, or remove it"


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is never part of a model."""
    return _LITTER.fullmatch(name) is not None


class Folder:
    """A folder, or a single file."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self.name = name

    def listing(self, scratch: Path, watch: Watch) -> Listing:  # noqa: ARG002  nothing is fetched
        """All files, hashed. Raises HubRefused."""
        paths = self._paths(watch)
        check_names(paths, self.name)
        files: list[LockedFile] = []
        for path in sorted(paths):
            try:
                size, sha256 = sha256_of(self.at(path))
            except OSError as error:
                raise self._refused(f"{path} cannot be read: {error.strerror}") from None
            files.append(LockedFile(path=path, size=size, sha256=sha256))
        return Listing(source="", revision="", files=tuple(files))

    def get(self, file: LockedFile, staging: Path, watch: Watch, *, fresh: bool) -> Path:  # noqa: ARG002  nothing to resume
        """Copy the file below `staging`. Raises HubRefused."""
        target = staging / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            source = self.at(file.path).open("rb")
        except FileNotFoundError:
            raise HubRefused(
                f"{self.name} has no {file.path}", hint="if it was moved, run `flagrelease lock`"
            ) from None
        except OSError as error:
            raise self._refused(f"{file.path} cannot be read: {error.strerror}") from None
        with source, target.open("wb") as out:
            while block := source.read(BLOCK):
                out.write(block)
                watch.arrived(len(block))
        return target

    def _paths(self, watch: Watch) -> list[str]:
        """The files of the folder. Symbolic links are followed as far as they stay in it; the remains of the programs
        that made it are left out."""
        if self._path.is_file():
            return [self._path.name]
        if not self._path.is_dir():
            raise HubRefused(f"{self.name} is neither a file nor a folder", why=f"{self._path} does not exist")
        paths: list[str] = []
        left_out: list[str] = []
        self._walk(self._path, (), paths, left_out)
        if left_out:
            watch.note(f"{self.name}: left out {', '.join(sorted(left_out))}")
        for path in left_out:
            unfinished = path.removesuffix(".aria2")
            if unfinished in paths and unfinished != path:
                raise self._refused(f"{unfinished} is an unfinished download, as {path} shows")
        return paths

    def _walk(self, folder: Path, above: tuple[Path, ...], paths: list[str], left_out: list[str]) -> None:
        real = folder.resolve()
        if real in above:
            raise self._refused(f"{folder} leads back to a folder that holds it")
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            raise self._refused(f"{folder} cannot be read: {error.strerror}") from None
        for path in entries:
            relative = path.relative_to(self._path).as_posix()
            if is_litter(path.name):
                left_out.append(relative)
                continue
            if path.is_symlink():
                self._check_link(path)
            if path.is_dir():
                self._walk(path, (*above, real), paths, left_out)
            elif path.is_file():
                paths.append(relative)
            else:
                raise self._refused(f"{path} is not a regular file")

    def _check_link(self, path: Path) -> None:
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):  # RuntimeError: a loop
            why = f"{path} is a symbolic link to {path.readlink()}, which does not exist"
            raise self._refused(why, _REPLACE_LINK) from None
        if not any(target.is_relative_to(folder) for folder in self._own()):
            raise self._refused(f"{path} is a symbolic link that leaves the folder, to {target}", _REPLACE_LINK)

    def _own(self) -> tuple[Path, ...]:
        """The folders that links may lead to: this one, and the cache of a hub's client that it is a snapshot of."""
        real = self._path.resolve()
        cache = real.parents[1] if len(real.parents) > 1 else real
        return (real, cache / "blobs") if real.parent.name == "snapshots" and (cache / "blobs").is_dir() else (real,)

    def _refused(self, why: str, hint: str = "") -> HubRefused:
        return HubRefused(f"{self.name} is refused", why=why, hint=hint)

    def at(self, path: str) -> Path:
        """Where the file with this path lies."""
        return self._path if self._path.is_file() else self._path / path
