"""How a release's container is started: by us through the API, by users through `docker run`. The only place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flagrelease.config.chip import Chip, Container
from flagrelease.config.matrix import Model, Stack

MODELS = "/nfs/models"
"""Where the folder of a model is, in the container and in the card's commands."""

PORT = 8000

RunnerKind = Literal["docker", "process"]
"""What starts programs on a chip's host."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where on a host a container goes. `port` is the host's (None: any free one); without `address` it is
    published on all of the host's addresses. `name` empty: the engine chooses one."""

    name: str = "flagos"
    port: int | None = PORT
    address: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ContainerRun:
    """A container to be started. `argv` is for people, `sdk` for docker-py, and both say the same.

    A mount is HOST:INSIDE[:ro|:rw]. `entrypoint` empty: the image's own; its first word is the program.
    `offline`: without any network.
    """

    image: str
    command: tuple[str, ...]
    mounts: tuple[str, ...]
    env: Mapping[str, str]
    flags: Container
    placement: Placement
    entrypoint: tuple[str, ...] = ()
    offline: bool = False

    @property
    def network(self) -> str:
        return "none" if self.offline else self.flags.network

    @property
    def words(self) -> tuple[str, ...]:
        """What follows the image: the entry point's own arguments, then the command."""
        return (*self.entrypoint[1:], *self.command)

    def argv(self) -> tuple[str, ...]:
        """The command line, starting with `docker run --detach`."""
        return ("docker", "run", "--detach", *self.options(), self.image, *self.words)

    def options(self) -> tuple[str, ...]:
        """What `docker run` and `docker create` take between the verb and the image."""
        flags, place = self.flags, self.placement
        words: list[str] = []
        words += [f"--name={place.name}"] if place.name else []
        words += [f"--entrypoint={self.entrypoint[0]}"] if self.entrypoint else []
        words += [f"--label={name}={value}" for name, value in sorted(place.labels.items())]
        words += [f"--network={self.network}"] if self.network != "bridge" else [f"--publish={self._published()}"]
        for option, value in (
            ("ipc", flags.ipc),
            ("uts", flags.uts),
            ("pid", flags.pid),
            ("runtime", flags.runtime),
            # The command line reads the value as CSV: only in quotes is a list of devices one field.
            ("gpus", f'"{flags.gpus}"' if "," in flags.gpus else flags.gpus),
            ("shm-size", flags.shm),
        ):
            words += [f"--{option}={value}"] if value else []
        words += ["--privileged"] if flags.privileged else []
        words += [f"--device={device}" for device in flags.devices]
        words += [f"--group-add={group}" for group in flags.groups]
        words += [f"--cap-add={capability}" for capability in flags.capabilities]
        words += [f"--security-opt={option}" for option in flags.security]
        words += [f"--ulimit={name}={limit}" for name, limit in flags.ulimits.items()]
        words += [f"--tmpfs={path}" for path in flags.tmpfs]
        words += [f"--env={name}={value}" for name, value in self.env.items()]
        words += [f"--volume={mount}" for mount in (*flags.mounts, *self.mounts)]
        return tuple(words)

    def sdk(self) -> dict[str, Any]:
        """Keyword arguments of docker-py's `containers.create`."""
        flags, place = self.flags, self.placement
        kwargs: dict[str, Any] = {
            "image": self.image,
            "entrypoint": list(self.entrypoint[:1]) or None,
            "command": list(self.words) or None,
            "detach": True,
            "name": place.name or None,
            "labels": dict(place.labels),
            "network_mode": self.network if self.network != "bridge" else None,
            "ports": None if self.network != "bridge" else {f"{PORT}/tcp": self._binding()},
            "ipc_mode": flags.ipc or None,
            "uts_mode": flags.uts or None,
            "pid_mode": flags.pid or None,
            "runtime": flags.runtime or None,
            "device_requests": [_gpus(flags.gpus)] if flags.gpus else None,
            "shm_size": flags.shm or None,
            "privileged": flags.privileged,
            "devices": [_device(device) for device in flags.devices] or None,
            "group_add": list(flags.groups) or None,
            # The command line adds the prefix, the API takes names as they are.
            "cap_add": [f"CAP_{name.removeprefix('CAP_')}" for name in flags.capabilities] or None,
            "security_opt": list(flags.security) or None,
            "ulimits": [{"name": name, "soft": n, "hard": n} for name, n in flags.ulimits.items()] or None,
            "tmpfs": {path.partition(":")[0]: path.partition(":")[2] for path in flags.tmpfs} or None,
            "environment": [f"{name}={value}" for name, value in self.env.items()] or None,
            "volumes": [*flags.mounts, *self.mounts] or None,
        }
        return {name: value for name, value in kwargs.items() if value is not None}

    def _published(self) -> str:
        host = "" if self.placement.port is None else str(self.placement.port)
        if self.placement.address:
            return f"{self.placement.address}:{host}:{PORT}"
        return f"{host}:{PORT}" if host else str(PORT)

    def _binding(self) -> Any:
        port = self.placement.port
        return (self.placement.address, port) if self.placement.address else port


def for_serving(
    chip: Chip, model: Model, image_reference: str, model_dir: str, stack: Stack, placement: Placement
) -> ContainerRun:
    """The container that serves `model` on `chip`; `model_dir` is the model's folder on the host."""
    env = dict(chip.container.env)
    if chip.container.network == "host" and placement.port not in (None, PORT):
        # With the host's network there is no mapping: the engine itself listens on the host's port.
        env["FLAGOS_PORT"] = str(placement.port)
    return ContainerRun(
        image=image_reference,
        command=() if stack == "flagos" else (stack,),
        mounts=(f"{model_dir}:{model_path(model)}:ro",),
        env=env,
        flags=chip.container,
        placement=placement,
    )


def model_path(model: Model) -> str:
    """The model's folder in the container."""
    return f"{MODELS}/{model.title}"


def _device(text: str) -> str:
    """docker-py wants all three parts of HOST:CONTAINER:PERMISSIONS."""
    host, _, rest = text.partition(":")
    inside, _, permissions = rest.partition(":")
    return f"{host}:{inside or host}:{permissions or 'rwm'}"


def _gpus(text: str) -> dict[str, Any]:
    """`all`, a number, or `device=0,1`, as `docker run --gpus` reads them."""
    if text.startswith("device="):
        return {"device_ids": text.removeprefix("device=").split(","), "capabilities": [["gpu"]]}
    return {"count": -1 if text == "all" else int(text), "capabilities": [["gpu"]]}


def effective(inspected: Mapping[str, Any]) -> dict[str, Any]:
    """What decides how a container runs, out of `docker inspect`; equal for two that were started alike."""
    config, host = inspected["Config"], inspected["HostConfig"]
    chosen = {name: config.get(name) or None for name in ("Image", "Cmd", "Entrypoint", "User", "WorkingDir", "Labels")}
    chosen["Env"] = sorted(config.get("Env") or ())
    for name in _DECISIVE:
        chosen[name] = host.get(name) or None
    # The command line leaves out what docker-py spells as an empty list, and the other way round.
    requests = host.get("DeviceRequests") or ()
    chosen["DeviceRequests"] = [{name: value or None for name, value in request.items()} for request in requests]
    # The command line knows read-only only as a suffix of a bind, which stays; the order of flags says nothing.
    chosen["Binds"] = sorted(host.get("Binds") or ())
    # Command lines before Docker 23 hand a capability on as it was written, later ones spell it out.
    chosen["CapAdd"] = sorted(f"CAP_{name.removeprefix('CAP_')}" for name in host.get("CapAdd") or ()) or None
    chosen["Ulimits"] = sorted(host.get("Ulimits") or (), key=lambda limit: str(limit["Name"]))
    return chosen


_DECISIVE = (
    "NetworkMode",
    "PortBindings",
    "IpcMode",
    "UTSMode",
    "PidMode",
    "Privileged",
    "Runtime",
    "ShmSize",
    "Devices",
    "GroupAdd",
    "SecurityOpt",
    "Tmpfs",
)
