"""`flagrelease doctor`: check whether this machine can run a release, and say what to fix."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import socket
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from flagrelease.cli.shared import options
from flagrelease.cli.text_table import aligned, terminal_width, wrapped
from flagrelease.config.chip import UNKNOWN
from flagrelease.contract.context import Ports
from flagrelease.errors import EnvironmentFault, FlagreleaseError
from flagrelease.evaluation.harnesses import choose
from flagrelease.packaging.base_image import not_here, registry_name
from flagrelease.ports.credentials import docker_login
from flagrelease.ports.docker import config_file
from flagrelease.ports.docker.endpoint import endpoint
from flagrelease.ports.http import is_loopback
from flagrelease.ports.processes.runner import ProcessRunner
from flagrelease.run.plan import CellPlan, Choice
from flagrelease.run.preflight import checked
from flagrelease.run.project import Project, check_registry, open_project, real_ports
from flagrelease.stages import STAGES
from flagrelease.stages.publish import deliver
from flagrelease.store.files import free_bytes

_DISK_BYTES = 10_000_000_000
_MEMORY_BYTES = 4_000_000_000


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    ok: bool
    found: str
    """What the check saw, in a few words."""
    hint: str = ""
    """What to do if it is not `ok`."""
    limited: bool = False
    """Whether it is `ok` for some cells only."""

    @property
    def mark(self) -> str:
        return "✗" if not self.ok else "–" if self.limited else "✓"


def main(arguments: argparse.Namespace) -> int:
    project = open_project(options(arguments))
    ports = real_ports(project.workspace, project.registry, project.runner)
    findings = _waiting([_checked(name, check) for name, check in _checks(project, ports)])
    failing = [finding for finding in findings if not finding.ok]
    if arguments.json:
        print(json.dumps({"ok": not failing, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        rows = [[f.mark, f.name, f.found] for f in findings]
        print(aligned(["", "what", "found"], rows, width=terminal_width()))
        for finding in failing:
            print(finding.name + "\n" + wrapped(f"  → {finding.hint}", terminal_width()))
    return EnvironmentFault.exit_code if failing else 0


def _checks(project: Project, ports: Ports) -> list[tuple[str, Callable[[], Finding]]]:
    plans = cache(lambda: [checked(plan, project) for plan in project.plan(project.cells, STAGES, Choice())])
    common: list[tuple[str, Callable[[], Finding]]] = [
        ("disk", lambda: _disk(project)),
        ("memory", _memory),
        ("ports", lambda: _ports(plans())),
        ("matrix.lock", lambda: _lock(project)),
        ("cells", lambda: _cells(plans())),
        ("harnesses", lambda: _harnesses(project, ports)),
    ]
    if project.runner == "process":
        return [("python", lambda: _python(project)), *common]
    return [
        ("docker engine", lambda: _docker(ports)),
        ("docker config", _docker_config),
        ("registry", lambda: _registry(project)),
        ("base images", lambda: _bases(project, ports)),
        ("credentials", lambda: _credentials(project)),
        *([("targets", lambda: _targets(project))] if project.matrix.targets else []),
        *common,
    ]


def _checked(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except FlagreleaseError as error:
        return Finding(name, False, error.line(), error.hint or "see `flagrelease doctor --help`")


def _waiting(findings: list[Finding]) -> list[Finding]:
    """No cell can run before Docker Engine answers, which planning does not ask for; and it is named once."""
    engine = next((finding for finding in findings if finding.name == "docker engine"), None)
    if engine is None or engine.ok:
        return findings
    told = {
        "base images": "not known before Docker Engine answers",
        "cells": "none before Docker Engine answers; then {}",
    }
    return [
        replace(each, ok=False, found=told[each.name].format(each.found), hint="see `docker engine`")
        if each.name in told
        else each
        for each in findings
    ]


def _python(project: Project) -> Finding:
    """Without Docker, this machine takes the place of the base images."""
    machine = ProcessRunner(project.workspace).machine
    fit = [name for name, chip in project.matrix.chips.items() if machine.fits(chip.python)]
    wanted = ", ".join(sorted({chip.python for chip in project.matrix.chips.values()}))
    found = f"Python {machine.version} on {machine.system}, for {', '.join(fit) or 'no chip'}"
    return Finding("python", bool(fit), found, f"put one of Python {wanted} first on PATH")


def _docker(ports: Ports) -> Finding:
    version = ports.runner.version()
    return Finding("docker engine", True, f"{version.version} on {version.os} ({endpoint()})")


def _registry(project: Project) -> Finding:
    check_registry(project.registry)
    return Finding("registry", True, f"{project.registry} answers")


def _bases(project: Project, ports: Ports) -> Finding:
    chips = {name: chip for name, chip in project.matrix.chips.items() if chip.base != UNKNOWN}
    local = [name for name, chip in chips.items() if ports.docker.image(chip.base) is not None]
    for name, chip in chips.items():
        if name not in local and registry_name(chip.base) is None:
            error = not_here(chip.base)
            return Finding("base images", False, error.what, error.hint)
    pinned = [name for name, chip in project.lock.chips.items() if chip.digest]
    unknown = [name for name in project.matrix.chips if name not in chips]
    limited = not set(chips) <= {*local, *pinned}
    found = bases_found(chips, local, pinned) + (f"; unknown: {', '.join(unknown)}" if unknown else "")
    return Finding("base images", True, found, limited=limited)


def bases_found(chips: Collection[str], local: Collection[str], pinned: Collection[str]) -> str:
    """Which chips' base images are here, pulled when needed, or neither: those that matrix.lock does not pin."""
    pulled = [name for name in chips if name not in local and name in pinned]
    neither = [name for name in chips if name not in local and name not in pinned]
    parts = [f"local: {', '.join(local) or 'none'}"]
    parts += [f"pulled when needed: {', '.join(pulled)}"] if pulled else []
    parts += [f"not pinned, so never pulled: {', '.join(neither)} (`flagrelease lock` pins)"] if neither else []
    return "; ".join(parts)


def _disk(project: Project) -> Finding:
    _check_writable(project.workspace.root)
    free = free_bytes(project.workspace.root)
    hint = "free some space, or choose --workspace DIR on another disk"
    return Finding("disk", free >= _DISK_BYTES, f"{free / 1e9:.0f} GB free for the workspace", hint)


def _check_writable(workspace: Path) -> None:
    """Write and lock a file in the workspace or, before there is one, where it will be. Raises EnvironmentFault."""
    folder = next(path for path in (workspace, *workspace.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"flagrelease")
            file.flush()
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        why = error.strerror or str(error)
        hint = "make it writable for this user and lockable, or choose --workspace DIR"
        raise EnvironmentFault(f"{folder} cannot be written", why=why, hint=hint) from None


def _memory() -> Finding:
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    hint = f"a CPU cell needs {_MEMORY_BYTES / 1e9:.0f} GB: stop other programs"
    return Finding("memory", available >= _MEMORY_BYTES, f"{available / 1e9:.1f} GB available", hint)


def _ports(plans: Sequence[CellPlan]) -> Finding:
    """Of the cells that can run here: those with host networking serve on their own port, bridged ones on any free
    port."""
    ready = [plan.cell for plan in plans if not plan.blocked and not plan.cell.excluded]
    wanted = {cell.model.serve.port for cell in ready if cell.chip.container.network == "host"}
    taken = [port for port in sorted(wanted) if _taken(port)]
    listed = ", ".join(map(str, taken or sorted(wanted)))
    if taken:
        return Finding("ports", False, f"{listed} in use", "stop the program that listens there: `ss -ltnp` names it")
    return Finding("ports", True, f"{listed} free" if listed else "no cell that can run needs a fixed port")


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False


def _credentials(project: Project) -> Finding:
    host = project.registry.partition("/")[0]
    names = ["FLAGRELEASE_REGISTRY_USER", "FLAGRELEASE_REGISTRY_PASSWORD"]
    file = config_file.read()
    login, fault = docker_login(host)
    damage = f"; {file.path} is not used for it: {fault}" if fault else ""
    if all(os.environ.get(name) for name in names):
        return Finding("credentials", True, f"from the environment{damage}")
    if login is not None:
        return Finding("credentials", True, f"from Docker's configuration ({file.path})")
    if is_loopback(host):
        return Finding("credentials", True, f"none needed for a registry on this machine{damage}")
    hint = f"set {' and '.join(names)}, or `docker login`"
    return Finding("credentials", False, f"none for the registry{damage}", hint)


def _targets(project: Project) -> Finding:
    """Whether releases can be written to each target, those that did not pass included."""
    failed = deliver.check(project.matrix.targets)
    if not failed:
        return Finding("targets", True, f"can be written: {', '.join(project.matrix.targets)}")
    found = "; ".join(f"{place}: {error.line()}" for place, error in failed.items())
    hints = dict.fromkeys(error.hint for error in failed.values() if error.hint)
    return Finding("targets", False, found, "; ".join(hints) or "fix `targets` in matrix.yaml")


def _docker_config() -> Finding:
    file = config_file.read()
    if ignored := file.ignored():
        return Finding("docker config", False, ignored.line(), ignored.hint)
    return Finding("docker config", True, str(file.path) if file.path else "none")


def _harnesses(project: Project, ports: Ports) -> Finding:
    """The harnesses that the profiles of all cells that can run choose for their benchmarks."""
    cells = [cell for cell in project.cells if not cell.excluded]
    benchmarks = project.matrix.benchmarks
    wanted = sorted({name for cell in cells for name in choose.chosen(cell, benchmarks).values()})
    for cell in cells:
        choose.check(cell, benchmarks)
    for name in wanted:
        if problem := choose.HARNESSES[name].outdated(ports.command, os.environ):
            return Finding("harnesses", False, *problem)
    return Finding("harnesses", True, ", ".join(wanted))


def _lock(project: Project) -> Finding:
    unlocked = [name for name in project.matrix.models if name not in project.lock.models]
    if len(unlocked) == len(project.matrix.models):
        return Finding("matrix.lock", False, "no model is pinned", "run `flagrelease lock`")
    missing = [f"models.{name}" for name in unlocked]
    missing += [name for name in project.lock.unresolved if name not in missing]
    suffix = f"; not pinned: {', '.join(missing)}" if missing else ""
    pinned = ", ".join(sorted(project.lock.models))
    return Finding("matrix.lock", True, f"pinned: {pinned}{suffix}")


def _cells(plans: Sequence[CellPlan]) -> Finding:
    """The cells that `plan` shows as blocked. One that can run is enough: a machine rarely serves every chip."""
    selected = [plan for plan in plans if not plan.cell.excluded]
    blocked = [plan for plan in selected if plan.blocked]
    found = f"{len(selected) - len(blocked)} of {len(selected)} can run"
    if blocked:
        found += f"; blocked: {', '.join(plan.cell.id for plan in blocked)} (`flagrelease plan` says why)"
    hint = f"{blocked[0].cell.id}: {blocked[0].hint or blocked[0].blocked}" if blocked else ""
    return Finding("cells", len(blocked) < len(selected), found, hint, limited=bool(blocked))
