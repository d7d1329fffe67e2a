"""Client of Docker Engine, through docker-py."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from flagrelease.errors import EnvironmentFault, FlagreleaseError, RegistryUnavailable
from flagrelease.ports import processor_time
from flagrelease.ports.container_runner import (
    BOOT_LABEL,
    CELL_LABEL,
    MACHINE_LABEL,
    RUN_LABEL,
    WORKSPACE_LABEL,
    Ended,
    Host,
    LocalImage,
    Moved,
    Running,
)
from flagrelease.ports.credentials import Credentials, Logins
from flagrelease.ports.docker.endpoint import Endpoint, connect, endpoint
from flagrelease.ports.docker.errors import stream_error, translated
from flagrelease.recipe.container import ContainerRun, RunnerKind
from flagrelease.redact import redact
from flagrelease.store.machine import DeadRun, boot_id, host_id

_QUIET_SECONDS = 900
"""Read timeout: writing one layer of a vendor's image takes the engine minutes, without output."""

_GRACE_SECONDS = 10
_CONFLICT = 409
_LOOK_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """The result of a push."""

    digest: str
    """Of the manifest."""
    layers: frozenset[str]
    """The layers that were sent, by the first 12 digits of their digests."""


class Docker(Protocol):
    """Builds, tags, pushes and pulls images. The real one, Engine, is a Runner too."""

    def image(self, reference: str) -> LocalImage | None: ...
    def build(self, context: IO[bytes], *, tag: str, args: Mapping[str, str], line: Callable[[str], None]) -> str: ...
    def push(self, repository: str, tag: str, moved: Moved) -> Pushed: ...
    def pull(self, repository: str, digest: str, moved: Moved) -> LocalImage: ...
    def tag(self, image: str, repository: str, tag: str) -> None: ...


class Engine:
    """The real engine. All its errors are translated into ours."""

    kind: RunnerKind = "docker"

    def __init__(
        self,
        base_url: str | None = None,
        *,
        known: Callable[[str], Credentials | None] = Logins(),  # noqa: B008 - immutable
    ) -> None:
        self._base_url = base_url
        self._known = known
        self._made: Any = None

    @property
    def _client(self) -> Any:
        if self._made is None:
            where = self._endpoint()
            with translated("reaching Docker Engine", str(where)):
                self._made = connect(where, seconds=_QUIET_SECONDS)
        return self._made

    def _endpoint(self) -> Endpoint:
        return endpoint() if self._base_url is None else Endpoint(url=self._base_url)

    @property
    def address(self) -> str:
        """The engine's address. Raises DockerUnavailable if none can be used."""
        return self._endpoint().url

    def version(self) -> Host:
        """Raises DockerUnavailable."""
        client = self._client
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
                attributes = self._client.api.inspect_image(reference)
            except docker.errors.ImageNotFound:
                return None
        return LocalImage(
            id=attributes["Id"],
            size=attributes["Size"],
            layers=tuple(attributes["RootFS"].get("Layers") or ()),
            labels=attributes["Config"].get("Labels") or {},
            digests=tuple(attributes.get("RepoDigests") or ()),
        )

    def build(self, context: IO[bytes], *, tag: str, args: Mapping[str, str], line: Callable[[str], None]) -> str:
        """Build the tar `context` without network and return the image's id. `line` gets each step as it starts.

        Raises EnvironmentFault with the last lines of output if a step fails, NoSpace.
        """
        printed: list[str] = []
        identity = ""
        with translated("building the image"):
            stream = self._client.api.build(
                fileobj=context, custom_context=True, tag=tag, buildargs=dict(args), network_mode="none", rm=True,
                forcerm=True, decode=True, use_config_proxy=False,
            )  # fmt: skip
            for message in stream:
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

    def push(self, repository: str, tag: str, moved: Moved) -> Pushed:
        """Push, and return the digest that the engine computed.

        Raises RegistryDenied (401, 403), RegistryUnavailable (retriable), UpstreamRefused; also for an error that the
        engine reports inside a stream with status 200.
        """
        digest, layers = "", set()
        doing = f"pushing {repository}"
        sent = _Layers(moved, "Pushing")
        with translated(doing):
            stream = self._client.api.push(
                repository, tag=tag, stream=True, decode=True, auth_config=self._auth(repository)
            )
            for message in stream:
                if "error" in message:
                    raise stream_error(doing, message)
                sent.take(message)
                if message.get("status") == "Pushed":
                    layers.add(str(message["id"]))
                digest = (message.get("aux") or {}).get("Digest", digest)
        if not digest:
            raise RegistryUnavailable(
                f"{doing} ended without a digest", why="the engine sent neither an error nor a result"
            )
        return Pushed(digest=digest, layers=frozenset(layers))

    def pull(self, repository: str, digest: str, moved: Moved) -> LocalImage:
        """Pull by digest. Raises the errors of `push`."""
        reference = f"{repository}@{digest}"
        doing = f"pulling {reference}"
        received = _Layers(moved, "Downloading")
        with translated(doing):
            stream = self._client.api.pull(
                repository, tag=digest, stream=True, decode=True, auth_config=self._auth(repository)
            )
            for message in stream:
                if "error" in message:
                    raise stream_error(doing, message)
                received.take(message)
        image = self.image(reference)
        if image is None:
            raise RegistryUnavailable(f"{doing} ended without an image")
        return image

    def tag(self, image: str, repository: str, tag: str) -> None:
        """Name a local image; nothing is pushed."""
        with translated(f"naming {repository}:{tag}"):
            self._client.api.tag(image, repository, tag)

    def untag(self, reference: str) -> None:
        """Remove a name; the layers stay while another name refers to them."""
        with suppress(FlagreleaseError), translated(f"removing {reference}"):
            self._client.api.remove_image(reference, noprune=True)

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
            container = self._client.containers.create(**run.sdk())
            try:
                container.start()
            except BaseException:
                container.remove(force=True, v=True)
                raise
        return Started(container)

    def output(self, image: str, argv: Sequence[str], labels: Mapping[str, str]) -> str:
        """Run a program in a temporary container and return its output. A killed run's container has the labels."""
        with translated(f"running {argv[0]} in {image}"):
            raw: bytes = self._client.containers.run(
                image,
                entrypoint=[argv[0]],
                command=list(argv[1:]),
                remove=True,
                network_mode="none",
                labels=dict(labels),
            )
        return raw.decode(errors="replace")

    def reap(self, cell: str, workspace: Path) -> int:
        """Remove the containers left by killed runs of this cell and return their number.

        The caller holds the cell lock in that workspace.
        """
        return self._reap({CELL_LABEL: cell, WORKSPACE_LABEL: str(workspace.resolve())}, grace=_GRACE_SECONDS)

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
            found = self._client.containers.list(all=True, filters={"label": wanted}, ignore_removed=True)
            leftovers = [container for container in found if dead(container.labels)]
            for container in leftovers:
                _remove(container, grace)
        return len(leftovers)


class Started:
    """A started container of the real engine."""

    def __init__(self, container: Any) -> None:
        self._container = container

    @property
    def id(self) -> str:
        return str(self._container.id)

    def port(self, inside: int) -> int:
        for _ in range(50):
            bound = self.inspect()["NetworkSettings"]["Ports"].get(f"{inside}/tcp")
            if bound:
                return int(bound[0]["HostPort"])
            if self.ended():
                break
            time.sleep(0.05)
        raise EnvironmentFault(f"port {inside} of the container is not published", why="the engine reports no port")

    def ended(self) -> Ended | None:
        state = self.inspect().get("State", {"Running": False})
        if state["Running"]:
            return None
        return Ended(
            code=state.get("ExitCode", -1),
            out_of_memory=state.get("OOMKilled", False),
            error=state.get("Error", "") or ("" if "ExitCode" in state else "the container is gone"),
        )

    def logs(self, lines: int) -> str:
        with suppress(FlagreleaseError), translated("reading the container's log"):
            raw: bytes = self._container.logs(tail=lines)
            return redact(raw.decode(errors="replace"))
        return ""

    def lines(self) -> Iterator[str]:
        partial = b""
        with translated("reading the container's output"):
            for chunk in self._container.logs(stream=True, follow=True):
                *lines, partial = (partial + chunk).split(b"\n")
                yield from (redact(line.decode(errors="replace")) for line in lines)
            # Engines may drop a last line without a newline when following a container to its end.
            partial = partial or self._container.logs(tail=1)
        if partial and not partial.endswith(b"\n"):
            yield redact(partial.decode(errors="replace"))

    def execute(self, argv: Sequence[str], *, seconds: float) -> tuple[int, str]:
        # The API cannot kill a hanging exec, so run it under `timeout`, which coreutils and busybox both have.
        with translated(f"running {argv[0]} in the container"):
            result = self._container.exec_run(["timeout", str(max(1, round(seconds))), *argv])
        printed: bytes = result.output
        return int(result.exit_code), redact(printed.decode(errors="replace"))

    def processes(self) -> tuple[str, ...]:
        script = "for file in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $file; echo; done 2>/dev/null"
        _code, printed = self.execute(["sh", "-c", script], seconds=_LOOK_SECONDS)
        return tuple(line.strip() for line in printed.splitlines() if line.strip())

    def cpu_seconds(self) -> float | None:
        with suppress(FlagreleaseError, KeyError), translated("reading the container's processor time"):
            used = processor_time.of_container(self.id, self.inspect().get("State", {}).get("Pid", 0))
            if used is not None:
                return used
            # The engine is on another machine. It takes a second to answer, and two for more than one sample.
            usage = self._container.client.api.stats(self._container.id, stream=False, one_shot=True)
            return int(usage["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9
        return None

    def inspect(self) -> Mapping[str, Any]:
        """The engine's description; empty if the container is gone."""
        import docker

        with translated("inspecting the container"):
            try:
                attributes: Mapping[str, Any] = self._container.client.api.inspect_container(self._container.id)
            except docker.errors.NotFound:
                return {}
        return attributes

    def stop(self) -> None:
        with translated("stopping the container"):
            _remove(self._container)


def _remove(container: Any, grace: int = _GRACE_SECONDS) -> None:
    """Stop a container, with so many seconds to end by itself, and remove it."""
    import docker

    with suppress(docker.errors.NotFound):
        with suppress(docker.errors.APIError):
            container.stop(timeout=grace)
        try:
            container.remove(force=True, v=True)
        except docker.errors.APIError as error:
            if error.status_code != _CONFLICT:
                raise
            # Another thread is removing it, as when a run is stopped: wait until it is gone.
            for _ in range(100):
                container.reload()
                time.sleep(0.1)


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
