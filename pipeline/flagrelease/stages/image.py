"""image: build without network, push by digest, read the digest back from the registry."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from typing import Any

from flagrelease import buildcontext, results, wheels
from flagrelease.base import base_image, counted, locked_base
from flagrelease.errors import EnvironmentFault, FlagreleaseError, UpstreamRefused
from flagrelease.ports.docker import Pushed
from flagrelease.ports.runner import LocalImage, labels
from flagrelease.stage import Context, Job, Look, Stage
from flagrelease.workspace import telling_space

_PUSH_SECONDS = 600.0
_FIRST_PAUSE = 1.0

# What the card's table names, besides the FlagOS parts; the manifest inside has all packages.
_SHOWN = ("flag-scale", "flag-gems", "flagtree", "vllm", "sglang", "torch", "triton", "xllamacpp")

_VERSIONS = """
import importlib.metadata as metadata, json, platform, re
found = {re.sub(r"[-_.]+", "-", d.metadata["Name"]).lower(): d.version for d in metadata.distributions()}
try:
    system = platform.freedesktop_os_release()["PRETTY_NAME"]
except OSError:
    system = platform.platform()
print(json.dumps({"packages": found, "python": platform.python_version(), "system": system}))
"""


def repository(job: Job) -> str:
    """HOST/PREFIX/MODEL-CHIP."""
    return f"{job.registry}/{job.cell.model_name}-{job.cell.chip_name}"


def inputs(job: Job) -> Mapping[str, Any]:
    cell = job.cell
    return {
        "repository": repository(job),
        "chip": cell.chip_name,
        "base": locked_base(job),
        "python": cell.chip.python,
        "components": cell.chip.components,
        "device": cell.chip.device,
        "vendor": cell.chip.vendor,
        "wheels": job.lock.wheels.get(wheels.name(cell)),
        "weights": job.lock.models.get(cell.model_name),
        "title": cell.model.title,
        "license": cell.model.license,
        "upstream": cell.model.upstream,
        "serve": cell.model.serve,
        "stack": cell.stack,
    }


def run(job: Job, context: Context) -> results.Image:
    """Raises RegistryDenied before anything is built where we may not push; else what its parts raise."""
    job.lock.require("wheels", wheels.name(job.cell))
    job.lock.require("models", job.cell.model_name)
    context.progress.doing("asking the registry")
    with context.meter.waiting():
        context.ports.registry.check_push(repository(job))
    base, found = base_image(job, context)
    context.progress.doing("gathering Python packages")
    with context.meter.waiting():
        house = wheels.gather(job.lock.wheels[wheels.name(job.cell)], context.workspace.wheels, context.ports.command)
    plan = buildcontext.draw(job, house, base, found.id)
    image_id = _build(job, context, plan, base)
    inside = _look_inside(job, context, plan, image_id)
    tag = f"build-{image_id.removeprefix('sha256:')[:12]}"
    built = context.ports.docker.image(image_id)
    if built is None:
        raise EnvironmentFault("the image is gone right after it was built", why=image_id, hint="run again")
    digest, pushed = _push(job, context, built, tag)
    return results.Image(
        repository=repository(job),
        digest=digest,
        image_id=image_id,
        base=base,
        base_id=found.id,
        size=built.size,
        pushed_bytes=pushed,
        labels=plan.labels,
        versions=_shown(inside),
        remarks=plan.remarks,
        evidence=(
            context.evidence.put("Dockerfile", plan.files["Dockerfile"][0]),
            context.evidence.put("serve.yaml", plan.files["config/serve.yaml"][0]),
            context.evidence.put("manifest.json", plan.manifest),
            context.evidence.put("packages.json", json.dumps(inside["packages"], indent=1, sort_keys=True).encode()),
        ),
    )


def intact(result: results.Image, look: Look) -> str:
    """An image that is gone from the registry has to be pushed again. Without a registry nothing is asked."""
    if look.registry is None:
        return ""
    return "" if look.registry.digest(result.repository, result.digest) else "the registry does not have it any more"


def _build(job: Job, context: Context, plan: buildcontext.Plan, base: str) -> str:
    context.progress.doing("packing the build context")
    with telling_space("building the image"), tempfile.TemporaryFile(dir=_scratch(job, context)) as packed:
        buildcontext.write(plan, packed)
        packed.seek(0)
        with context.meter.waiting():
            return context.ports.docker.build(
                packed,
                tag=f"{repository(job)}:building",
                args={"BASE": base},
                line=lambda text: context.progress.doing(text[:70]),
            )


def _scratch(job: Job, context: Context) -> str:
    return str(context.workspace.scratch(job.cell.slug, "image"))


def _look_inside(job: Job, context: Context, plan: buildcontext.Plan, image_id: str) -> dict[str, Any]:
    """What the image really has: `packages`, `python`, `system`. Raises UpstreamRefused where a package is lost."""
    context.progress.doing("looking inside")
    with context.meter.waiting():
        ours = labels(context.run_id, job.cell.id, context.workspace.root)
        printed = context.ports.runner.output(image_id, ["python3", "-c", _VERSIONS], ours)
    inside: dict[str, Any] = json.loads(printed.strip().splitlines()[-1])
    lost = [wheel.name for wheel in plan.house.installed if wheel.name not in inside["packages"]]
    if lost:
        raise UpstreamRefused("the image lacks packages of its manifest", why=", ".join(lost))
    return inside


def _shown(inside: Mapping[str, Any]) -> dict[str, str]:
    # The base comes first on purpose: its own build of a package wins over ours, and is then the truth.
    found = inside["packages"]
    shown = {name: found[name] for name in _SHOWN if name in found}
    return {"Base system": inside["system"], "Python": inside["python"], **shown}


def _push(job: Job, context: Context, image: LocalImage, tag: str) -> tuple[str, int]:
    """Push under a tag made from the image's own id, which therefore can never come to name another image."""
    docker, clock = context.ports.docker, context.ports.clock
    where = repository(job)
    docker.tag(image.id, where, tag)
    before = context.meter.moved
    context.progress.doing("pushing")
    deadline, pause = clock.monotonic() + _PUSH_SECONDS, _FIRST_PAUSE
    while True:
        try:
            with context.meter.waiting():
                pushed = docker.push(where, tag, counted(context, "pushing"))
                confirmed = context.ports.registry.digest(where, pushed.digest)
            break
        except FlagreleaseError as error:
            # Layers that arrived stay there, so a repetition sends the rest only.
            if not error.retriable or clock.monotonic() + pause > deadline:
                raise
            context.progress.note(f"{error.line()}; trying again in {pause:.0f} s")
            clock.sleep(pause)
            pause = min(2 * pause, 60.0)
    if confirmed != pushed.digest:
        raise UpstreamRefused(
            f"the registry does not have what was pushed to {where}",
            why=f"pushed {pushed.digest}, found {confirmed or 'nothing'}",
            hint="something between here and the registry changes manifests; do not publish from it",
        )
    context.meter.moved = before + _sent(job, context, image, pushed)
    return pushed.digest, context.meter.moved - before


def _sent(job: Job, context: Context, image: LocalImage, pushed: Pushed) -> int:
    """Bytes that went to the registry. The engine counts unpacked bytes; the manifest has the packed sizes."""
    manifest = json.loads(context.ports.registry.manifest(repository(job), pushed.digest).body)
    sizes = [int(layer["size"]) for layer in manifest["layers"]]
    return sum(
        size
        for layer, size in zip(image.layers, sizes, strict=True)
        if layer.removeprefix("sha256:")[:12] in pushed.layers
    )


STAGE = Stage(
    name="image",
    doing="building the image",
    result=results.Image,
    inputs=inputs,
    run=run,
    intact=intact,
    programs=("inside/flagos_serve.py", "inside/llama_server.py"),
    templates=("Dockerfile.j2", "serve.yaml.j2"),
)
