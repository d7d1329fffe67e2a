"""Assemble the image's build context: the rendered Dockerfile and the files that it copies, as a deterministic tar."""

from __future__ import annotations

import io
import shlex
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO, Any

import msgspec

from flagrelease.config.cell import Cell
from flagrelease.config.engines import ENGINES
from flagrelease.config.vendors import VENDORS
from flagrelease.contract.job import Job
from flagrelease.packaging import wheelhouse
from flagrelease.packaging.operator_bundle import Shipped
from flagrelease.recipe import container, engine_config, user_commands
from flagrelease.recipe import device_check as check
from flagrelease.recipe.image_paths import DOCKER, Layout
from flagrelease.serving import chip_proof
from flagrelease.store.digests import sha256_of


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The contents of an image, as known before it is built."""

    files: Mapping[str, tuple[bytes, int]]
    """Contents and mode, by path in the context."""
    labels: Mapping[str, str]
    remarks: tuple[str, ...]
    """Differences from the upstream software, in complete sentences."""
    wheels: wheelhouse.Wheelhouse

    @property
    def manifest(self) -> bytes:
        return self.files["config/manifest.json"][0]


def draw(
    job: Job,
    wheels: wheelhouse.Wheelhouse,
    base: str,
    base_id: str,
    layout: Layout = DOCKER,
    operators: Shipped | None = None,
) -> Plan:
    """Render the templates and collect the files; `layout` has the paths to write into them."""
    cell = job.cell
    labels, remarks = _labels(job, base, operators), _remarks(cell, wheels)
    files = {
        "Dockerfile": (_render(job, "Dockerfile.j2", **_dockerfile_view(cell, labels, operators)), 0o644),
        "config/serve.yaml": (_render(job, "serve.yaml.j2", **_serve_view(cell, layout, operators)), 0o644),
        "config/manifest.json": (_manifest(job, wheels, base, base_id, remarks, layout, operators), 0o644),
        **({} if operators is None else operators.files()),
        **{f"programs{path}": (program, 0o755) for path, program in programs(cell).items()},
    }
    return Plan(files=files, labels=labels, remarks=remarks, wheels=wheels)


def programs(cell: Cell) -> dict[str, bytes]:
    """flagrelease's own programs, by path in the image."""
    contents = {
        f"{DOCKER.programs}/flagos-serve": _inside("flagos_serve.py"),
        f"{DOCKER.programs}/device_check.py": Path(check.__file__).read_bytes(),
    }
    engine = ENGINES[cell.model.serve.engine]
    if engine.launcher:
        contents[engine.argv(DOCKER.packages)[0]] = _inside(engine.launcher)
    if cell.model.serve.convert:
        contents[f"{DOCKER.programs}/{user_commands.UNPACKER}"] = _inside("gguf_to_safetensors.py")
    return contents


def write(plan: Plan, target: IO[bytes]) -> None:
    """Write the context as a tar, sorted and without owners and dates, so that equal contents give equal bytes."""
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(plan.files):
            data, mode = plan.files[name]
            tar.addfile(_entry(name, len(data), mode), io.BytesIO(data))
        for wheel in plan.wheels.wheels:
            folder = "tools" if wheel.name == "pip" else "wheels"
            path = plan.wheels.folder / wheel.file
            with path.open("rb") as stream:
                tar.addfile(_entry(f"{folder}/{wheel.file}", path.stat().st_size, 0o644), stream)


def _entry(name: str, size: int, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = size, mode, int(wheelhouse.EPOCH)
    return entry


def _render(job: Job, template: str, /, **view: Any) -> bytes:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(job.templates),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - values become JSON strings, not HTML
        keep_trailing_newline=True,
    )
    # Plain JSON: the built-in filter also escapes < > & ' for HTML, and YAML and Docker do not undo that.
    environment.filters["tojson"] = lambda value: msgspec.json.encode(value).decode()
    return environment.get_template(template).render(view).encode()


def _dockerfile_view(cell: Cell, labels: Mapping[str, str], operators: Shipped | None) -> dict[str, Any]:
    test = f"import sys; v = '%d.%d' % sys.version_info[:2]; v == '{cell.chip.python}' or sys.exit("
    message = f"'the base image has Python ' + v + ', matrix.yaml says {cell.chip.python}')"
    return {
        "title": cell.model.title,
        "chip_name": cell.chip_name,
        "epoch": wheelhouse.EPOCH,
        "port": container.PORT,
        "python_check": f'python3 -c "{test}{message}"',
        "labels": labels,
        "operators": operators is not None,
    }


def _serve_view(cell: Cell, layout: Layout, operators: Shipped | None) -> dict[str, Any]:
    return {
        "title": cell.model.title,
        "chip_name": cell.chip_name,
        "on_host": VENDORS[cell.chip.vendor].on_host,
        "flagscale": cell.chip.components.flagscale,
        "name": cell.model.serve.name,
        "engine": cell.model.serve.engine,
        "config": layout.config,
        "home": layout.home,
        "env": engine_config.env(cell, "flagos", layout, operators is not None),
        "arguments": engine_config.common(cell, layout),
        "specific": engine_config.specific(cell),
    }


def _labels(job: Job, base: str, operators: Shipped | None) -> dict[str, str]:
    cell, parts = job.cell, job.cell.chip.components
    title = f"{cell.model.title} on {cell.chip.device.name}"
    return {
        "org.opencontainers.image.title": title,
        "org.opencontainers.image.description": f"{title}, served by FlagOS",
        "org.opencontainers.image.base.name": base,
        "io.flagos.chip": cell.chip_name,
        "io.flagos.vendor": cell.chip.vendor,
        "io.flagos.model": cell.model.title,
        "io.flagos.model.license": cell.model.license,
        "io.flagos.weights.digest": job.lock.models[cell.model_name].digest,
        "io.flagos.engine": cell.model.serve.engine,
        "io.flagos.stack": cell.stack,
        "io.flagos.flagscale": parts.flagscale,
        "io.flagos.flaggems": parts.flaggems,
        "io.flagos.flagtree": parts.flagtree,
        "io.flagos.flagcx": parts.flagcx,
        **({} if operators is None else {"io.flagos.kernels": operators.result.content}),
    }


def _remarks(cell: Cell, wheels: wheelhouse.Wheelhouse) -> tuple[str, ...]:
    """Differences from the upstream software, in complete sentences."""
    remarks = [
        "FlagScale is installed without most of the packages that its metadata requires; serving needs none of them."
    ]
    if remark := ENGINES[cell.model.serve.engine].remark:
        remarks.append(remark)
    built = [wheel for wheel in wheels.installed if wheel.built_from]
    if built:
        names = ", ".join(f"{wheel.name} {wheel.version}" for wheel in built)
        remarks.append(f"Built from source for this release, since no wheel is published: {names}.")
    return tuple(remarks)


def _manifest(
    job: Job,
    wheels: wheelhouse.Wheelhouse,
    base: str,
    base_id: str,
    remarks: tuple[str, ...],
    layout: Layout,
    operators: Shipped | None,
) -> bytes:
    cell, weights = job.cell, job.lock.models[job.cell.model_name]
    own = {path: sha256_of(data) for path, data in programs(cell).items()}
    document = {
        "version": 1,
        "cell": cell.id,
        "model": {"title": cell.model.title, "license": cell.model.license, "upstream": cell.model.upstream},
        "weights": {"source": weights.source, "revision": weights.revision, "digest": weights.digest},
        "base": {"name": base, "id": base_id},
        "components": msgspec.to_builtins(cell.chip.components),
        "packages": [msgspec.to_builtins(wheel) for wheel in wheels.installed],
        "programs": own,
        "remarks": list(remarks),
        "device": _device(cell),
        "serve": engine_config.for_entrypoint(cell, layout, operators is not None),
    }
    if operators is not None:
        document["kernels"] = {
            "content": operators.result.content,
            "policy": operators.result.policy,
            "operators": [operator.name for operator in operators.result.operators],
        }
    return msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=1) + b"\n"


def _device(cell: Cell) -> dict[str, Any]:
    """What `doctor` compares, in the form that `check.from_json` reads."""
    vendor = VENDORS[cell.chip.vendor]
    return {
        "on_host": vendor.on_host,
        "query": shlex.split(cell.chip.device.query),
        "patterns": msgspec.to_builtins(chip_proof.patterns(vendor)),
        "wanted": msgspec.to_builtins(chip_proof.wanted(cell)),
    }


def _inside(name: str) -> bytes:
    return Path(str(resources.files("flagrelease.packaging.payload") / name)).read_bytes()
