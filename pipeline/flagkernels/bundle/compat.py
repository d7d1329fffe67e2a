"""Check that a bundle was made for a machine like this one.

A tuned configuration is only valid on the chip it was timed on, and a compiled kernel is only found by the Triton
version that stored it. FlagGems names its tables by a hash of the kernel's source, so another FlagGems silently misses
every entry. Therefore all six fields must be equal; the error names those that differ.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from flagkernels.digests import directory_digest
from flagkernels.errors import BundleCorrupt, BundleMismatch, ChipFault, UsageError, did_you_mean
from flagkernels.vendors import vendors

__all__ = ["ACCEPT", "Compat", "Probe", "SystemProbe", "check", "differences", "read_compat"]

ACCEPT = "FLAGKERNELS_ACCEPT"
"""Environment variable: comma-separated fields that may differ, for instance after a tested driver update."""


_SECONDS = 60.0
_MOST_CHARACTERS = 65536
"""Of what a vendor's tool prints, that are read."""


@dataclass(frozen=True, kw_only=True)
class Compat:
    """The properties of a machine that a bundle depends on."""

    vendor: str
    """FlagGems' vendor name, such as nvidia or metax."""
    device: str
    """Device name, as the vendor's tool reports it."""
    driver: str
    """Driver version."""
    triton: str
    """Version of Triton or FlagTree."""
    flaggems: str
    """Version of FlagGems."""
    source: str
    """sha256 over FlagGems' own source and configuration files."""


class Probe(Protocol):
    """Determines the properties of this machine."""

    def compat(self, vendor: str) -> Compat: ...


class SystemProbe:
    """Queries the vendor's tool and the installed packages. Opens no device context, so an engine can still fork."""

    def compat(self, vendor: str) -> Compat:
        """Raises ChipFault if the vendor's tool, Triton or FlagGems is missing."""
        device, driver = self._device(vendor)
        if vendor == "cpu":  # FlagGems has no CPU backend; a bundle can still contain other operators
            return Compat(vendor=vendor, device=device, driver=driver, triton="none", flaggems="none", source="none")
        return Compat(
            vendor=vendor,
            device=device,
            driver=driver,
            triton=self._triton(),
            flaggems=_distribution("flag-gems", "flag_gems"),
            source=source_hash(_package("flag_gems")),
        )

    def _device(self, vendor: str) -> tuple[str, str]:
        if vendor == "nvidia" and (reported := _nvidia_proc(Path("/proc/driver/nvidia"))):
            return reported
        if vendor == "cpu":
            return platform.machine(), "none"
        row = vendors().get(vendor)
        if row is None or row.device is None or row.driver is None:
            raise ChipFault(
                f"cannot query a {vendor} chip for its name and driver",
                why="flagkernels/vendors.json has no command or no parser for this vendor",
                hint="add the vendor's command and its parser to flagkernels/vendors.json",
            )
        if shutil.which(row.query[0]) is None:
            raise ChipFault(
                f"{row.query[0]} is not on PATH",
                why=f"it reports the name and driver of a {vendor} chip",
                hint="run on the chip's host or in its base image, with the vendor's tools mounted",
            )
        code, printed = _ask(row.query)
        matches = [re.search(pattern, printed, re.MULTILINE) for pattern in (row.device, row.driver)]
        if code or None in matches:
            raise ChipFault(
                f"{' '.join(row.query)} did not report device and driver",
                why=printed.strip()[-300:],
                hint="check that the chip is visible to this process",
            )
        device, driver = (match.group(1).strip() for match in matches if match)
        return device, driver

    def _triton(self) -> str:
        # FlagTree replaces the triton package; its local version label identifies the compiler.
        return _distribution("triton", "triton", "flagtree")


def _ask(query: Sequence[str]) -> tuple[int, str]:
    """The exit code of a vendor's tool, and the beginning of what it prints. Raises ChipFault if it does not end."""
    ended = threading.Event()
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(query, start_new_session=True, errors="replace", **streams) as tool:

        def stop() -> None:
            ended.set()
            os.killpg(tool.pid, signal.SIGKILL)  # also what it has started, which holds its output

        timer = threading.Timer(_SECONDS, stop)
        timer.start()
        try:
            printed = tool.stdout.read(_MOST_CHARACTERS) if tool.stdout else ""
            if len(printed) == _MOST_CHARACTERS:
                os.killpg(tool.pid, signal.SIGKILL)
            code = tool.wait()
        finally:
            timer.cancel()
    if ended.is_set():
        raise ChipFault(
            f"{' '.join(query)} did not end within {_SECONDS:.0f} s",
            why="it was stopped",
            hint="run it by itself; a device that does not answer usually needs a reset by its administrator",
        )
    return code, printed


def _nvidia_proc(root: Path) -> tuple[str, str] | None:
    """Device and driver from /proc: the same as nvidia-smi's, which takes a second in each of many workers."""
    try:
        version = (root / "version").read_text()
        model = next(iter(sorted((root / "gpus").iterdir()))) / "information"
        device = re.search(r"^Model:\s*(.+)$", model.read_text(), re.MULTILINE)
    except (OSError, StopIteration):
        return None
    driver = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", version)
    return (device.group(1).strip(), driver.group(1)) if device and driver else None


def _distribution(name: str, package: str, *others: str) -> str:
    for candidate in (name, *others):
        try:
            return importlib.metadata.version(candidate)
        except importlib.metadata.PackageNotFoundError:
            continue
    init = _package(package) / "__init__.py"
    if match := re.search(r"""^__version__\s*=\s*["']([^"']+)""", init.read_text(), re.MULTILINE):
        return match.group(1)
    raise ChipFault(f"{name} does not report its version", why=f"{init} has no __version__")


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ChipFault(
            f"{name} is not installed",
            why="operators need FlagGems, and Triton to compile them",
            hint="use the chip's base image, or set the cell's stack to native",
        )
    return Path(next(iter(spec.submodule_search_locations)))


@lru_cache(maxsize=4)
def source_hash(package: Path) -> str:
    """sha256 over the package's *.py and *.yaml: FlagGems derives its table names from the kernels' source."""
    return directory_digest(package, [*package.rglob("*.py"), *package.rglob("*.yaml")])


def differences(bundle: Compat, here: Compat) -> list[tuple[str, str, str]]:
    """(field, bundle's value, this machine's value) for each field that differs."""
    pairs = [(f.name, getattr(bundle, f.name), getattr(here, f.name)) for f in fields(Compat)]
    return [pair for pair in pairs if pair[1] != pair[2]]


def check(bundle: Compat, here: Compat, *, accept: frozenset[str] | None = None) -> list[str]:
    """Return the fields that differ and are accepted (default: by FLAGKERNELS_ACCEPT).

    Raises BundleMismatch if any other field differs, UsageError if the variable names an unknown field."""
    if accept is None:
        accept = _accepted(os.environ.get(ACCEPT, ""))
    differing = differences(bundle, here)
    refused = [pair for pair in differing if pair[0] not in accept]
    if refused:
        raise BundleMismatch(
            "the bundle does not fit this machine: " + ", ".join(name for name, _, _ in refused),
            why="; ".join(f"{name}: bundle {theirs!r}, here {ours!r}" for name, theirs, ours in refused),
            hint="make a bundle on this chip with `python -m flagkernels prepare`, or, if you have tested the "
            f"difference, set {ACCEPT}={','.join(name for name, _, _ in refused)}",
        )
    return [name for name, _, _ in differing]


def _accepted(text: str) -> frozenset[str]:
    names = [field.name for field in fields(Compat)]
    wanted = frozenset(filter(None, map(str.strip, text.split(","))))
    for name in sorted(wanted - set(names)):
        hint = did_you_mean(name, names) or f"the fields are {', '.join(names)}"
        raise UsageError(f"{ACCEPT} names {name!r}, which is not a compatibility field", hint=hint)
    return wanted


def read_compat(path: Path) -> Compat:
    """Read compat.json. Raises BundleCorrupt if it is missing or is not a compatibility label."""
    try:
        value = json.loads(path.read_text())
        return Compat(**{f.name: str(value[f.name]) for f in fields(Compat)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleCorrupt(
            f"{path} is not a compatibility label", why=repr(error), hint="copy the bundle from its release again"
        ) from error
