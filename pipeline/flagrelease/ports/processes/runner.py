"""Run programs as plain processes of this machine, for hosts where the pipeline itself runs in a container.

An image is a folder in the workspace with the files that the image would add to its base; the base is the machine.
There is no isolation: no limits, no separate network, and a mount keeps its path or is a link below the folder.
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
from flagrelease.ports import command, processor_time, python_probe
from flagrelease.ports.container_runner import (
    CELL_LABEL,
    RUN_LABEL,
    WORKSPACE_LABEL,
    Ended,
    Host,
    LocalImage,
    Moved,
    Note,
    Running,
    unheard,
)
from flagrelease.ports.processes import folders, listening, supervisor
from flagrelease.recipe.container import MODELS, ContainerRun, RunnerKind
from flagrelease.recipe.image_paths import Layout, under
from flagrelease.redact import redact, without_secrets
from flagrelease.store.files import translate_disk_errors, write_atomic
from flagrelease.store.machine import DeadRun
from flagrelease.store.workspace import Workspace

IMAGE = "image.json"
"""Written last: a folder without it is not an image yet."""

_LOG = "log"
_LOOK_SECONDS = 60.0
_OUTPUT_SECONDS = 600.0
_POLL = 0.1
_LONGEST_LINE = 4096

_OURS = ("FLAGRELEASE_", "FLAGOS_", "PYTEST_", "VIRTUAL_ENV", "XDG_CACHE_HOME")


@dataclass(frozen=True, kw_only=True)
class Folder:
    """The content of IMAGE."""

    digest: str
    size: int
    """In bytes."""
    labels: Mapping[str, str]
    entrypoint: tuple[str, ...]
    """Its first element is looked up on the image's PATH."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine that takes the place of a base image."""

    name: str
    id: str
    """Hash of the system, the Python version and the packages."""
    system: str
    """The operating system's name and version."""
    python: Path
    """The first python3 on `path`."""
    version: str
    """Of `python`."""
    sites: tuple[str, ...]
    """The site-packages folders of `python`."""
    path: str
    """PATH without our own virtual environment."""

    def fits(self, python: str) -> bool:
        """Whether packages for `python` (MAJOR.MINOR) work on this machine."""
        return self.version.split(".")[:2] == python.split(".")


class ProcessRunner:
    kind: RunnerKind = "process"
    address = "processes"

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    @cached_property
    def machine(self) -> Machine:
        """This machine. Raises EnvironmentFault if it has no python3."""
        argv, env = ["python3", "-c", python_probe.PROGRAM], _environment()
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
        """The machine, by its name, or an image, by NAME@DIGEST; None if it is not in the workspace."""
        if reference == self.machine.name:
            return LocalImage(id=self.machine.id, size=0, labels={})
        folder = self._folder(reference)
        return None if folder is None else LocalImage(id=folder.digest, size=folder.size, labels=folder.labels)

    def pull(
        self,
        repository: str,
        digest: str,
        moved: Moved,  # noqa: ARG002 - nothing moves
        note: Note = unheard,  # noqa: ARG002
    ) -> LocalImage:
        """Raises EnvironmentFault unless the image is in the workspace: there is no registry to pull from."""
        image = self.image(f"{repository}@{digest}")
        if image is None:
            raise _absent(f"{repository}@{digest}")
        return image

    def start(self, run: ContainerRun) -> Running:
        """Raises EnvironmentFault for a missing image or program and for an impossible mount; NoSpace."""
        layout, env, entrypoint = self._environment(run.image)
        for mount in (*run.flags.mounts, *run.mounts):
            _mount(layout, mount)
        if layout is not None and run.image not in [other["image"] for _folder, other in self._runs()]:
            # Empty, as in a new container; but colocated stacks of one image share it.
            shutil.rmtree(layout.home, ignore_errors=True)
            Path(layout.home).mkdir(parents=True)
        identity = uuid.uuid4().hex[:12]
        folder = self._workspace.processes / identity
        env |= {**run.env, folders.MARK: identity, "HOME": str(folder / "home")}
        if run.placement.port is not None:
            env["FLAGOS_PORT"] = str(run.placement.port)
        program, *arguments = *(run.entrypoint or entrypoint), *run.command
        argv = [_program(program, env), *arguments]
        with translate_disk_errors("starting a process"):
            (folder / "home").mkdir(parents=True, mode=0o700)
            folder.chmod(0o700)
            labels = dict(run.placement.labels)
            write_atomic(
                folder / folders.RUN,
                json.dumps({"image": run.image, "labels": labels, "argv": argv}).encode(),
                mode=0o600,
            )
            supervise: list[str | Path] = [sys.executable, "-I", supervisor.__file__, folder, str(os.getpid())]
            try:
                started = command.spawn([*supervise, *argv], log=folder / _LOG, env=env, cwd=folder / "home")
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        return Process(folder=folder, env=env, port_number=run.placement.port, popen=started, out_of_memory=_ooms())

    def output(self, image: str, argv: Sequence[str], labels: Mapping[str, str]) -> str:  # noqa: ARG002 - as a child
        _layout, env, _entrypoint = self._environment(image)
        try:
            return command.run(argv, seconds=_OUTPUT_SECONDS, env=env, inherit=False).stdout
        except CommandFailed as error:
            raise EnvironmentFault(error.what, why=error.why, detail=error.detail) from None

    def reap(self, cell: str, workspace: Path) -> int:
        wanted = {CELL_LABEL: cell, WORKSPACE_LABEL: str(workspace.resolve())}
        ended = 0
        for folder, run in self._runs():
            if wanted.items() <= run["labels"].items():
                folders.end(folder)
                ended += 1
        return ended

    def reap_run(self, run: DeadRun) -> int:
        if not run.mine:  # anybody could have named a folder with processes to end; and its supervisor ends them
            return 0
        ended = 0
        for folder, described in folders.started(Workspace(run.workspace).processes):
            if described["labels"].get(RUN_LABEL) == run.id:
                folders.end(folder)
                ended += 1
        return ended

    def reap_boots(self) -> int:
        """No process outlasts a boot."""
        return 0

    def _runs(self) -> list[tuple[Path, Mapping[str, Any]]]:
        return folders.started(self._workspace.processes)

    def _folder(self, reference: str) -> Folder | None:
        _, _, digest = reference.partition("@")
        try:
            folder = msgspec.json.decode((self._workspace.image(digest) / IMAGE).read_bytes(), type=Folder)
        except (OSError, msgspec.DecodeError):
            return None
        return folder if folder.digest == digest else None

    def _environment(self, image: str) -> tuple[Layout | None, dict[str, str], tuple[str, ...]]:
        """The image's layout, environment and entry point; the bare machine has only an environment."""
        env = _environment()
        python = shutil.which("python3", path=env["PATH"])
        if python is None or Path(python).resolve() != self.machine.python.resolve():
            # python3 is a launcher (of a version manager, say) that may need the home folder, which we replace.
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
    """A started process with all its descendants."""

    folder: Path
    env: Mapping[str, str] = field(repr=False)
    port_number: int | None
    """The port assigned to it."""
    popen: subprocess.Popen[bytes]
    """Its supervisor."""
    out_of_memory: int
    """The kernel's count of out-of-memory kills at the start."""

    @property
    def id(self) -> str:
        return self.folder.name

    def port(self, inside: int) -> int:
        """Raises EnvironmentFault until one of its own processes listens there, lest another program on that port be
        tested in its place."""
        if self.port_number is None:
            raise EnvironmentFault(f"{self.id} was assigned no port", why=f"port {inside} was requested")
        sockets = listening.at(self.port_number)
        if not sockets & listening.held(supervisor.descendants(self.popen.pid)) and listening.owners_are_shown():
            why = "another program does" if sockets else "nothing does"
            raise EnvironmentFault(f"it does not listen on port {self.port_number}", why=why)
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
            partial = b""
            while True:
                ended = self.ended() is not None
                *lines, partial = (partial + log.read()).split(b"\n")
                yield from (redact(line.decode(errors="replace")) for line in lines)
                if ended:
                    break
                time.sleep(_POLL)
            if partial:
                yield redact(partial.decode(errors="replace"))

    def execute(self, argv: Sequence[str], *, seconds: float) -> tuple[int, str]:
        try:
            done = command.run(argv, seconds=seconds, env=self.env, inherit=False, check=False, cwd=self.folder)
        except CommandFailed as error:
            return 124, error.line()
        except EnvironmentFault as error:
            return 127, error.line()
        return done.code, done.stdout + done.stderr

    def processes(self) -> tuple[str, ...]:
        commands = []
        for pid in supervisor.descendants(self.popen.pid):
            with suppress(OSError):
                raw = Path(f"/proc/{pid}/cmdline").read_bytes()
                commands.append(raw.replace(b"\0", b" ").decode(errors="replace"))
        return tuple(redact(line.strip()) for line in commands)

    def cpu_seconds(self) -> float | None:
        return processor_time.of_processes(supervisor.descendants(self.popen.pid))

    def inspect(self) -> Mapping[str, Any]:
        with suppress(OSError, ValueError):
            description: Mapping[str, Any] = json.loads((self.folder / folders.RUN).read_text())
            return description
        return {}

    def stop(self) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.popen.wait(supervisor.GRACE + folders.DEAD_SECONDS)
        folders.end(self.folder)
        self.popen.poll()


def _environment() -> dict[str, str]:
    """This process's environment without its secrets, our settings and the virtual environment that we run in."""
    own = str(Path(sys.prefix, "bin")) if sys.prefix != sys.base_prefix else ""
    env = {name: text for name, text in without_secrets(os.environ).items() if not name.startswith(_OURS)}
    env["PATH"] = os.pathsep.join(folder for folder in os.get_exec_path() if folder != own)
    source = Path(__file__).parents[3]
    env.setdefault("PYTHONUSERBASE", str(Path.home() / ".local"))  # keep it where HOME is replaced
    packages = [folder for folder in env.pop("PYTHONPATH", "").split(os.pathsep) if folder and Path(folder) != source]
    return env | ({"PYTHONPATH": os.pathsep.join(packages)} if packages else {})


def _program(name: str, env: Mapping[str, str]) -> str:
    path = shutil.which(name, path=env["PATH"])
    if path is None:
        raise EnvironmentFault(f"program {name} not found", why=f"it is not on {env['PATH']}")
    return path


def _mount(layout: Layout | None, mount: str) -> None:
    """Check a mount: processes see the machine's paths. Only a model gets a path in the image's folder, as a link."""
    outside, _, remainder = mount.partition(":")
    inside = remainder.partition(":")[0]
    if not Path(outside).exists():
        raise EnvironmentFault(f"{outside} does not exist", why=f"the mount {mount} needs it")
    if inside == outside:
        return
    if layout is None or not inside.startswith(f"{MODELS}/"):
        raise EnvironmentFault(
            f"{outside} cannot be mounted at {inside}",
            why="without containers all processes see the same paths",
            hint="mount it under its own path",
        )
    link = Path(layout.host_path(inside))
    link.parent.mkdir(parents=True, exist_ok=True)
    if not (link.is_symlink() and link.readlink() == Path(outside)):
        fresh = link.with_name(f".{uuid.uuid4().hex}")
        fresh.symlink_to(outside)
        fresh.replace(link)


def _absent(reference: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"{reference} is not in this workspace",
        why="without containers there is no registry to pull it from",
        hint="run again with `--force image`",
    )


def _ooms() -> int:
    """The number of out-of-memory kills in this machine's control group."""
    with suppress(OSError):
        for line in Path("/sys/fs/cgroup/memory.events").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
