"""Ask Docker Engine which of a chip's container flags this machine refuses, by starting containers with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from flagrelease.config.chip import Container
from flagrelease.errors import DockerUnavailable, EnvironmentFault
from flagrelease.ports.container_runner import Runner
from flagrelease.recipe.container import ContainerRun, Placement

__all__ = ["refused", "usable"]


def refused(runner: Runner, flags: Container, image: str, labels: Mapping[str, str]) -> dict[str, str]:
    """The options of `docker run` that cannot be used here, with the reason; devices and mounts are not asked for."""
    plain = Container(ipc=flags.ipc, uts=flags.uts, pid=flags.pid)
    every = replace(flags, devices=(), mounts=(), gpus="", runtime="")
    if not _trouble(runner, every, image, labels):
        return {}
    found = {}
    for option, alone in _single(flags, plain).items():
        if why := _trouble(runner, alone, image, labels):
            found[option] = why
    return found


def usable(flags: Container, without: Mapping[str, str]) -> Container:
    """The flags without the options in `without`."""
    plain = Container()
    kept = {option for option in _single(flags, plain) if option not in without}
    return replace(
        flags,
        privileged=flags.privileged and "--privileged" in kept,
        ulimits={name: n for name, n in flags.ulimits.items() if f"--ulimit={name}={n}" in kept},
        security=tuple(each for each in flags.security if f"--security-opt={each}" in kept),
        capabilities=tuple(each for each in flags.capabilities if f"--cap-add={each}" in kept),
        groups=tuple(each for each in flags.groups if f"--group-add={each}" in kept),
    )


def _single(flags: Container, plain: Container) -> dict[str, Container]:
    """By option, `plain` with this option alone."""
    options = {"--privileged": replace(plain, privileged=True)} if flags.privileged else {}
    options |= {f"--ulimit={name}={n}": replace(plain, ulimits={name: n}) for name, n in flags.ulimits.items()}
    options |= {f"--security-opt={each}": replace(plain, security=(each,)) for each in flags.security}
    options |= {f"--cap-add={each}": replace(plain, capabilities=(each,)) for each in flags.capabilities}
    return options | {f"--group-add={each}": replace(plain, groups=(each,)) for each in flags.groups}


def _trouble(runner: Runner, flags: Container, image: str, labels: Mapping[str, str]) -> str:
    """Why no container starts with these flags; empty if one does."""
    run = ContainerRun(
        image=image,
        entrypoint=("true",),
        command=(),
        mounts=(),
        env={},
        flags=flags,
        offline=True,
        placement=Placement(name="", port=None, labels=labels),
    )
    try:
        runner.start(run).stop()
    except DockerUnavailable:
        raise
    except EnvironmentFault as error:
        return (error.why or error.what).rpartition("error during container init: ")[2].removesuffix(": unknown")
    return ""
