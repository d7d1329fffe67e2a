"""SLSA provenance v1: the matrix entries that the image was built from, and what it consists of. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from flagrelease import __version__
from flagrelease.contract.results import IMAGE
from flagrelease.stages.publish.attestations.facts import Facts
from flagrelease.stages.publish.attestations.statement import PRODUCER, Statement, about, evidence, sha256

__all__ = ["TYPE", "provenance"]

TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = f"{PRODUCER}#image/v1"
"""An image that adds locked Python packages, operators and a configuration to a base: docs/operating.md."""


def provenance(facts: Facts) -> Statement:
    """The statement of how the image was built."""
    release = facts.release
    cost = next((stage for stage in release.stages if stage.stage == IMAGE.stage), None)
    predicate = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": _parameters(facts),
            "internalParameters": {"labels": dict(release.image.labels)},
            "resolvedDependencies": [*_base(facts), *_packages(facts), *_operators(facts), *_weights(facts)],
        },
        "runDetails": {
            "builder": {"id": f"{PRODUCER}#builder", "version": {"flagrelease": __version__}},
            "metadata": {"invocationId": cost.key if cost else release.image.image_id},
            "byproducts": evidence(IMAGE.stage, release.image.evidence),
        },
    }
    return about(facts, "provenance", TYPE, predicate)


def _parameters(facts: Facts) -> dict[str, Any]:
    """What the matrix says about the image: other entries of the cell decide how it is judged, not what is in it."""
    release = facts.release
    chip = msgspec.to_builtins(release.chip, enc_hook=dict)
    model = msgspec.to_builtins(release.model, enc_hook=dict)
    return {
        "cell": release.cell,
        "stack": release.stack,
        "chip": {name: chip[name] for name in ("vendor", "base", "python", "components")},
        "model": {name: model[name] for name in ("title", "source", "upstream", "license", "serve")},
    }


def _base(facts: Facts) -> list[dict[str, Any]]:
    """The base image, by the digest of its manifest if matrix.lock has it, else by its id."""
    image, pinned = facts.release.image, facts.release.pins.chip
    made: dict[str, Any] = {"name": image.base, "annotations": {"id": image.base_id}}
    digest = pinned.digest if pinned and pinned.digest else image.base_id
    return [{**made, "digest": sha256(digest)}]


def _packages(facts: Facts) -> list[dict[str, Any]]:
    """The Python packages that are added to the base, by the digest that matrix.lock has: that of the wheel, or of the
    source archive that it was built from."""
    found = []
    for package in sorted(facts.installed, key=lambda package: package["name"]):
        uri = f"pkg:pypi/{package['name']}@{package['version']}"
        digest = package.get("built_from") or package["sha256"]
        made: dict[str, Any] = {"uri": uri, "digest": sha256(digest)}
        if package.get("built_from"):
            made["annotations"] = {"built_wheel_sha256": package["sha256"]}
        found.append(made)
    return found


def _operators(facts: Facts) -> list[dict[str, Any]]:
    kernels = facts.release.kernels
    return [] if kernels is None else [{"name": "operators", "digest": sha256(kernels.content)}]


def _weights(facts: Facts) -> list[dict[str, Any]]:
    """The files of the model, which are not in the image: it is configured for them, and its labels name them."""
    weights, pinned = facts.release.weights, facts.release.pins.model
    files = pinned.files if pinned else weights.fetched
    where = {"source": weights.source, "revision": weights.revision}
    found = [{"name": file.path, "digest": sha256(file.sha256), "annotations": where} for file in files]
    return sorted(found, key=lambda entry: str(entry["name"]))
