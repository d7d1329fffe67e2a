"""The bill of materials in CycloneDX 1.6: packages of the image, the model and the data of its benchmarks. Pure."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flagrelease import __version__
from flagrelease.stages.publish.attestations.facts import Facts
from flagrelease.stages.publish.attestations.statement import SHA256, Statement, about

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

__all__ = ["TYPE", "sbom"]

TYPE = "https://cyclonedx.org/bom"
_FROM = "flagrelease:from"
"""The property that says whether a Python package came with the base or with the release."""


def sbom(facts: Facts) -> Statement:
    """The statement with the bill of materials of the image."""
    from cyclonedx.model.bom import Bom
    from cyclonedx.output.json import JsonV1Dot6

    image = _image(facts)
    parts = [*_system(facts), *_python(facts), *_operators(facts), _model(facts), *_data(facts)]
    # The name-based identifier and the missing time give the same bytes each time.
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_OID, f"{facts.release.image.reference}:{facts.tag}"))
    bom.metadata.timestamp = None  # type: ignore[assignment]
    bom.metadata.component = image
    bom.metadata.tools.components.add(_tool())
    for part in parts:
        bom.components.add(part)
    bom.register_dependency(image, parts)
    predicate = json.loads(JsonV1Dot6(bom).output_as_string())
    return about(facts, "sbom", TYPE, predicate)


def _component(kind: str, name: str, ref: str, **more: Any) -> Component:
    """A component with sha256 `sha256`, properties `properties` and an SPDX or other licence `license`, if given."""
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    digest = more.pop("sha256", "")
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=digest.removeprefix("sha256:"))]
    license_, known = more.pop("license", ""), more.pop("properties", {})
    return Component(
        type=ComponentType(kind),
        name=name,
        bom_ref=ref,
        hashes=hashes if SHA256.fullmatch(digest) else [],
        licenses=[LicenseFactory().make_from_string(license_)] if license_ else [],
        properties=[Property(name=key, value=value) for key, value in sorted(known.items()) if value],
        **more,
    )


def _package(kind: str, name: str, version: str, **more: Any) -> Any:
    from packageurl import PackageURL

    return PackageURL(type=kind, name=name, version=version, **more)


def _image(facts: Facts) -> Component:
    image = facts.release.image
    name = image.repository.rpartition("/")[2]
    purl = _package("oci", name, image.digest, qualifiers={"repository_url": image.repository, "tag": facts.tag})
    listed = facts.system is not None and facts.system.get("packages")
    unknown = "" if listed else "packages of the operating system were not recorded"
    properties = {"flagrelease:cell": facts.release.cell, "flagrelease:incomplete": unknown}
    return _component(
        "container", name, "image", version=facts.tag, purl=purl, sha256=image.digest, properties=properties
    )


def _tool() -> Component:
    return _component("application", "flagrelease", "flagrelease", version=__version__)


def _system(facts: Facts) -> Iterator[Component]:
    """The base image, its distribution, and the distribution's packages."""
    image, pinned = facts.release.image, facts.release.pins.chip
    digest = pinned.digest if pinned else ""
    yield _component("container", image.base, "base", sha256=digest, properties={"flagrelease:id": image.base_id})
    system = facts.system
    if not system:
        return
    name, version = str(system.get("id") or "linux"), str(system.get("version", ""))
    yield _component("operating-system", name, "system", version=version)
    for package in system.get("packages", ()):
        qualifiers = {"arch": package["architecture"], "distro": f"{name}-{version}" if version else name}
        purl = _package("deb", package["name"], package["version"], namespace=name, qualifiers=qualifiers)
        yield _component("library", package["name"], str(purl), version=package["version"], purl=purl)


def _python(facts: Facts) -> Iterator[Component]:
    """The Python packages; those that the release adds have the sha256 of their wheel."""
    added = {(each["name"], each["version"]): each for each in facts.installed}
    for name, version in sorted(facts.packages.items()):
        wheel = added.get((name, version))
        purl = _package("pypi", name, version)
        properties = {
            _FROM: "release" if wheel else "base",
            "flagrelease:file": wheel["file"] if wheel else "",
            "flagrelease:built_from": wheel.get("built_from", "") if wheel else "",
        }
        digest = wheel["sha256"] if wheel else ""
        yield _component("library", name, str(purl), version=version, purl=purl, sha256=digest, properties=properties)


def _operators(facts: Facts) -> Iterator[Component]:
    kernels = facts.release.kernels
    if kernels is not None:
        names = " ".join(operator.name for operator in kernels.operators)
        yield _component(
            "library", "operators", "operators", sha256=kernels.content, properties={"flagrelease:operators": names}
        )


def _model(facts: Facts) -> Component:
    """The model, which is not in the image but served by it, with its files."""
    model, weights = facts.release.model, facts.release.weights
    files = [
        _component("file", file.path, f"weights/{file.path}", sha256=file.sha256)
        for file in sorted(weights.files, key=lambda file: file.path)
    ]
    return _component(
        "machine-learning-model",
        model.title,
        "model",
        version=weights.revision,
        license=model.license,
        components=files,
        properties={
            "flagrelease:digest": weights.digest,
            "flagrelease:source": weights.source,
            "flagrelease:upstream": model.upstream,
        },
    )


def _data(facts: Facts) -> Iterator[Component]:
    """The questions of the benchmarks, which are not in the image either."""
    for row in facts.release.accuracy.benchmarks:
        benchmark = facts.release.benchmarks.get(row.benchmark)
        yield _component(
            "data",
            row.benchmark,
            f"data/{row.benchmark}",
            sha256=row.data_sha256,
            license=benchmark.license if benchmark else "",
            properties={"flagrelease:source": benchmark.data if benchmark else ""},
        )
