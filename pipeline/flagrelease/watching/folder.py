"""Check the copy of a release in a directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flagrelease.config.targets import Target
from flagrelease.contract.results import Delivered
from flagrelease.errors import EnvironmentFault
from flagrelease.releases.rot import Check
from flagrelease.stages.publish.release_folder import SUMS
from flagrelease.store.digests import file_sha256
from flagrelease.watching.subject import Look, Step, Subject, holds, rotten

__all__ = ["inspect"]


def inspect(subject: Subject, copy: Delivered, target: Target, look: Look) -> Sequence[Step]:
    """Whether the directory still has every file, with its content if `look.deep`."""
    return [Step(check="copy", make=lambda: _copy(subject, Path(copy.place), Path(target.to), look))]


def _copy(subject: Subject, folder: Path, root: Path, look: Look) -> Check:
    if not root.is_dir():
        raise EnvironmentFault(f"{root} is not there", why="it may not be mounted")
    hint = f"`flagrelease run {subject.cell} --force publish` writes it again"
    try:
        listed = (folder / SUMS).read_text(errors="replace")
    except FileNotFoundError:
        return rotten("copy", str(folder), "the copy is no longer there", why=f"it has no {SUMS}", hint=hint)
    except OSError as error:
        raise EnvironmentFault(f"{folder} cannot be read", why=error.strerror or str(error)) from None
    own = subject.folder / SUMS
    if own.is_file() and own.read_text(errors="replace") != listed:
        hint = "find out who changed it; move it away, and it is written again"
        return rotten("copy", str(folder), "the copy was changed", why=f"its {SUMS} is another", hint=hint)
    files = [line.split("  ", 1) for line in listed.splitlines() if "  " in line]
    wrong = [name for digest, name in files if not _there(folder / name, digest, deep=look.deep)]
    if wrong:
        what = f"{len(wrong)} of {len(files)} files are missing" + (" or changed" if look.deep else "")
        hint = f"move the directory away; {hint}"
        return rotten("copy", str(folder), what, why=", ".join(wrong[:3]), hint=hint)
    return holds("copy", str(folder), f"all {len(files)} files are there{', unchanged' if look.deep else ''}")


def _there(path: Path, digest: str, *, deep: bool) -> bool:
    return path.is_file() and (not deep or file_sha256(path) == digest)
