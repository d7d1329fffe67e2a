"""Unpack wheels into a folder as an installer does, without the Python that they are for."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from flagrelease.errors import UpstreamRefused
from flagrelease.packaging.wheelhouse import Wheelhouse
from flagrelease.stages.image.layer import Entry, File

__all__ = ["entries", "unpack"]

_BAD = (ValueError, KeyError, EOFError, NotADirectoryError, IsADirectoryError)
"""What else a wheel raises that is damaged or contradicts another one."""
_INSTALLER = {"INSTALLER": b"flagrelease\n"}


def unpack(wheels: Wheelhouse, target: Path, interpreter: str) -> None:
    """Unpack the installed wheels below `target`: packages there, programs in its `bin`, which start `interpreter`.
    Of a file that two wheels have, that of the later one stays.

    Raises UpstreamRefused for a wheel that is damaged, or whose files would leave the folder.
    """
    from installer import install
    from installer.destinations import SchemeDictionaryDestination
    from installer.exceptions import InstallerError
    from installer.sources import WheelFile

    class Sources(WheelFile):
        """A wheel without the bytecode that some have: it is made for the base's Python instead."""

        def get_contents(self) -> Iterator[Any]:
            yield from (each for each in super().get_contents() if "__pycache__" not in each[0][0].split("/"))

    class Destination(SchemeDictionaryDestination):
        """A folder in which pure, other and extra files lie together."""

        def finalize_installation(self, scheme: Any, record_file_path: str, records: Iterable[Any]) -> None:
            together = [(scheme if self.scheme_dict[place] == root else place, record) for place, record in records]
            super().finalize_installation(scheme, record_file_path, together)

    root = str(target)
    for wheel in wheels.installed:
        places = {
            "purelib": root,
            "platlib": root,
            "data": root,
            "scripts": f"{root}/bin",
            "headers": f"{root}/include/python/{wheel.name}",
        }
        destination = Destination(places, interpreter=interpreter, script_kind="posix", overwrite_existing=True)
        try:
            with Sources.open(wheels.folder / wheel.file) as source:
                install(source, destination, _INSTALLER)
        except (InstallerError, BadZipFile, zlib.error, *_BAD) as error:
            raise UpstreamRefused(f"{wheel.file} cannot be unpacked", why=str(error)) from error
    _let_read(target)


def _let_read(folder: Path) -> None:
    """Let the base image's user read the folder, whatever this user's umask is."""
    for parent, _folders, names in os.walk(folder):
        Path(parent).chmod(0o755)
        for name in names:
            path = Path(parent, name)
            path.chmod(_mode(path))


def _mode(path: Path) -> int:
    """Of a file's mode only whether it is a program counts: this user's umask decides the rest."""
    return 0o755 if path.stat().st_mode & 0o100 else 0o644


def entries(folder: Path, inside: str) -> dict[str, Entry]:
    """The regular files below `folder` as entries of a layer, below the path `inside`."""
    paths = [Path(parent, name) for parent, _folders, names in os.walk(folder) for name in names]
    return {f"{inside}/{path.relative_to(folder).as_posix()}": File(content=path, mode=_mode(path)) for path in paths}
