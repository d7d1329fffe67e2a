"""The folder of a release: written completely or not at all, and never changed."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from flagrelease.errors import EnvironmentFault
from flagrelease.store.digests import file_sha256
from flagrelease.store.evidence import Evidence
from flagrelease.store.files import abandoned, sync_folder, translate_disk_errors, unfinished, write_atomic

LATEST = "latest"
SUMS = "SHA256SUMS"


def evidence_paths(results: Iterable[tuple[str, Iterable[Evidence]]]) -> dict[str, Evidence]:
    """The evidence of stages, each given with its stage's name, by path in the release folder."""
    files_by_path: dict[str, Evidence] = {}
    for stage, files in results:
        for file in files:
            base = re.sub(r"[^\w.-]+", "_", file.name).lstrip(".") or "file"
            path = f"evidence/{stage}/{base}"
            if files_by_path.get(path, file) != file:
                path = f"evidence/{stage}/{file.sha256[:12]}-{base}"
            files_by_path[path] = file
    return files_by_path


def write(folder: Path, sources: Mapping[str, Path]) -> None:
    """Write exactly `sources` and their sha256 sums to `folder`, which appears only once it is complete."""
    sums = "".join(f"{file_sha256(source)}  {name}\n" for name, source in sorted(sources.items()))
    if folder.exists():
        _compare(folder, sums)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    for leftover in filter(abandoned, folder.parent.iterdir()):
        shutil.rmtree(leftover, ignore_errors=True)
    with translate_disk_errors(f"writing {folder.name}"):
        fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=unfinished()))
        try:
            fresh.chmod(0o755)
            for name, source in sources.items():
                write_atomic(fresh / name, source.read_bytes())
            write_atomic(fresh / SUMS, sums.encode())
            fresh.rename(folder)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        sync_folder(folder.parent)


def _compare(folder: Path, sums: str) -> None:
    listed = [line.split("  ", 1) for line in sums.splitlines()]
    changed = [name for digest, name in listed if not (folder / name).is_file() or file_sha256(folder / name) != digest]
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    changed += sorted(present - {name for _, name in listed} - {SUMS})
    if changed or (folder / SUMS).read_text() != sums:
        raise EnvironmentFault(
            f"the release folder {folder} was changed after it was written",
            why=", ".join(changed) or SUMS,
            hint="move it away and run again: it is rewritten from the evidence",
        )


def point_latest(folder: Path) -> None:
    """Make the link `latest` next to the folder lead to it."""
    fresh = folder.parent / f"{unfinished()}{LATEST}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(folder.name)
    fresh.replace(folder.parent / LATEST)
    sync_folder(folder.parent)
