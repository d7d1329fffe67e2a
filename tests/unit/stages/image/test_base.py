"""The base image is read from its registry: the real client against a registry on loopback."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import support.served_cell as given
from flagrelease.config.lockfile import LockedChip
from flagrelease.contract.job import Job
from flagrelease.errors import FlagreleaseError, RegistryDenied, RegistryUnavailable, UpstreamRefused
from flagrelease.ports.registry import INDEX_TYPE, MANIFEST_TYPE, OciRegistry
from flagrelease.ports.retry import Backoff
from flagrelease.stages.image import base as bases
from flagrelease.store.digests import sha256_of
from support.contexts import Shown
from support.registry_stand_in import Store, standing_in

CONFIG = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ["sha256:1"]}, "config": {}}
REGISTRY = OciRegistry(backoff=Backoff(budget=0))
"""One for all: making a client takes longer than a test."""
LAYERS = [{"mediaType": "l", "digest": "sha256:" + "1" * 64, "size": 1}]


def put(store: Store, document: Any, media_type: str = MANIFEST_TYPE) -> str:
    body = json.dumps(document).encode()
    digest = f"sha256:{sha256_of(body)}"
    store.manifests[digest], store.types[digest] = body, media_type
    return digest


def image(store: Store, config: Any = CONFIG, layers: Any = LAYERS) -> tuple[str, str]:
    """Manifest and id of an image in the registry."""
    body = json.dumps(config).encode()
    identity = f"sha256:{sha256_of(body)}"
    store.blobs[identity] = body
    config = {"mediaType": "c", "digest": identity, "size": len(body)}
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers}
    return put(store, manifest), identity


def index(store: Store, **digests: str) -> str:
    manifests = [
        {"mediaType": MANIFEST_TYPE, "digest": digest, "size": 1, "platform": {"os": "linux", "architecture": name}}
        for name, digest in digests.items()
    ]
    return put(store, {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}, INDEX_TYPE)


JOB = given.job(given.cell())


def job(base: str, digest: str) -> Job:
    cell = replace(JOB.cell, chip=replace(JOB.cell.chip, base=base))
    return replace(JOB, cell=cell, lock=replace(JOB.lock, chips={"cpu": LockedChip(base=base, digest=digest)}))


class NoDocker:
    """An engine that has nothing."""

    def image(self, _reference: str) -> None:
        return None


def found(root: Path, made: Callable[[Store], str], store: Store | None = None) -> bases.Base:
    store = store or Store()
    digest = made(store)
    context = given.context(root, registry=REGISTRY)
    context = replace(context, ports=replace(context.ports, docker=NoDocker()))  # type: ignore[arg-type]
    with standing_in(store) as host:
        return bases.find(job(f"{host}/base:1", digest), context)


def test_an_image_is_read_without_docker(tmp_path: Path) -> None:
    store = Store()
    identity = image(store)[1]
    base = found(tmp_path, lambda store: image(store)[0], store)
    assert (base.id, base.config, base.manifest["layers"], base.media_type) == (identity, CONFIG, LAYERS, MANIFEST_TYPE)
    assert base.repository.endswith("/base")
    assert base.reference.endswith(f"/base@{image(store)[0]}")
    assert base.sent == 0


def test_of_an_index_the_image_of_the_packages_processor_is_taken(tmp_path: Path) -> None:
    def made(store: Store) -> str:
        other = image(store, {**CONFIG, "architecture": "arm64"})[0]
        return index(store, unknown=other, arm64=other, amd64=image(store)[0])

    assert found(tmp_path, made).config["architecture"] == "amd64"


@pytest.mark.parametrize(
    ("made", "what", "why"),
    [
        (lambda store: image(store, {**CONFIG, "architecture": "arm64"})[0], "not for linux/amd64", "linux/arm64"),
        (lambda store: index(store, arm64=image(store)[0]), "not for linux/amd64", "it has linux/arm64"),
        (lambda store: index(store), "not for linux/amd64", "it has no image"),
        (lambda store: image(store, layers=[])[0], "two different numbers of layers", "0 in its manifest, 1 in"),
        (lambda store: image(store, {"os": "linux"})[0], "not that of an image", "KeyError"),
        (lambda store: image(store, ["a list"])[0], "not that of an image", "TypeError"),
        (lambda store: put(store, {"schemaVersion": 2, "mediaType": MANIFEST_TYPE}), "is not an image", "no config"),
    ],
)
def test_what_is_no_base_is_refused(tmp_path: Path, made: Callable[[Store], str], what: str, why: str) -> None:
    with pytest.raises(UpstreamRefused, match=what) as caught:
        found(tmp_path, made)
    assert why in caught.value.why


def test_a_configuration_that_is_not_the_one_of_the_digest_is_refused(tmp_path: Path) -> None:
    def made(store: Store) -> str:
        digest, identity = image(store)
        store.blobs[identity] = b"{}"
        return digest

    with pytest.raises(UpstreamRefused, match="sent a blob other than"):
        found(tmp_path, made)


@pytest.mark.parametrize(
    ("status", "error", "what"),
    [
        (503, RegistryUnavailable, "is failing"),
        (403, RegistryDenied, "access denied"),
        (404, UpstreamRefused, "does not have"),
    ],
)
def test_a_registry_without_it_is_named_if_the_image_is_not_here_either(
    tmp_path: Path, status: int, error: type[FlagreleaseError], what: str
) -> None:
    store = Store(trouble=lambda _method, _path: (status, {}))
    with pytest.raises(error, match=what):
        found(tmp_path, lambda store: image(store)[0], store)


@pytest.mark.parametrize("status", [503, 403, 404])
def test_without_its_registry_the_engine_s_image_is_taken_and_that_is_said(tmp_path: Path, status: int) -> None:
    class Stop(FlagreleaseError):
        pass

    class Engine(NoDocker):
        def image(self, reference: str) -> Any:
            asked.append(reference)
            if len(asked) > 1:
                raise Stop("it goes on with the engine's image")
            return object()

    asked: list[str] = []
    shown = Shown()
    context = given.context(tmp_path, registry=REGISTRY)
    context = replace(context, progress=shown, ports=replace(context.ports, docker=Engine()))  # type: ignore[arg-type]
    with standing_in(Store(trouble=lambda _method, _path: (status, {}))) as host, pytest.raises(Stop):
        bases.find(job(f"{host}/base:1", "sha256:" + "a" * 64), context)
    assert asked == [f"{host}/base@sha256:{'a' * 64}"] * 2
    assert "the base image on this machine is taken instead" in shown.notes[0]
