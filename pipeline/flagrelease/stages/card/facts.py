"""Facts that a user needs before the first command: the model, the hardware, the limits of use, and the image as
strangers get it, a copy in a registry among the targets. Pure."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from pathlib import PurePosixPath

from flagrelease.config import names
from flagrelease.config.engines import Ranks
from flagrelease.config.lockfile import LockedFile
from flagrelease.config.targets import Target
from flagrelease.contract.units import size_text
from flagrelease.recipe.container import PORT
from flagrelease.stages.card.markdown import Markdown, code, escape, table
from flagrelease.stages.card.record import Record

_CODE = re.compile(r"(?<!`)`([\w./-]+)`(?!`)")
_LOOPBACK = re.compile(r"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?/")
_SDK = re.compile(r"(?:cuda|cann|dtk|ixml|xrt|maca|musa|raisa|hggc|rocm)[\d.]*\d")
_AFTERWARDS = ("tag", "record", "arch")
"""Fields of names that are not known before the card is written, since the card is part of the release."""


def model_table(record: Record) -> Markdown:
    """The model as it is served."""
    serve, sampling = record.model.serve, record.model.sampling
    formats = sorted({PurePosixPath(file.path).suffix.lstrip(".") or "none" for file in _weight_files(record)})
    rows: list[tuple[object, object]] = [
        ("Context window", f"{serve.max_model_len:,} tokens, prompt and answer together"),
        ("Requests at once", f"{serve.concurrency}"),
        ("Weights", f"{', '.join(formats)}, {size_text(sum(file.size for file in _weight_files(record)))}"),
        ("Engine", serve.engine),
        ("Default length of an answer on this page", f"at most {sampling.max_tokens:,} tokens"),
    ]
    if record.model.languages:
        rows.append(("Languages", ", ".join(record.model.languages)))
    return table(("Property", "Value"), rows)


def hardware(record: Record) -> str:
    """Disk and memory that the service needs, as far as the record knows them."""
    weights, fetched = (sum(file.size for file in files) for files in (record.weights.files, record.weights.fetched))
    disk = f"{size_text(fetched)} for the weights"
    if record.weights.unpacked is not None:
        disk += f", {size_text(weights)} for the unpacked ones"
    if record.image.size and record.image.runner == "docker":
        disk += f", {size_text(record.image.size)} for the image"
    serve, name = record.model.serve, record.chip.device.name
    several = serve.devices > 1
    devices = f"{serve.devices} × {name} ({parallel(serve.ranks)})" if several else f"One {name}"
    return (
        f"{devices}. Disk: {disk}. Memory of the device{'s together' if several else ''}: the {size_text(weights)} of "
        f"the weights, and the cache of {serve.concurrency} requests of up to {serve.max_model_len:,} tokens each"
    )


def parallel(ranks: Ranks) -> str:
    """How several devices share the model; the terms are those of the engines."""
    sizes = (("tensor parallel", ranks.tensor), ("pipeline parallel", ranks.pipeline))
    return ", ".join(f"{name} {size}" for name, size in sizes if size > 1)


def limits(record: Record) -> list[Markdown]:
    """Limits of use, in complete sentences."""
    benchmarks = ", ".join(sorted({code(row.metric) for row in record.accuracy.benchmarks}))
    port = record.model.serve.port
    evaluated = f"The evaluation covers {benchmarks} with the sampling given there"
    listens = f"The service asks for no key and listens on all addresses of the host at port {port}"
    if record.chip.container.network == "host":
        local = f"Start it with {code('--env=FLAGOS_HOST=127.0.0.1')} to answer this host only"
    else:
        local = f"Publish it at {code(f'127.0.0.1:{port}:{PORT}')} to answer this host only"
    return [
        Markdown(f"{evaluated}; other tasks, languages and samplings were not measured."),
        escape("Truthfulness, safety and bias were not evaluated; the model's page says what the model is meant for."),
        Markdown(f"{listens}. {local}, and put a proxy with authentication in front of it."),
    ]


def container_name(record: Record) -> str:
    """The name that the card's `docker run` gives the container."""
    given = [word.partition("=")[2] for word in record.smoke.docker_run if word.startswith("--name=")]
    return given[0] if given else "CONTAINER"


def local_registry(record: Record) -> bool:
    """Whether the image that the card names is in a registry that only the releasing machine reaches."""
    return _LOOPBACK.match(record.public_image or record.image.repository) is not None


def name_fields(release: Record) -> dict[str, str]:
    """The fields of names that a release has, without those that follow from its record as a whole."""
    versions = {name.lower(): version for name, version in release.image.versions.items()}
    sdk = _SDK.search(release.chip.base)
    return {
        **names.of_cell(release.chip_name, release.chip, release.model_name, release.model.title),
        "python": versions.get("python", "none"),
        "torch": versions.get("torch", "none").replace("+", "_"),
        "sdk": sdk.group() if sdk else "none",
        "driver": release.smoke.environment.get("Driver", "none"),
    }


def public_image(release: Record, targets: Mapping[str, Target]) -> str:
    """REPOSITORY@DIGEST of the copy in the first target that is a registry; empty if none gets one, or if its name
    follows from the record."""
    failed = any(not check.passed for check in release.smoke.checks)
    if release.image.runner == "process" or release.verdict != "PASS" or failed:
        return ""
    for target in targets.values():
        if target.kind == "registry" and not {*_fields_of(target.template)} & {*_AFTERWARDS}:
            name = names.repository(names.render(target.template, name_fields(release)))
            return f"{target.place(private=False)}/{name}@{release.image.digest}"
    return ""


def as_published(card: str, release: Record) -> str:
    """The card with the image as strangers get it."""
    return card.replace(release.image.reference, release.public_image) if release.public_image else card


def as_evaluated(card: str, release: Record) -> str:
    """The card with the image as its commands were run."""
    return card.replace(release.public_image, release.image.reference) if release.public_image else card


def _fields_of(template: str) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(template) if name]


def unverified(record: Record) -> Markdown:
    """The files of the weights for which the hub lists no checksum; empty if there are none."""
    paths = record.pins.model.unverified if record.pins.model else ()
    return Markdown(", ".join(code(path) for path in paths))


def prose(text: str) -> Markdown:
    """A sentence in which `words` in backticks are code; everything else is plain text."""
    parts = _CODE.split(text)
    return Markdown("".join(code(part) if at % 2 else _escaped(part) for at, part in enumerate(parts)))


def _escaped(part: str) -> str:
    """`escape` with the blanks at the ends, which separate the part from its neighbours."""
    inner = escape(part)
    left, right = " " * part.startswith(" "), " " * (part.endswith(" ") and bool(inner))
    return f"{left}{inner}{right}"


def _weight_files(record: Record) -> list[LockedFile]:
    """The files with weights, without configuration and tokenizer."""
    large = [file for file in record.weights.files if file.path.endswith((".gguf", ".safetensors", ".bin"))]
    return large or list(record.weights.files)
