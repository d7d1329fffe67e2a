"""What tests of images and servers start from: a cell of the real matrix, its lock, and a context with real ports."""

import io
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flagrelease.config import cell as cells
from flagrelease.config import lockfile as locks
from flagrelease.config import matrix as matrices
from flagrelease.config.cell import Cell
from flagrelease.config.matrix import Matrix
from flagrelease.contract import results
from flagrelease.contract.context import Context, Ports
from flagrelease.contract.handles import StageResult
from flagrelease.contract.job import Job
from flagrelease.ports import command
from flagrelease.ports.clock import SystemClock
from flagrelease.ports.container_runner import Runner
from flagrelease.ports.docker.engine import Engine
from flagrelease.ports.meter import Meter
from flagrelease.ports.processes.runner import ProcessRunner
from flagrelease.ports.progress import Silent
from flagrelease.ports.registry import OciRegistry, Registry
from flagrelease.ports.retry import Backoff
from flagrelease.store.evidence import EvidenceStore
from flagrelease.store.workspace import Workspace
from support.contexts import after

ROOT = Path(__file__).parents[2]


def need_machine(runner: ProcessRunner, python: str) -> None:
    """Skips, with the reason, where this machine cannot take the place of the chip's base image."""
    if not runner.machine.fits(python):
        pytest.skip(f"{runner.machine.name} has another Python than the chip")
    # In a process of its own: torch, if this one has imported it, brought a copy along.
    found = [sys.executable, "-I", "-c", "import ctypes; ctypes.CDLL('libgomp.so.1')"]
    if subprocess.run(found, capture_output=True, check=False).returncode:
        pytest.skip("this machine lacks libgomp1, which the chip's base image has for the engine")


@contextmanager
def engine_image(engine: Engine, base: str, repository: str, program: str) -> Iterator[results.Image]:
    """A pushed image whose engine is `program`, a file beside this one, for as long as the block lasts."""
    files = {
        "Dockerfile": f'FROM {base}\nCOPY engine.py /engine.py\nENTRYPOINT ["python3", "/engine.py"]\n',
        "engine.py": (Path(__file__).parent / program).read_text(),
    }
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    context.seek(0)
    engine.build(context, tag=f"{repository}:test", args={}, line=lambda _text: None)
    yield image(repository, engine.push(repository, "test", lambda _done, _total: None).digest)
    engine.untag(f"{repository}:test")


def matrix() -> Matrix:
    return matrices.load(ROOT / "matrix.yaml")


def cell(name: str = "cpu/smollm2-135m", **serve: Any) -> Cell:
    found = next(one for one in cells.expand(matrix()) if one.id == name)
    return replace(found, model=replace(found.model, serve=replace(found.model.serve, **serve)))


def job(one: Cell, registry: str = "localhost:1/none") -> Job:
    lock = locks.load(ROOT / "matrix.lock")
    return Job(cell=one, matrix=matrix(), lock=lock, registry=registry, templates=ROOT / "templates")


def context(
    root: Path, *, runner: Runner | None = None, registry: Registry | None = None, **made: StageResult
) -> Context:
    """A context with real ports, after the stages in `made`."""
    workspace = Workspace(root)
    clock = SystemClock()
    engine = Engine()
    ports = Ports(
        clock=clock,
        command=command.run,
        docker=engine,
        runner=runner or engine,
        registry=registry or OciRegistry(backoff=Backoff(budget=5.0)),
        hubs=None,  # type: ignore[arg-type]  # nothing is fetched here
    )
    empty = Context(
        run_id=uuid.uuid4().hex[:12],
        workspace=workspace,
        evidence=EvidenceStore(workspace.evidence),
        ports=ports,
        progress=Silent(),
        meter=Meter(clock),
    )
    return after(empty, **made)


def image(repository: str, digest: str) -> results.Image:
    return results.Image(
        repository=repository,
        digest=digest,
        image_id="",
        base="",
        base_id="",
        size=0,
        pushed_bytes=0,
        labels={},
        versions={},
        remarks=(),
    )


def weights(folder: str = "none") -> results.Weights:
    return results.Weights(folder=folder, source="", revision="", digest="", files=(), bytes_moved=0)
