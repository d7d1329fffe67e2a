"""Single source of a container's flags: docker-py arguments for us, the `docker run` line for the card's readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flagrelease.config.chip import Chip, Container
from flagrelease.config.matrix import Model, Stack
from flagrelease.recipe.devices import Devices, limited

MODELS = "/nfs/models"
"""The parent of all models' folders, in the container and in the card's commands."""

PORT = 8000

RunnerKind = Literal["docker", "process"]
"""The executor on a chip's host."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The host-specific part of a container's description."""

    name: str = "flagos"
    """The container's name; if empty, the engine chooses one."""
    port: int | None = PORT
    """The host's port; None for any free port."""
    address: str = ""
    """The host's address to publish the port on; if empty, all addresses."""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ContainerRun:
    """A container to start. `argv` (for people) and `sdk` (for docker-py) describe the same container."""

    image: str
    command: tuple[str, ...]
    mounts: tuple[str, ...]
    """Each HOST:INSIDE[:ro|:rw]."""
    env: Mapping[str, str]
    flags: Container
    """The chip's container flags in matrix.yaml."""
    placement: Placement
    entrypoint: tuple[str, ...] = ()
    """Program and arguments; if empty, the image's entry point."""
    offline: bool = False
    """Whether to start it without network."""

    @property
    def network(self) -> str:
        return "none" if self.offline else self.flags.network

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments after the image: those of the entry point, then the command."""
        return (*self.entrypoint[1:], *self.command)

    def argv(self) -> tuple[str, ...]:
        """The command line, starting with `docker run --detach`."""
        return ("docker", "run", "--detach", *self.options(), self.image, *self.arguments)

    def options(self) -> tuple[str, ...]:
        """The options of `docker run` and `docker create`."""
        flags, placement = self.flags, self.placement
        options: list[str] = []
        options += [f"--name={placement.name}"] if placement.name else []
        options += [f"--entrypoint={self.entrypoint[0]}"] if self.entrypoint else []
        options += [f"--label={name}={value}" for name, value in sorted(placement.labels.items())]
        options += [f"--network={self.network}"] if self.network != "bridge" else [f"--publish={self._published()}"]
        for option, value in (
            ("ipc", flags.ipc),
            ("uts", flags.uts),
            ("pid", flags.pid),
            ("runtime", flags.runtime),
            # The command line parses the value as CSV: a list of devices must be quoted to be one field.
            ("gpus", f'"{flags.gpus}"' if "," in flags.gpus else flags.gpus),
            ("shm-size", flags.shm),
        ):
            options += [f"--{option}={value}"] if value else []
        options += ["--privileged"] if flags.privileged else []
        options += [f"--device={device}" for device in flags.devices]
        options += [f"--group-add={group}" for group in flags.groups]
        options += [f"--cap-add={capability}" for capability in flags.capabilities]
        options += [f"--security-opt={option}" for option in flags.security]
        options += [f"--ulimit={name}={limit}" for name, limit in flags.ulimits.items()]
        options += [f"--tmpfs={path}" for path in flags.tmpfs]
        options += [f"--env={name}={value}" for name, value in self.env.items()]
        options += [f"--volume={mount}" for mount in (*flags.mounts, *self.mounts)]
        return tuple(options)

    def sdk(self) -> dict[str, Any]:
        """Keyword arguments of docker-py's `containers.create`."""
        flags, placement = self.flags, self.placement
        kwargs: dict[str, Any] = {
            "image": self.image,
            "entrypoint": list(self.entrypoint[:1]) or None,
            "command": list(self.arguments) or None,
            "detach": True,
            "name": placement.name or None,
            "labels": dict(placement.labels),
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
            # The command line adds the prefix, the API does not.
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
    chip: Chip,
    model: Model,
    image_reference: str,
    model_dir: str,
    stack: Stack,
    placement: Placement,
    devices: Devices | None = None,
    *,
    processes: bool = False,
) -> ContainerRun:
    """The container that serves `model` on `chip` from the host's folder `model_dir`, on `devices` of the machine; None
    for all. `processes`: it is started without Docker."""
    flags = limited(chip, devices, processes=processes)
    env = dict(flags.env)
    if flags.network == "host":
        # The host's network has no port mapping: the engine itself must listen on the host's address and port.
        env |= {"FLAGOS_HOST": placement.address} if placement.address else {}
        env |= {"FLAGOS_PORT": str(placement.port)} if placement.port not in (None, PORT) else {}
    return ContainerRun(
        image=image_reference,
        command=() if stack == "flagos" else (stack,),
        mounts=(f"{model_dir}:{model_path(model)}:ro",),
        env=env,
        flags=flags,
        placement=placement,
    )


def model_path(model: Model) -> str:
    """The model's folder in the container."""
    return f"{MODELS}/{model.title}"


def _device(text: str) -> str:
    """Complete HOST:CONTAINER:PERMISSIONS: docker-py requires all three parts."""
    host, _, remainder = text.partition(":")
    inside, _, permissions = remainder.partition(":")
    return f"{host}:{inside or host}:{permissions or 'rwm'}"


def _gpus(text: str) -> dict[str, Any]:
    """Parse the value of `docker run --gpus`: `all`, a number, or `device=0,1`."""
    if text.startswith("device="):
        return {"device_ids": text.removeprefix("device=").split(","), "capabilities": [["gpu"]]}
    return {"count": -1 if text == "all" else int(text), "capabilities": [["gpu"]]}


def effective(inspected: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `docker inspect` that determines how a container runs; equal for containers with equal flags."""
    config, host = inspected["Config"], inspected["HostConfig"]
    chosen = {name: config.get(name) or None for name in ("Image", "Cmd", "Entrypoint", "User", "WorkingDir", "Labels")}
    chosen["Env"] = sorted(config.get("Env") or ())
    for name in _DECISIVE:
        chosen[name] = host.get(name) or None
    # The command line omits what docker-py sends as an empty list, and vice versa.
    requests = host.get("DeviceRequests") or ()
    chosen["DeviceRequests"] = [{name: value or None for name, value in request.items()} for request in requests]
    # The order of flags is irrelevant. Read-only stays: it is a suffix of the bind on the command line as well.
    chosen["Binds"] = sorted(host.get("Binds") or ())
    # Before Docker 23 the command line passed a capability on unchanged; later versions add the CAP_ prefix.
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
