"""A started container of Docker Engine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from flagrelease.errors import EnvironmentFault, FlagreleaseError
from flagrelease.ports import processor_time
from flagrelease.ports.container_runner import Ended
from flagrelease.ports.docker.deadlines import Clients
from flagrelease.ports.docker.errors import translated
from flagrelease.redact import redact

GRACE_SECONDS = 10
_CONFLICT = 409
_LOOK_SECONDS = 60.0


class Started:
    """Implements Running."""

    def __init__(self, clients: Clients, container_id: str) -> None:
        self._clients = clients
        self._id = container_id

    @property
    def id(self) -> str:
        return self._id

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
            raw: bytes = self._clients.ask.api.logs(self._id, tail=lines)
            return redact(raw.decode(errors="replace"))
        return ""

    def lines(self) -> Iterator[str]:
        """The program may print nothing for hours; the engine must answer meanwhile."""
        doing, partial = "reading the container's output", b""

        def followed() -> Iterator[bytes]:
            chunks: Iterator[bytes] = self._clients.endless.api.logs(self._id, stream=True, follow=True)
            return chunks

        with translated(doing):
            for chunk in self._clients.watched(doing, followed, told=lambda _text: None, bound=float("inf")):
                *lines, partial = (partial + chunk).split(b"\n")
                yield from (redact(line.decode(errors="replace")) for line in lines)
            # Engines may drop a last line without a newline when following a container to its end.
            partial = partial or self._clients.ask.api.logs(self._id, tail=1)
        if partial and not partial.endswith(b"\n"):
            yield redact(partial.decode(errors="replace"))

    def execute(self, argv: Sequence[str], *, seconds: float) -> tuple[int, str]:
        # The API cannot kill a hanging exec, so run it under `timeout`, which coreutils and busybox both have.
        limit = max(1, round(seconds))
        doing = f"running {argv[0]} in the container"

        def run() -> bytes:
            printed: bytes = self._clients.ask.api.exec_start(made)  # it waits without a limit
            return printed

        with translated(doing):
            made = self._clients.ask.api.exec_create(self._id, ["timeout", str(limit), *argv])["Id"]
            printed = self._clients.once(doing, run, bound=limit + self._clients.deadlines.ask)
            code = self._clients.ask.api.exec_inspect(made)["ExitCode"]
        return int(code), redact(printed.decode(errors="replace"))

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
            usage = self._clients.ask.api.stats(self._id, stream=False, one_shot=True)
            return int(usage["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9
        return None

    def inspect(self) -> Mapping[str, Any]:
        """The engine's description; empty if the container is gone."""
        import docker

        with translated("inspecting the container"):
            try:
                attributes: Mapping[str, Any] = self._clients.ask.api.inspect_container(self._id)
            except docker.errors.NotFound:
                return {}
        return attributes

    def stop(self) -> None:
        with translated("stopping the container"):
            remove(self._clients, self._id)


def remove(clients: Clients, container_id: str, grace: int = GRACE_SECONDS) -> None:
    """Stop a container, with so many seconds to end by itself, and remove it."""
    import docker

    api = clients.change.api
    with suppress(docker.errors.NotFound):
        with suppress(docker.errors.APIError):
            api.stop(container_id, timeout=grace)
        try:
            api.remove_container(container_id, force=True, v=True)
        except docker.errors.APIError as error:
            if error.status_code != _CONFLICT:
                raise
            # Another thread is removing it, as when a run is stopped: wait until it is gone.
            for _ in range(100):
                clients.ask.api.inspect_container(container_id)
                time.sleep(0.1)
