"""Client of Docker Engine, through docker-py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Protocol

from flagrelease.errors import EnvironmentFault, FlagreleaseError, RegistryUnavailable
from flagrelease.ports.container_runner import (
    BOOT_LABEL,
    CELL_LABEL,
    MACHINE_LABEL,
    RUN_LABEL,
    WORKSPACE_LABEL,
    Host,
    LocalImage,
    Moved,
    Note,
    Running,
    unheard,
)
from flagrelease.ports.credentials import Credentials, Logins
from flagrelease.ports.docker.cli_login import logged_in
from flagrelease.ports.docker.container import GRACE_SECONDS, Started, remove
from flagrelease.ports.docker.deadlines import Clients, Deadlines
from flagrelease.ports.docker.endpoint import Endpoint, endpoint
from flagrelease.ports.docker.errors import stream_error, translated
from flagrelease.recipe.container import ContainerRun, RunnerKind
from flagrelease.store.machine import DeadRun, boot_id, host_id


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """The result of a push."""

    digest: str
    """Of the manifest."""
    layers: frozenset[str]
    """The layers that were sent, by the first 12 digits of their digests."""


class Docker(Protocol):
    """Tags, pushes and pulls images, and builds that of a rehearsal. The real one, Engine, is a Runner too."""

    def build(
        self,
        context: IO[bytes],
        *,
        tag: str,
        args: Mapping[str, str],
        line: Callable[[str], None],
        note: Note = unheard,
    ) -> str: ...
    def image(self, reference: str) -> LocalImage | None: ...
    def push(self, repository: str, tag: str, moved: Moved, note: Note = unheard) -> Pushed: ...
    def pull(self, repository: str, digest: str, moved: Moved, note: Note = unheard) -> LocalImage: ...
    def tag(self, image: str, repository: str, tag: str) -> None: ...
    def untag(self, reference: str) -> None: ...
    def tags(self, repository: str) -> tuple[str, ...]: ...
    def digests(self, repository: str) -> tuple[str, ...]: ...
    def remove_untagged(self, labels: Sequence[str], *, before: float) -> int: ...
    def logged_in(self, repository: str) -> AbstractContextManager[Mapping[str, str]]: ...


class Engine:
    """The real engine. All its errors are translated into ours."""

    kind: RunnerKind = "docker"

    def __init__(
        self,
        base_url: str | None = None,
        *,
        known: Callable[[str], Credentials | None] = Logins(),  # noqa: B008 - immutable
        deadlines: Deadlines | None = None,
    ) -> None:
        self._base_url = base_url
        self._known = known
        self._clients = Clients(self._endpoint, deadlines or Deadlines.here())

    def _endpoint(self) -> Endpoint:
        return endpoint() if self._base_url is None else Endpoint(url=self._base_url)

    @property
    def address(self) -> str:
        """The engine's address. Raises DockerUnavailable if none can be used."""
        return self._endpoint().url

    def version(self) -> Host:
        """Raises DockerUnavailable."""
        client = self._clients.ask
        with translated("reaching Docker Engine", str(self._endpoint())):
            version, info = client.version(), client.info()
        return Host(
            name="Docker Engine", version=version["Version"], os=info["OperatingSystem"], kernel=info["KernelVersion"]
        )

    def image(self, reference: str) -> LocalImage | None:
        """The image with that name, id or digest; None if the engine does not have it."""
        import docker

        with translated(f"looking for image {reference}"):
            try:
                attributes = self._clients.ask.api.inspect_image(reference)
            except docker.errors.ImageNotFound:
                return None
        return LocalImage(
            id=attributes["Id"],
            size=attributes["Size"],
            layers=tuple(attributes["RootFS"].get("Layers") or ()),
            labels=attributes["Config"].get("Labels") or {},
            digests=tuple(attributes.get("RepoDigests") or ()),
        )

    def build(
        self,
        context: IO[bytes],
        *,
        tag: str,
        args: Mapping[str, str],
        line: Callable[[str], None],
        note: Note = unheard,
    ) -> str:
        """Build the tar `context` without network and return the image's id. `line` gets each step as it starts.
        Releases are assembled instead; rehearsals build their base, and tests what a Dockerfile says.

        Raises EnvironmentFault with the last lines of output if a step fails, NoSpace.
        """
        printed: list[str] = []
        identity = ""

        def stream() -> Iterable[dict[str, Any]]:
            messages: Iterable[dict[str, Any]] = self._clients.work.api.build(
                fileobj=context, custom_context=True, tag=tag, buildargs=dict(args), network_mode="none", rm=True,
                forcerm=True, decode=True, use_config_proxy=False,
            )  # fmt: skip
            return messages

        with translated("building the image"):
            for message in self._clients.watched("building the image", stream, told=note):
                if "error" in message:
                    raise stream_error("building the image", message, "\n".join(printed[-200:]))
                if text := message.get("stream", "").rstrip():
                    printed += text.splitlines()
                    if text.startswith("Step "):
                        line(text.splitlines()[0])
                identity = message.get("aux", {}).get("ID", identity)
        if not identity:
            raise EnvironmentFault(
                "the build ended without an image", why=printed[-1] if printed else "", detail="\n".join(printed[-200:])
            )
        return identity

    def push(self, repository: str, tag: str, moved: Moved, note: Note = unheard) -> Pushed:
        """Push, and return the digest that the engine computed.

        Raises RegistryDenied (401, 403), RegistryUnavailable (retriable), UpstreamRefused; also for an error that the
        engine reports inside a stream with status 200.
        """
        digest, pushed = "", set()
        doing = f"pushing {repository}"
        with translated(doing):
            layers = _Layers(moved, "Pushing")
            for message in self._transferred(doing, "push", repository, tag, layers, note):
                if message.get("status") == "Pushed":
                    pushed.add(str(message["id"]))
                digest = (message.get("aux") or {}).get("Digest", digest)
        if not digest:
            raise RegistryUnavailable(
                f"{doing} ended without a digest", why="the engine sent neither an error nor a result"
            )
        return Pushed(digest=digest, layers=frozenset(pushed))

    def pull(self, repository: str, digest: str, moved: Moved, note: Note = unheard) -> LocalImage:
        """Pull by digest. Raises the errors of `push`."""
        reference = f"{repository}@{digest}"
        doing = f"pulling {reference}"
        with translated(doing):
            for _ in self._transferred(doing, "pull", repository, digest, _Layers(moved, "Downloading"), note):
                pass
        image = self.image(reference)
        if image is None:
            raise RegistryUnavailable(f"{doing} ended without an image")
        return image

    def _transferred(
        self, doing: str, way: Literal["push", "pull"], repository: str, tag: str, layers: _Layers, note: Note
    ) -> Iterator[dict[str, Any]]:
        """The messages of a push or pull, with the login of its registry. Raises what one of them reports."""
        login = self._auth(repository)

        def stream() -> Iterable[dict[str, Any]]:
            call = getattr(self._clients.work.api, way)
            messages: Iterable[dict[str, Any]] = call(repository, tag=tag, stream=True, decode=True, auth_config=login)
            return messages

        for message in self._clients.watched(doing, stream, told=note):
            if "error" in message:
                raise stream_error(doing, message)
            layers.take(message)
            yield message

    def logged_in(self, repository: str) -> AbstractContextManager[Mapping[str, str]]:
        """The environment in which the docker CLI has this program's login at the repository's registry."""
        host = repository.partition("/")[0]
        return logged_in(host, self._known(host))

    def tag(self, image: str, repository: str, tag: str) -> None:
        """Name a local image; nothing is pushed."""
        with translated(f"naming {repository}:{tag}"):
            self._clients.ask.api.tag(image, repository, tag)

    def untag(self, reference: str) -> None:
        """Remove a name; the layers stay while another name refers to them."""
        with suppress(FlagreleaseError), translated(f"removing {reference}"):
            self._clients.change.api.remove_image(reference, noprune=True)

    def tags(self, repository: str) -> tuple[str, ...]:
        """The names NAME:TAG of the repository's images on this engine."""
        with translated(f"looking for images of {repository}"):
            return tuple(name for image in self._clients.ask.api.images(repository) for name in image["RepoTags"] or ())

    def digests(self, repository: str) -> tuple[str, ...]:
        """The names NAME@DIGEST of the repository's images on this engine: those that were pulled or pushed."""
        with translated(f"looking for images of {repository}"):
            images = self._clients.ask.api.images(repository)
        return tuple(name for image in images for name in image["RepoDigests"] or ())

    def remove_untagged(self, labels: Sequence[str], *, before: float) -> int:
        """Remove the images without a name that have one of these labels (NAME or NAME=VALUE) and were made before that
        time, by time.time(); return their number. One that is known by a digest, runs, or is part of others is left."""
        import docker

        removed = 0
        with translated("removing images without a name"):
            for label in labels:
                for image in self._clients.ask.api.images(filters={"dangling": True, "label": [label]}):
                    # The engine also lists what has no tag but a digest, as images that were pulled by it.
                    if image["Created"] < before and set(image["RepoDigests"] or ()) <= {"<none>@<none>"}:
                        with suppress(docker.errors.APIError):
                            self._clients.change.api.remove_image(image["Id"])
                            removed += 1
        return removed

    def _auth(self, repository: str) -> dict[str, str]:
        """The credentials for the registry of `repository`: the engine sends them to whoever that registry names."""
        known = self._known(repository.partition("/")[0])
        return {"username": known.user, "password": known.password} if known else {}

    def start(self, run: ContainerRun) -> Running:
        """Create a container and start it; remove it if it cannot be started.

        Raises PortInUse, EnvironmentFault (the host lacks a device or runtime), DockerUnavailable.
        """
        doing = f"starting {run.placement.name or run.image}"
        with translated(doing):
            container = self._clients.change.containers.create(**run.sdk())
            try:
                container.start()
            except BaseException:
                container.remove(force=True, v=True)
                raise
        return Started(self._clients, str(container.id))

    def output(self, image: str, argv: Sequence[str], labels: Mapping[str, str]) -> str:
        """Run a program in a temporary container and return its output. A killed run's container has the labels."""
        import docker

        doing = f"running {argv[0]} in {image}"
        with translated(doing):
            container = self._clients.change.containers.run(
                image,
                entrypoint=[argv[0]],
                command=list(argv[1:]),
                detach=True,
                network_mode="none",
                labels=dict(labels),
            )
            try:
                code = self._clients.once(doing, container.wait)["StatusCode"]
                printed, errors = (container.logs(stdout=out, stderr=not out) for out in (True, False))
            finally:
                remove(self._clients, container.id, grace=0)
            if code:
                raise docker.errors.ContainerError(container, code, list(argv), image, errors)
        raw: bytes = printed
        return raw.decode(errors="replace")

    def reap(self, cell: str, workspace: Path) -> int:
        """Remove the containers left by killed runs of this cell and return their number.

        The caller holds the cell lock in that workspace.
        """
        return self._reap({CELL_LABEL: cell, WORKSPACE_LABEL: str(workspace.resolve())}, grace=GRACE_SECONDS)

    def reap_run(self, run: DeadRun) -> int:
        """See Runner.reap_run."""
        return self._reap({RUN_LABEL: run.id})

    def reap_boots(self) -> int:
        """See Runner.reap_boots. Most systems empty /tmp at boot, and with it the list of dead runs."""
        boot = boot_id()
        return self._reap({MACHINE_LABEL: host_id()}, lambda labels: labels.get(BOOT_LABEL) != boot) if boot else 0

    def _reap(
        self,
        labels: Mapping[str, str],
        dead: Callable[[Mapping[str, str]], bool] = lambda _labels: True,
        *,
        grace: int = 0,
    ) -> int:
        """Remove the containers that have these labels and are `dead` by all their labels; return their number."""
        with translated("looking for leftover containers"):
            wanted = [f"{name}={value}" for name, value in labels.items()]
            found = self._clients.ask.containers.list(all=True, filters={"label": wanted}, ignore_removed=True)
            leftovers = [container for container in found if dead(container.labels)]
            for container in leftovers:
                remove(self._clients, container.id, grace)
        return len(leftovers)


class _Layers:
    """Sums the bytes of all layers in a push or pull stream."""

    def __init__(self, moved: Moved, status: str) -> None:
        self._moved = moved
        self._status = status
        self._done: dict[str, int] = {}
        self._size: dict[str, int] = {}

    def take(self, message: Mapping[str, Any]) -> None:
        detail = message.get("progressDetail") or {}
        if message.get("status") != self._status or "current" not in detail:
            return
        layer = message["id"]
        # Tar headers make a layer exceed the engine's estimate of its size: raise the total with it.
        self._done[layer] = max(self._done.get(layer, 0), detail["current"])
        self._size[layer] = max(detail.get("total") or 0, self._done[layer])
        self._moved(self.total(), sum(self._size.values()))

    def total(self) -> int:
        return sum(self._done.values())
