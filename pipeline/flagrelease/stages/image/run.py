"""Assemble or lay out the image from locked packages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, astuple, replace

import msgspec

from flagrelease.config.engines import ENGINES
from flagrelease.config.lockfile import Brought
from flagrelease.contract import results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.errors import UpstreamRefused
from flagrelease.packaging import base_components, operator_bundle, wheelhouse
from flagrelease.packaging.base_image import base_image, check_python, processes
from flagrelease.ports import python_probe
from flagrelease.ports.container_runner import labels
from flagrelease.recipe import image_paths
from flagrelease.stages.image import assemble, base_python, build_context, process_root
from flagrelease.stages.image import base as bases
from flagrelease.stages.image.documents import documents
from flagrelease.store.evidence import Evidence

# Packages in the card's version table besides the FlagOS components; the image's manifest lists all packages.
_SHOWN = (
    "flag-scale",
    "flag-gems",
    "flagtree",
    *(engine.distribution for engine in ENGINES.values()),
    "torch",
    "triton",
)


def build(job: Job, context: Context) -> results.Image:
    """Raises RegistryDenied before any work if pushing is not allowed, and the errors of its steps; without Docker,
    EnvironmentFault if this machine has a different Python version than the chip."""
    job.lock.require("models", job.cell.model_name)
    return _built(job, context) if job.runner == "docker" else _laid_out(job, context)


def _built(job: Job, context: Context) -> results.Image:
    context.progress.doing("checking push access to the registry")
    with context.meter.waiting():
        context.ports.registry.check_push(job.repository)
    # Asked of the base itself, which is pulled for it: most chips have all components installed.
    brought = _brought(job, context, base_image(job, context)[0]) if job.cell.chip.brought else {}
    base = bases.find(job, context)
    wheels = _packages(job, context)
    plan = build_context.draw(job, wheels, base.reference, base.id, operators=_operators(context))
    # Before anything is sent, since a secret in one of them would be in the image.
    written = (context.evidence.put("Dockerfile", plan.files["Dockerfile"][0]), *_written(context, plan))
    written += _brought_evidence(context, brought)
    found = base_python.facts(job, context, base.id)
    with context.meter.waiting():
        parts = assemble.parts(job, context, plan, base, found)
    made = documents(base, parts, plan.labels)
    pushed = assemble.send(job, context, base, parts, made)
    inside = replace(found.seen, packages=found.packages({wheel.name: wheel.version for wheel in wheels.installed}))
    return results.Image(
        repository=job.repository,
        digest=made.digest,
        image_id=made.image_id,
        base=base.reference,
        base_id=base.id,
        size=found.size + sum(part.layer.unpacked for part in parts),
        pushed_bytes=base.sent + pushed,
        labels=plan.labels,
        versions=_shown(inside),
        remarks=(*plan.remarks, *base_components.remarks(job.cell.chip, brought)),
        evidence=(*written, _packages_inside(context, inside), _system_packages(context, inside)),
    )


def _brought(job: Job, context: Context, base: str) -> dict[str, Brought]:
    """What the base image brings, if something is expected of it. Raises EnvironmentFault if that is not there."""
    chip = job.cell.chip
    if not chip.brought:
        return {}
    context.progress.doing("reading the components of the base image")
    with context.meter.waiting():
        ours = labels(context.run_id, job.cell.id, context.workspace.root)
        found = base_components.in_image(context.ports.runner, base, ours)
    base_components.check(job.cell.chip_name, chip, found)
    return found


def _brought_evidence(context: Context, brought: Mapping[str, Brought]) -> tuple[Evidence, ...]:
    if not brought:
        return ()
    return (context.evidence.put("base-components.json", msgspec.json.format(msgspec.json.encode(brought), indent=1)),)


def _laid_out(job: Job, context: Context) -> results.Image:
    base, found = base_image(job, context)
    machine = processes(context).machine
    check_python(machine, job.cell.chip.python)
    wheels = _packages(job, context)
    context.progress.doing("laying out the image")
    digest = process_root.digest(build_context.draw(job, wheels, base, found.id, operators=_operators(context)))
    root = context.workspace.image(digest)
    plan = build_context.draw(job, wheels, base, found.id, image_paths.under(root), _operators(context))
    written = _written(context, plan)
    with context.meter.waiting():
        made = process_root.make(root, digest, plan, machine, job.cell.model.serve.engine, context.ports.command)
    brought = _brought(job, context, f"{job.repository}@{digest}")
    written += _brought_evidence(context, brought)
    inside = _inspect(job, context, wheels, f"{job.repository}@{digest}")
    return results.Image(
        repository=job.repository,
        digest=digest,
        image_id=digest,
        base=base,
        base_id=found.id,
        size=made.size,
        pushed_bytes=0,
        labels=plan.labels,
        versions=_shown(inside),
        remarks=(*plan.remarks, *base_components.remarks(job.cell.chip, brought)),
        runner="process",
        evidence=(*written, _packages_inside(context, inside)),
    )


def _written(context: Context, plan: build_context.Plan) -> tuple[Evidence, ...]:
    return (
        context.evidence.put("serve.yaml", plan.files["config/serve.yaml"][0]),
        context.evidence.put("manifest.json", plan.manifest),
    )


def _packages_inside(context: Context, inside: python_probe.Seen) -> Evidence:
    return context.evidence.put("packages.json", json.dumps(inside.packages, indent=1, sort_keys=True).encode())


def _system_packages(context: Context, inside: python_probe.Seen) -> Evidence:
    found = inside.distribution
    ordered = replace(found, packages=tuple(sorted(found.packages, key=astuple)))
    return context.evidence.put("system-packages.json", json.dumps(asdict(ordered), indent=1).encode())


def _operators(context: Context) -> operator_bundle.Shipped | None:
    return operator_bundle.of(context.optional(results.KERNELS), context.workspace)


def _packages(job: Job, context: Context) -> wheelhouse.Wheelhouse:
    context.progress.doing("gathering Python packages")
    return wheelhouse.of(job, context)


def _inspect(job: Job, context: Context, wheels: wheelhouse.Wheelhouse, image: str) -> python_probe.Seen:
    """Inspect the Python packages of the image. Raises UpstreamRefused if one of the manifest is missing."""
    context.progress.doing("inspecting the image")
    with context.meter.waiting():
        ours = labels(context.run_id, job.cell.id, context.workspace.root)
        printed = context.ports.runner.output(image, ["python3", "-c", python_probe.PROGRAM], ours)
    inside = python_probe.read(printed)
    missing = [wheel.name for wheel in wheels.installed if wheel.name not in inside.packages]
    if missing:
        raise UpstreamRefused("the image lacks packages of its manifest", why=", ".join(missing))
    return inside


def _shown(inside: python_probe.Seen) -> dict[str, str]:
    # The base precedes the release on the path: its build of a package takes precedence and is the one to report.
    shown = {name: inside.packages[name] for name in _SHOWN if name in inside.packages}
    return {"Base system": inside.system, "Python": inside.python, **shown}
