"""Serve a pushed image while a block runs, and distinguish the three ways in which that can fail."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import cast

from flagrelease.config.matrix import Stack
from flagrelease.contract import results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.errors import (
    DiedBeforeReady,
    DiedLater,
    EnvironmentFault,
    FlagreleaseError,
    NeverReady,
    PortInUse,
    SmokeFailed,
)
from flagrelease.ports.container_runner import Ended, Running, labels
from flagrelease.ports.openai_client import Client, NoAnswer
from flagrelease.ports.progress import Count
from flagrelease.recipe import container, image_paths
from flagrelease.recipe.device_check import Found
from flagrelease.serving import chip_proof
from flagrelease.serving.first_pace import token_seconds
from flagrelease.store.workspace import Workspace

LOG_LINES = 200
_POLL = 0.1
_FULL_POLL_AFTER = 20.0


@dataclass(frozen=True, kw_only=True)
class Served:
    """A served model that has answered."""

    base_url: str
    """Ends with /v1."""
    model: str
    """The name to use in requests."""
    port_inside: int
    """The server's port for programs executed in the container."""
    folder_inside: str
    """The model's folder for programs executed in the container."""
    ready_seconds: float
    """From the start of the container to the first answer."""
    run: container.ContainerRun
    running: Running = field(repr=False)
    found: Found | None = None
    """The devices that it sees; None if they cannot be asked for."""

    def check(self) -> None:
        """Raise DiedLater, with the last log lines, if the container no longer runs."""
        ended = self.running.ended()
        if ended is not None:
            raise DiedLater(
                "the server ended while it was in use",
                why=_cause(ended),
                hint="the last lines of its log are below",
                detail=self.running.logs(LOG_LINES),
            )

    def token_seconds(self, concurrency: int) -> float:
        """Seconds a token with so many requests at a time, measured now; 0 if that cannot be measured.

        Raises SmokeFailed if it accepts requests and does not answer, DiedLater.
        """
        try:
            return token_seconds(self.base_url, self.model, concurrency)
        except SmokeFailed:
            self.check()
            raise

    def log(self) -> str:
        """The last lines of the server's log."""
        return self.running.logs(LOG_LINES)


@dataclass(frozen=True, kw_only=True)
class ServeRequest:
    """The image, weights and stack to serve."""

    image: results.Image
    weights: results.Weights
    stack: Stack
    colocated: bool = False
    """Whether another stack of the cell is up. If not, leftovers of earlier starts are removed first."""
    fresh: bool = False
    """Whether a server that an earlier stage left running is stopped and started again, instead of reused."""


@contextmanager
def served(job: Job, context: Context, request: ServeRequest) -> Iterator[Served]:
    """Pull the image by digest, start it with the chip's flags, wait until it answers; stop and remove it afterwards.

    If the matrix allows colocated stacks, a server whose block succeeded stays up in the pool for the next stage.

    Raises EnvironmentFault, before it waits, if the container sees other devices than those of the matrix;
    DiedBeforeReady, NeverReady; DiedLater if the container ended during the block;
    PortInUse, DockerUnavailable, RegistryUnavailable. On the three of SmokeFailed the last log lines are kept as
    evidence.
    """
    pool = context.server_pool if job.cell.model.serve.colocate else None
    key = (request.image.reference, request.weights.digest, request.stack)
    # The pool holds only what this function left in it.
    server = cast("Served | None", pool.take(key)) if pool is not None else None
    if server is not None and request.fresh:
        with context.meter.waiting():
            server.running.stop()
        server = None
    if server is not None:
        running, run, start = server.running, server.run, 0.0
    else:
        running, run, start = _start(job, context, replace(request, colocated=request.colocated or bool(pool)))
    pooled = False
    try:
        if server is None:
            with context.meter.waiting():
                found = _proven(job, context, running)
                server = _wait(job, context, run, running, start, layout_of(request.image, context.workspace))
            server = replace(server, found=found)
        try:
            yield server
        except (FlagreleaseError, NoAnswer):
            _raise_if_ended(context, server)
            raise
        if pool is not None:
            pool.leave(key, server)
            pooled = True
    except SmokeFailed as error:
        if error.detail:
            context.evidence.put(f"server-{request.stack}.log", error.detail.encode())
        raise
    finally:
        if not pooled:
            with context.meter.waiting():
                running.stop()


def _start(job: Job, context: Context, request: ServeRequest) -> tuple[Running, container.ContainerRun, float]:
    """Start the server; return it, its description and the time of the start."""
    runner = context.ports.runner
    with context.meter.waiting():
        if not request.colocated:
            runner.reap(job.cell.id, context.workspace.root)
        _pull(context, request.image)
    run = _placed(job, context, request)
    context.progress.doing(f"starting {request.stack}")
    with context.meter.waiting():
        start = context.ports.clock.monotonic()
        return runner.start(run), run, start


def _proven(job: Job, context: Context, running: Running) -> Found | None:
    """The devices that the container sees. Raises DiedBeforeReady if it ended meanwhile, for that explains all else."""
    context.progress.doing("asking for the devices")
    try:
        return chip_proof.prove(job, running.execute, context.progress.note)
    except EnvironmentFault:
        ended = running.ended()
        if ended is None:
            raise
        raise _died_early(job.cell.id, ended, running.logs(LOG_LINES)) from None


def _raise_if_ended(context: Context, server: Served) -> None:
    """Raise DiedLater if the server ended, for that explains the block's error. Its exit may show a moment late."""
    for _ in range(10):
        server.check()
        context.ports.clock.sleep(_POLL)


def _pull(context: Context, image: results.Image) -> None:
    if context.ports.runner.image(image.reference) is not None:
        return
    before = context.meter.moved

    def moved(done: int, total: int) -> None:
        context.meter.moved = before + done
        context.progress.doing("pulling", Count(done, total, "B"))

    context.ports.runner.pull(image.repository, image.digest, moved, context.progress.note)


def _placed(job: Job, context: Context, request: ServeRequest) -> container.ContainerRun:
    cell = job.cell
    placement = container.Placement(
        name=f"flagrelease-{cell.slug}-{request.stack}-{context.run_id}",
        # On a bridge network the engine picks the port at the start, so no other program can take it in between.
        port=None if job.runner == "docker" and cell.chip.container.network == "bridge" else _free_port(job),
        address="127.0.0.1",
        labels=labels(context.run_id, cell.id, context.workspace.root),
    )
    folder = context.workspace.weights.resolve() / request.weights.folder
    return container.for_serving(
        cell.chip,
        cell.model,
        request.image.reference,
        str(folder),
        request.stack,
        placement,
        context.devices,
        processes=job.runner == "process",
    )


def _free_port(job: Job) -> int:
    """The model's port, as on the card, if it is free; else any free port."""
    for wanted in (job.cell.model.serve.port, 0):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("0.0.0.0", wanted))  # noqa: S104 - the port must be free on every address
            except OSError:
                continue
            port: int = probe.getsockname()[1]
            return port
    raise PortInUse("no port is free on this machine", hint="`ss -ltn` shows what listens")


def _wait(
    job: Job, context: Context, run: container.ContainerRun, running: Running, start: float, layout: image_paths.Layout
) -> Served:
    """Poll until the server answers (return it), its process ends or the deadline passes (raise)."""
    clock = context.ports.clock
    cell = job.cell
    deadline = start + cell.model.serve.ready_seconds
    mapped = run.flags.network == "bridge" and job.runner == "docker"
    hosts = run.flags.network == "host" and job.runner == "docker"
    host_port: int | None = run.placement.port if hosts else None
    trouble = "it never answered"
    while True:
        ended = running.ended()
        if ended is not None:
            raise _died_early(cell.id, ended, running.logs(LOG_LINES))
        now = clock.monotonic()
        if now > deadline:
            raise NeverReady(
                f"the server of {cell.id} did not answer within {cell.model.serve.ready_seconds:.0f} s",
                why=trouble,
                hint="the last lines of its log are below; serve.ready_seconds in matrix.yaml is the deadline",
                detail=running.logs(LOG_LINES),
            )
        context.progress.doing(f"waiting for the server, {now - start:.0f} s: {_last_line(running)}")
        try:
            if host_port is None:
                host_port = running.port(container.PORT)
            base_url = f"http://127.0.0.1:{host_port}/v1"
            with Client(base_url, seconds=min(30.0, max(1.0, deadline - now))) as client:
                names = client.models()
                if cell.model.title in names:
                    client.chat(cell.model.title, "Hello", max_tokens=1, temperature=0)
                    return Served(
                        base_url=base_url,
                        model=cell.model.title,
                        port_inside=container.PORT if mapped else host_port,
                        folder_inside=layout.model(cell.model),
                        ready_seconds=clock.monotonic() - start,
                        run=run,
                        running=running,
                    )
                trouble = f"it serves {', '.join(names) or 'nothing'}"
        except NoAnswer as error:
            trouble = str(error)
        except FlagreleaseError as error:
            trouble = error.line()
        clock.sleep(_POLL if now - start < _FULL_POLL_AFTER else 1.0)


def _died_early(cell: str, ended: Ended, log: str) -> FlagreleaseError:
    if "address already in use" in log.lower():
        return PortInUse(f"the port of the server of {cell} is taken", why="it was free a moment ago", detail=log)
    return DiedBeforeReady(
        f"the server of {cell} ended before it answered",
        why=_cause(ended),
        hint="the last lines of its log are below",
        detail=log,
    )


def _last_line(running: Running) -> str:
    lines = running.logs(1).strip().splitlines()
    return lines[-1][:60] if lines else "no output yet"


def _cause(ended: Ended) -> str:
    if ended.out_of_memory:
        return "it was killed because it ran out of memory"
    return ended.error or f"its process ended with {ended.code}"


def layout_of(image: results.Image, workspace: Workspace) -> image_paths.Layout:
    """The paths of an image's parts on the executor it was made for."""
    return image_paths.under(workspace.image(image.digest)) if image.runner == "process" else image_paths.DOCKER
