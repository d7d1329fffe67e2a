"""What only the base image's own Python knows: where its packages are, which it has, and bytecode that it accepts.

Each is found in a throw-away container, once for a base image, and checked.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import MAGIC_NUMBER, source_hash
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import msgspec

from flagrelease.config.chip import Container
from flagrelease.errors import EnvironmentFault, UpstreamRefused
from flagrelease.packaging import one_shot
from flagrelease.packaging.base_image import base_image
from flagrelease.ports import python_probe
from flagrelease.ports.container_runner import labels
from flagrelease.recipe.container import ContainerRun, Placement
from flagrelease.recipe.image_paths import DOCKER
from flagrelease.store.digests import sha256_of
from flagrelease.store.files import translate_disk_errors, write_atomic

if TYPE_CHECKING:
    from flagrelease.contract.context import Context
    from flagrelease.contract.job import Job

__all__ = ["Facts", "bytecode", "facts"]

PTH = "flagos.pth"
_OURS = (DOCKER.packages, f"{DOCKER.packages}/bin", DOCKER.programs, DOCKER.bundle)
"""The folders that an image adds files to."""

_FACTS = r"""
import json, os, pathlib, shutil, site, stat, subprocess, sys
probe, pth, packages, *ours = sys.argv[1:]
place = os.path.realpath(site.getsitepackages()[0])
seen, moved = {}, []
for folder in [place, *ours]:
    for path in [pathlib.Path(folder), *pathlib.Path(folder).parents][:-1]:
        if os.path.realpath(path) != str(path):
            moved.append(str(path))
        if path.is_dir():
            found = path.stat()
            seen[str(path)] = [stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid]
# As in the image: what comes first on the path counts, and other .pth files may add to it.
os.makedirs(place, exist_ok=True)
os.makedirs(packages, exist_ok=True)
with open(os.path.join(place, pth), "w") as stream:
    stream.write(packages + "\n")
on_path = '''
import importlib.metadata as metadata, json, re, sys
found = []
for folder in sys.path:
    names = {}
    for each in metadata.distributions(path=[folder]):
        if each.metadata["Name"]:
            names.setdefault(re.sub("[-_.]+", "-", each.metadata["Name"]).lower(), each.version)
    found.append([folder, names])
print(json.dumps(found))
'''
def printed(program):
    return json.loads(subprocess.run(["python3", "-c", program], stdout=subprocess.PIPE, check=True).stdout)
print(json.dumps({"command": shutil.which("python3"), "executable": sys.executable, "site": place, "folders": seen,
                  "moved": moved, "path": printed(on_path), "seen": printed(probe)}))
"""

_BYTECODE = r"""
import importlib.util, io, multiprocessing, os, re, sys, tarfile
from importlib._bootstrap_external import _code_to_hash_pyc
root, target, skipped = sys.argv[1], sys.argv[2], re.compile(sys.argv[3])

def sources(top):
    paths = [top] if os.path.isfile(top) else [
        os.path.join(folder, name) for folder, _, names in os.walk(top) for name in names]
    return sorted(path for path in paths if path.endswith(".py") and not skipped.search(path))

def compiled(top):
    made = []
    for path in sources(top):
        with open(path, "rb") as stream:
            source = stream.read()
        try:
            code = compile(source, path, "exec", dont_inherit=True)
        except Exception:
            continue
        data = _code_to_hash_pyc(code, importlib.util.source_hash(source))
        made.append((importlib.util.cache_from_source(path), data))
    return made

if __name__ == "__main__":
    tops = [os.path.join(root, name) for name in sorted(os.listdir(root)) if name != "bin"]
    # Bytecode depends on what its process compiled before: so one process for each, forked from one that compiled none.
    with multiprocessing.get_context("fork").Pool(maxtasksperchild=1) as pool, tarfile.open(target, "w") as tar:
        for made in pool.imap(compiled, tops, chunksize=1):
            for path, data in made:
                entry = tarfile.TarInfo(os.path.relpath(path, root))
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
"""
"""Validated by hash instead of timestamp, so that a file has the same bytecode each time. Programs need none, and tests
and FlagScale's files that are not valid Python get none."""
_NOT_COMPILED = "/(tests?|testing|examples)/"
_SECONDS = 1200.0
_CHECKED_HASH = 3
"""The flags of bytecode that is validated by the hash of its source."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A base image's Python, its packages and its folders."""

    command: str
    """What the shell finds as `python3`."""
    executable: str
    """What that calls itself: what programs of packages start."""
    site: str
    """Its first folder of packages, without symbolic links."""
    folders: Mapping[str, tuple[int, int, int]]
    """Mode, user and group of the folders that an image adds to, by path; without those that the base does not have."""
    moved: tuple[str, ...]
    """Those of them that are symbolic links."""
    path: tuple[tuple[str, Mapping[str, str]], ...]
    """The folders of packages as an import searches them, with the release's own, each with its packages."""
    seen: python_probe.Seen
    """The Python and the system."""
    size: int = 0
    """The base image's size, unpacked, in bytes."""

    def packages(self, ours: Mapping[str, str]) -> dict[str, str]:
        """The packages of an image that adds `ours`, by normalised name. Of two the one that imports find counts."""
        found: dict[str, str] = {}
        for folder, names in self.path:
            found = {**(ours if folder == DOCKER.packages else names), **found}
        return found


def facts(job: Job, context: Context, base_id: str) -> Facts:
    """The facts of the job's base image, which are kept in the workspace. Raises EnvironmentFault, UpstreamRefused."""
    program = [_FACTS, python_probe.PROGRAM, PTH, DOCKER.packages, *_OURS]
    kept = context.workspace.layers / f"base-{sha256_of(chr(10).join([base_id, *program]).encode())[:32]}.json"
    try:
        found = msgspec.json.decode(kept.read_bytes(), type=Facts)
    except (OSError, msgspec.DecodeError):
        reference, image = base_image(job, context)
        context.progress.doing("asking the Python of the base image")
        with context.meter.waiting():
            ours = labels(context.run_id, job.cell.id, context.workspace.root)
            printed = context.ports.runner.output(reference, ["python3", "-c", *program], ours)
        found = replace(_decoded(printed), size=image.size)
        write_atomic(kept, msgspec.json.format(msgspec.json.encode(found), indent=1))
    _check(found, job.cell.chip.python)
    return found


def _decoded(printed: str) -> Facts:
    try:
        return msgspec.json.decode(printed.strip().splitlines()[-1], type=Facts)
    except (IndexError, msgspec.DecodeError) as error:
        why = f"{error}: {printed.strip()[-200:]!r}"
        raise UpstreamRefused("the Python of the base image does not say what it is", why=why) from error


def _check(found: Facts, wanted: str) -> None:
    """Raise UpstreamRefused for a base image that files cannot be added to, EnvironmentFault for another Python."""
    if found.seen.python.rsplit(".", 1)[0] != wanted:
        raise EnvironmentFault(
            f"the base image has Python {found.seen.python}",
            why=f"matrix.yaml has `python: {wanted}` for the chip, and its packages are made for that version",
            hint="correct `python` in matrix.yaml, then run `flagrelease lock`",
        )
    problem = ""
    if found.moved:
        problem = f"{found.moved[0]} is a symbolic link, which a layer would replace"
    elif not all(path.startswith("/") for path in (found.command, found.executable, found.site)):
        problem = f"its Python names no absolute paths: {found.command}, {found.executable}, {found.site}"
    elif DOCKER.packages not in [folder for folder, _names in found.path]:
        problem = f"{found.site}/{PTH} is without effect there"
    if problem:
        raise UpstreamRefused("no packages can be added to the base image", why=problem, hint="choose another base")


def bytecode(job: Job, context: Context, packages: Path, target: Path) -> dict[str, bytes]:
    """Bytecode for the folder `packages`, by path relative to it, made by the base image's Python without network; the
    folder is read-only there. `target` is the file that it writes to.

    Raises CommandFailed, and UpstreamRefused for something else than bytecode of these sources.
    """
    reference, _image = base_image(job, context)
    context.progress.doing("compiling the packages")
    with translate_disk_errors("compiling the packages"):
        target.write_bytes(b"")
        target.chmod(0o666)  # the container's user may be another one
    name = f"flagrelease-{job.cell.slug}-bytecode-{context.run_id}"
    run = ContainerRun(
        image=reference,
        entrypoint=("python3",),
        command=("-W", "ignore", "-c", _BYTECODE, DOCKER.packages, "/bytecode.tar", _NOT_COMPILED),
        mounts=(f"{packages.resolve()}:{DOCKER.packages}:ro", f"{target.resolve()}:/bytecode.tar"),
        env={"PYTHONHASHSEED": "0", "PYTHONOPTIMIZE": "", "PYTHONPYCACHEPREFIX": ""},
        flags=Container(),
        offline=True,
        placement=Placement(name=name, port=None, labels=labels(context.run_id, job.cell.id, context.workspace.root)),
    )
    one_shot.finish(context, run, seconds=_SECONDS, line=lambda _text: None)
    return _read(target, packages)


def _read(archive: Path, packages: Path) -> dict[str, bytes]:
    """The files of the archive. Raises UpstreamRefused unless each is bytecode of a file in `packages`."""
    made: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as tar:
            for entry in tar:
                content = tar.extractfile(entry)
                made[entry.name] = content.read() if content is not None else b""
    except (tarfile.TarError, EOFError) as error:
        raise UpstreamRefused("the base image's Python made no bytecode", why=str(error)) from error
    magic = next(iter(made.values()), b"")[:4]
    for name, data in made.items():
        if problem := _problem(PurePosixPath(name), data, magic, packages):
            raise UpstreamRefused("the base image's Python made something else than bytecode", why=f"{name} {problem}")
    return made


def _problem(path: PurePosixPath, data: bytes, magic: bytes, packages: Path) -> str:
    """Why a file is not bytecode of one in `packages`; empty if it is."""
    source = packages / path.parent.parent / f"{path.name.rsplit('.', 2)[0]}.py"
    if path.is_absolute() or ".." in path.parts or path.parent.name != "__pycache__" or not source.is_file():
        return "belongs to no source"
    if data[:4] != magic or int.from_bytes(data[4:8], "little") != _CHECKED_HASH:
        return "is not validated by the hash of its source"
    # The hash depends on the version of Python: only the same one can check it.
    if magic == MAGIC_NUMBER and data[8:16] != source_hash(source.read_bytes()):
        return "is of another source"
    return ""
