"""Programs as plain processes of this machine, for hosts where we are inside a container already.

An image is a folder in the workspace that holds what the image would add to its base; the base is the machine.
There is no isolation: no limits, no network of its own, and a mount keeps its path or is a link below the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from flagrelease.errors import CommandFailed, EnvironmentFault
from flagrelease.ports import command, python_probe
from flagrelease.ports.container_runner import CELL_LABEL, WORKSPACE_LABEL, Ended, Host, LocalImage, Moved, Running
from flagrelease.ports.processes import listening, supervisor
from flagrelease.recipe.container import MODELS, ContainerRun, RunnerKind
from flagrelease.recipe.image_paths import Layout, under
from flagrelease.redact import redact, secret
from flagrelease.store.files import translate_disk_errors, write_atomic
from flagrelease.store.workspace import Workspace

IMAGE = "image.json"
"""Written last: a folder without it is no image yet."""

MARK = "FLAGRELEASE_PROCESS"
"""In the environment of all that a process starts, so that what leaves the tree is found again."""

_RUN = "run.json"
_LOG = "log"
_LOOK_SECONDS = 60.0
_OUTPUT_SECONDS = 600.0
_POLL = 0.1
_LONGEST_LINE = 4096
_DEAD_SECONDS = 15.0

_OURS = ("FLAGRELEASE_", "FLAGOS_", "PYTEST_", "VIRTUAL_ENV", "XDG_CACHE_HOME")


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What IMAGE says. `size` is in bytes; the first word of `entrypoint` is looked for on the image's PATH."""

    digest: str
    size: int
    labels: Mapping[str, str]
    entrypoint: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What takes the place of a base image. `python` is the path of the python3 that comes first on PATH, our own
    virtual environment left out, and `path` that PATH; `sites` are its folders of packages; `id` is that of system and
    packages."""

    name: str
    id: str
    system: str
    python: Path
    version: str
    sites: tuple[str, ...]
    path: str

    def fits(self, python: str) -> bool:
        """Whether packages for Python MAJOR.MINOR can be used here."""
        return self.version.split(".")[:2] == python.split(".")


class ProcessRunner:
    kind: RunnerKind = "process"

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    @cached_property
    def machine(self) -> Machine:
        """Raises EnvironmentFault where there is no python3."""
        argv, env = ["python3", "-c", python_probe.PROGRAM], _surroundings()
        done = command.run(argv, seconds=_LOOK_SECONDS, env=env, inherit=False, hint="install python3")
        seen = python_probe.read(done.stdout)
        identity = json.dumps([seen.system, seen.python, seen.packages], sort_keys=True)
        return Machine(
            name=f"this machine: {seen.system}, Python {seen.python}",
            id=f"sha256:{hashlib.sha256(identity.encode()).hexdigest()}",
            system=seen.system,
            python=Path(seen.executable),
            version=seen.python,
            sites=seen.sites,
            path=env["PATH"],
        )

    def version(self) -> Host:
        return Host(
            name="Runner", version="processes without Docker", os=self.machine.system, kernel=platform.release()
        )

    def image(self, reference: str) -> LocalImage | None:
        """The machine itself by its name, or an image by NAME@DIGEST."""
        if reference == self.machine.name:
            return LocalImage(id=self.machine.id, size=0, labels={})
        found = self._folder(reference)
        return None if found is None else LocalImage(id=found.digest, size=found.size, labels=found.labels)

    def pull(self, repository: str, digest: str, moved: Moved) -> LocalImage:  # noqa: ARG002 - nothing moves
        """Raises EnvironmentFault, unless it is here: there is nowhere to pull from."""
        found = self.image(f"{repository}@{digest}")
        if found is None:
            raise _absent(f"{repository}@{digest}")
        return found

    def start(self, run: ContainerRun) -> Running:
        """Raises EnvironmentFault for an image or program that is not here and a mount that cannot be; NoSpace."""
        layout, env, entrypoint = self._surroundings(run.image)
        for mount in (*run.flags.mounts, *run.mounts):
            _mount(layout, mount)
        if layout is not None and run.image not in [one["image"] for _folder, one in self._runs()]:
            # As a fresh container has it. What runs beside another stack shares it.
            shutil.rmtree(layout.home, ignore_errors=True)
            Path(layout.home).mkdir(parents=True)
        identity = uuid.uuid4().hex[:12]
        folder = self._workspace.processes / identity
        env |= {**run.env, MARK: identity, "HOME": str(folder / "home")}
        if run.placement.port is not None:
            env["FLAGOS_PORT"] = str(run.placement.port)
        program, *arguments = *(run.entrypoint or entrypoint), *run.command
        argv = [_program(program, env), *arguments]
        with translate_disk_errors("starting a process"):
            (folder / "home").mkdir(parents=True, mode=0o700)
            folder.chmod(0o700)
            labels = dict(run.placement.labels)
            write_atomic(
                folder / _RUN, json.dumps({"image": run.image, "labels": labels, "argv": argv}).encode(), mode=0o600
            )
            guard: list[str | Path] = [sys.executable, "-I", supervisor.__file__, folder, str(os.getpid())]
            try:
                started = command.spawn([*guard, *argv], log=folder / _LOG, env=env, cwd=folder / "home")
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        return Process(folder=folder, env=env, port_number=run.placement.port, popen=started, out_of_memory=_ooms())

    def output(self, image: str, argv: Sequence[str], labels: Mapping[str, str]) -> str:  # noqa: ARG002 - as a child
        _layout, env, _entrypoint = self._surroundings(image)
        try:
            return command.run(argv, seconds=_OUTPUT_SECONDS, env=env, inherit=False).stdout
        except CommandFailed as error:
            raise EnvironmentFault(error.what, why=error.why, detail=error.detail) from None

    def reap(self, cell: str, workspace: Path) -> int:
        wanted = {CELL_LABEL: cell, WORKSPACE_LABEL: str(workspace.resolve())}
        ended = 0
        for folder, run in self._runs():
            if wanted.items() <= run["labels"].items():
                _end(folder)
                ended += 1
        return ended

    def _runs(self) -> list[tuple[Path, Mapping[str, Any]]]:
        """What was started and not yet removed, by whatever run."""
        found = []
        for path in self._workspace.processes.glob(f"*/{_RUN}"):
            with suppress(OSError, ValueError):
                found.append((path.parent, json.loads(path.read_text())))
        return found

    def _folder(self, reference: str) -> Folder | None:
        _, _, digest = reference.partition("@")
        try:
            found = msgspec.json.decode((self._workspace.image(digest) / IMAGE).read_bytes(), type=Folder)
        except (OSError, msgspec.DecodeError):
            return None
        return found if found.digest == digest else None

    def _surroundings(self, image: str) -> tuple[Layout | None, dict[str, str], tuple[str, ...]]:
        """The image's layout, environment and entry point; the bare machine has only an environment."""
        env = _surroundings()
        found = shutil.which("python3", path=env["PATH"])
        if found is None or Path(found).resolve() != self.machine.python.resolve():
            # A launcher, as of a version manager, that may ask for the home folder which we replace.
            env["PATH"] = os.pathsep.join([str(self.machine.python.parent), env["PATH"]])
        if image in ("", self.machine.name):
            return None, env, ()
        folder = self._folder(image)
        if folder is None:
            raise _absent(image)
        layout = under(self._workspace.image(folder.digest))
        env["PATH"] = os.pathsep.join([layout.programs, f"{layout.packages}/bin", env["PATH"]])
        return layout, env, folder.entrypoint


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process that was started, with all that it starts. `out_of_memory` is how often memory had run out before."""

    folder: Path
    env: Mapping[str, str] = field(repr=False)
    port_number: int | None
    popen: subprocess.Popen[bytes]
    out_of_memory: int

    @property
    def id(self) -> str:
        return self.folder.name

    def port(self, inside: int) -> int:
        """Raises EnvironmentFault until it is one of its processes that listens there: who else does, would be asked
        and judged in its place."""
        if self.port_number is None:
            raise EnvironmentFault(f"{self.id} was given no port", why=f"port {inside} was asked for")
        found = listening.at(self.port_number)
        if not found & listening.held(supervisor.descendants(self.popen.pid)) and listening.owners_are_shown():
            why = "another program does" if found else "nothing does"
            raise EnvironmentFault(f"it does not listen at port {self.port_number}", why=why)
        return self.port_number

    def ended(self) -> Ended | None:
        code = self.popen.poll()
        if code is None:
            return None
        code = code if code >= 0 else 128 - code
        killed = code == 128 + signal.SIGKILL and _ooms() > self.out_of_memory
        return Ended(code=code, out_of_memory=killed, error="")

    def logs(self, lines: int) -> str:
        with suppress(OSError), (self.folder / _LOG).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LONGEST_LINE * lines))
            text = log.read().decode(errors="replace")
            return redact("".join(text.splitlines(keepends=True)[-lines:]))
        return ""

    def lines(self) -> Iterator[str]:
        with suppress(FileNotFoundError), (self.folder / _LOG).open("rb") as log:
            rest = b""
            while True:
                over = self.ended() is not None
                *whole, rest = (rest + log.read()).split(b"\n")
                yield from (redact(line.decode(errors="replace")) for line in whole)
                if over:
                    break
                time.sleep(_POLL)
            if rest:
                yield redact(rest.decode(errors="replace"))

    def execute(self, argv: Sequence[str], *, seconds: float) -> tuple[int, str]:
        try:
            done = command.run(argv, seconds=seconds, env=self.env, inherit=False, check=False, cwd=self.folder)
        except CommandFailed as error:
            return 124, error.line()
        except EnvironmentFault as error:
            return 127, error.line()
        return done.code, done.stdout + done.stderr

    def processes(self) -> tuple[str, ...]:
        found = []
        for pid in supervisor.descendants(self.popen.pid):
            with suppress(OSError):
                found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        return tuple(redact(line.strip()) for line in found)

    def inspect(self) -> Mapping[str, Any]:
        with suppress(OSError, ValueError):
            found: Mapping[str, Any] = json.loads((self.folder / _RUN).read_text())
            return found
        return {}

    def stop(self) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.popen.wait(supervisor.GRACE + _DEAD_SECONDS)
        _end(self.folder)
        self.popen.poll()


def _surroundings() -> dict[str, str]:
    """Our environment without what is ours in it: secrets, settings, and the virtual environment that we run in."""
    own = str(Path(sys.prefix, "bin")) if sys.prefix != sys.base_prefix else ""
    env = {name: text for name, text in os.environ.items() if not secret(name) and not name.startswith(_OURS)}
    env["PATH"] = os.pathsep.join(place for place in os.get_exec_path() if place != own)
    source = Path(__file__).parents[3]
    env.setdefault("PYTHONUSERBASE", str(Path.home() / ".local"))  # also where the home folder is replaced
    packages = [place for place in env.pop("PYTHONPATH", "").split(os.pathsep) if place and Path(place) != source]
    return env | ({"PYTHONPATH": os.pathsep.join(packages)} if packages else {})


def _program(name: str, env: Mapping[str, str]) -> str:
    found = shutil.which(name, path=env["PATH"])
    if found is None:
        raise EnvironmentFault(f"there is no program {name}", why=f"it is not on {env['PATH']}")
    return found


def _mount(layout: Layout | None, mount: str) -> None:
    """Paths of processes are the machine's. Only a model has its place below the image's folder; as a link to it."""
    outside, _, rest = mount.partition(":")
    inside = rest.partition(":")[0]
    if not Path(outside).exists():
        raise EnvironmentFault(f"{outside} is not there", why=f"the mount {mount} names it")
    if inside == outside:
        return
    if layout is None or not inside.startswith(f"{MODELS}/"):
        raise EnvironmentFault(
            f"{outside} cannot be seen as {inside}",
            why="without containers a path is the same for all processes",
            hint="mount it under its own path",
        )
    link = Path(layout.place(inside))
    link.parent.mkdir(parents=True, exist_ok=True)
    if not (link.is_symlink() and link.readlink() == Path(outside)):
        fresh = link.with_name(f".{uuid.uuid4().hex}")
        fresh.symlink_to(outside)
        fresh.replace(link)


def _end(folder: Path) -> None:
    """End what `folder` stands for, whoever started it, and remove the folder. Fine when both are gone."""
    tree = _tree(folder)
    if tree:
        _wait_for([tree[0]], signal.SIGTERM, supervisor.GRACE + _DEAD_SECONDS)
    # The supervisor left nothing, unless it was killed itself.
    _wait_for([*_tree(folder), *_marked(folder.name)], signal.SIGKILL, _DEAD_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)


def _wait_for(processes: Sequence[tuple[int, str]], signum: signal.Signals, seconds: float) -> None:
    """Signal these processes and wait until they have ended."""
    deadline = time.monotonic() + seconds
    for pid, start in processes:
        supervisor.kill(pid, start, signum)
    while time.monotonic() < deadline:
        if not any(supervisor.alive(pid) and supervisor.started(pid) == start for pid, start in processes):
            return
        time.sleep(_POLL / 2)


def _tree(folder: Path) -> list[tuple[int, str]]:
    """Process ids with start times, the supervisor's first; nothing where they mean nothing any more."""
    try:
        seen = json.loads((folder / supervisor.TREE).read_text())
    except (OSError, ValueError):
        return []
    return [(int(pid), str(start)) for pid, start in seen["processes"]] if seen["where"] == supervisor.where() else []


def _marked(identity: str) -> list[tuple[int, str]]:
    wanted = f"{MARK}={identity}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        pid = int(path.parent.name)
        start = supervisor.started(pid)
        with suppress(OSError):
            if wanted in path.read_bytes().split(b"\0"):
                found.append((pid, start))
    return found


def _absent(reference: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"{reference} is not in this workspace",
        why="without containers there is nowhere to pull it from",
        hint="run again with `--force image`",
    )


def _ooms() -> int:
    """How often the kernel has ended a process of this machine's control group because memory ran out."""
    with suppress(OSError):
        for line in Path("/sys/fs/cgroup/memory.events").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
