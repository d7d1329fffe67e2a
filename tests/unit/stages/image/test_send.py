"""What is sent to a registry, and what happens when it refuses or fails: the real client against one on loopback."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import support.served_cell as given
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.errors import FlagreleaseError, RegistryDenied, RegistryUnavailable, UpstreamRefused
from flagrelease.packaging import operator_bundle
from flagrelease.packaging.wheelhouse import Wheelhouse
from flagrelease.ports import python_probe
from flagrelease.ports.registry import MANIFEST_TYPE, OciRegistry
from flagrelease.stages.image import assemble, build_context, old_images
from flagrelease.stages.image.base import Base
from flagrelease.stages.image.base_python import Facts
from flagrelease.stages.image.documents import Documents, Part, documents
from flagrelease.stages.image.layer import File, Layer, write
from flagrelease.store.digests import sha256_of
from support import finished_cell
from support.contexts import Shown, SleeplessClock
from support.registry_stand_in import Store, standing_in

CLOCK = SleeplessClock()
REGISTRY = OciRegistry(clock=CLOCK)
"""One for all: making a client takes longer than a test."""
JOB = given.job(given.cell())
ZSTD = b"a zstd-compressed layer of the base " * 1000
FOREIGN = "sha256:" + "f" * 64


def received(store: Store) -> int:
    """The bytes of all bodies that the registry got."""
    return sum(int(headers.get("Content-Length", 0)) for headers in store.headers)


@dataclass
class Sending:
    """An image of a small base and three layers of its own, and the registries that it comes from and goes to."""

    root: Path
    base: Store = field(default_factory=Store)
    target: Store = field(default_factory=Store)
    kernels: bytes = b"kernels"
    labels: dict[str, str] = field(default_factory=dict)
    shown: Shown = field(default_factory=Shown)
    hosts: tuple[str, str] = ("", "")

    @contextmanager
    def running(self) -> Iterator[Sending]:
        with standing_in(self.base) as base, standing_in(self.target) as target:
            self.hosts = (base, target)
            yield self

    @property
    def context(self) -> Context:
        made = given.context(self.root, registry=REGISTRY)
        return replace(made, progress=self.shown, ports=replace(made.ports, clock=CLOCK))

    @property
    def parts(self) -> list[Part]:
        contents = {"packages": b"p" * 5000, "programs": b"q", "kernels": self.kernels}
        return [
            Part(name=name, layer=write({name: File(content=content)}, self.root / name))
            for name, content in contents.items()
        ]

    def send(self) -> tuple[Documents, int]:
        digest = f"sha256:{sha256_of(ZSTD)}"
        self.base.blobs[digest] = self.base.blobs.get(digest, ZSTD)
        layers: list[dict[str, Any]] = [
            {"mediaType": "application/vnd.oci.image.layer.v1.tar+zstd", "digest": digest, "size": len(ZSTD)},
            {"mediaType": "foreign", "digest": FOREIGN, "size": 9, "urls": ["https://vendor.example/layer"]},
        ]
        config = {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": ["sha256:1", "sha256:2"]}}
        base = Base(
            reference="base", id="sha256:b", repository=f"{self.hosts[0]}/base", manifest={"layers": layers},
            media_type=MANIFEST_TYPE, config=config,
        )  # fmt: skip
        parts = self.parts
        made = documents(base, parts, self.labels)
        return made, assemble.send(replace(JOB, registry=f"{self.hosts[1]}/x"), self.context, base, parts, made)


@pytest.fixture
def sending(tmp_path: Path) -> Iterator[Sending]:
    CLOCK.slept.clear()
    with Sending(tmp_path).running() as made:
        yield made


def test_all_of_an_image_is_sent_once_and_its_base_s_layers_as_they_are(sending: Sending) -> None:
    made, sent = sending.send()
    stored = sending.target
    assert stored.manifests[made.digest] == made.manifest
    assert stored.blobs[f"sha256:{sha256_of(ZSTD)}"] == ZSTD
    assert FOREIGN not in stored.blobs, "who makes it does not let others distribute it"
    assert FOREIGN in made.manifest.decode()
    assert sent == received(stored) == sum(map(len, stored.blobs.values())) + len(made.manifest)
    assert sending.send() == (made, 0)
    assert received(stored) == sent


def test_if_only_the_kernels_changed_their_layer_and_the_documents_are_sent(sending: Sending) -> None:
    sending.send()
    before = received(sending.target)
    sending.kernels, sending.labels = b"faster kernels", {"io.flagos.kernels": "2"}
    made, sent = sending.send()
    new = sending.parts[-1].layer.size + len(made.config) + len(made.manifest)
    assert received(sending.target) - before == sent == new


@pytest.mark.parametrize("status", [0, 500, 503])
@pytest.mark.parametrize("method", ["PATCH", "PUT", "POST", "HEAD"])
def test_a_registry_that_fails_once_gets_what_it_lacks_again(sending: Sending, method: str, status: int) -> None:
    left = [status]
    sending.target.trouble = lambda asked, _path: (left.pop(), {}) if left and asked == method else None
    made, _sent = sending.send()
    assert left == []
    assert sending.target.manifests[made.digest] == made.manifest
    assert len(CLOCK.slept) == 1


@pytest.mark.parametrize(
    ("status", "error", "hint"),
    [
        (401, RegistryDenied, "FLAGRELEASE_REGISTRY_USER"),
        (403, RegistryDenied, "FLAGRELEASE_REGISTRY_USER"),
        (413, UpstreamRefused, "raise its limit"),
    ],
)
def test_a_registry_that_refuses_a_blob_midway_is_not_asked_again(
    sending: Sending, status: int, error: type[FlagreleaseError], hint: str
) -> None:
    sending.target.trouble = lambda method, _path: (status, {}) if method == "PATCH" else None
    with pytest.raises(error) as caught:
        sending.send()
    assert f"HTTP {status}" in caught.value.why
    assert hint in caught.value.hint
    assert len([call for call in sending.target.calls if call.startswith("PATCH")]) == 1
    assert sending.target.manifests == {}, "an image without its layers is not named"


def test_a_registry_that_goes_on_failing_is_named(sending: Sending) -> None:
    sending.target.trouble = lambda method, _path: (429, {"Retry-After": "3600"}) if method == "PATCH" else None
    with pytest.raises(RegistryUnavailable) as caught:
        sending.send()
    assert "asked to wait 3600 s" in caught.value.why
    assert CLOCK.slept == []


@pytest.mark.parametrize("size", [len(ZSTD), (16 << 20) + 5])
def test_a_layer_of_the_base_that_is_not_what_its_digest_says_is_not_passed_on(sending: Sending, size: int) -> None:
    sending.base.blobs[f"sha256:{sha256_of(ZSTD)}"] = bytes(size)
    with pytest.raises(UpstreamRefused, match="sent a blob other than"):
        sending.send()
    assert (sending.target.blobs, sending.target.manifests) == ({}, {})


def test_a_proxy_that_stores_another_image_is_found_out(sending: Sending) -> None:
    sending.target.lie = "sha256:" + "e" * 64
    with pytest.raises(UpstreamRefused, match="other than the one sent"):
        sending.send()


def test_a_layer_is_kept_while_images_are_made_with_it(tmp_path: Path) -> None:
    day = 24 * 3600
    for name, age in (("used", 29 * day), ("old", 31 * day)):
        for path in (tmp_path / f"{name}.tar.gz", tmp_path / f"{name}.tar.json"):
            path.write_bytes(b"")
            os.utime(path, (0, time.time() - age))
    (tmp_path / "base-1.json").write_bytes(b"")
    old_images.remove_layers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"used.tar.gz", "used.tar.json", "base-1.json"}


PYTHON = python_probe.Seen(python="3.11.2", executable="/usr/bin/python3", sites=(), system="s", packages={})
FACTS = Facts(
    command="/usr/bin/python3",
    executable="/usr/bin/python3",
    site="/usr/lib/x",
    folders={"/etc": (0o750, 3, 4)},
    moved=(),
    path=(("", {}), ("/usr/lib/x", {"torch": "2", "numpy": "1"}), ("/opt/flagos/lib", {}), ("/more", {"pip": "9"})),
    seen=PYTHON,
)


def test_of_a_package_that_is_there_twice_the_one_that_is_imported_counts() -> None:
    ours = {"numpy": "2", "pip": "26", "pandas": "3"}
    assert FACTS.packages(ours) == {"torch": "2", "numpy": "1", "pip": "26", "pandas": "3"}


def layers(root: Path, job: Job, bundle: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Layer]:
    """The layers of an image with that bundle, without those of packages."""
    folder = root / f"bundle-{bundle}"
    folder.mkdir()
    (folder / "operators.yaml").write_text(bundle)
    shipped = operator_bundle.Shipped(finished_cell.kernels(content=sha256_of(bundle.encode())), folder)
    plan = build_context.draw(job, Wheelhouse(folder=root, wheels=()), "base", "id", operators=shipped)
    some = Layer(path=root, digest="d", size=0, diff_id="i", unpacked=0)
    monkeypatch.setattr(assemble, "_packages", lambda *_: some)  # which needs the base's Python
    base: Any = None
    (root / bundle).mkdir()
    parts = assemble.parts(job, given.context(root / bundle), plan, base, FACTS)
    return {part.name: part.layer for part in parts}


def test_kernels_change_their_own_layer_only_which_is_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (layers(tmp_path, finished_cell.job(), bundle, monkeypatch) for bundle in ("mm", "mm neg"))
    assert list(one) == ["packages", "programs and configuration", "kernels and manifest"]
    assert [name for name in one if one[name].digest != two[name].digest] == ["kernels and manifest"]
    content = gzip.decompress(two["kernels and manifest"].path.read_bytes())
    assert b"etc/flagos/kernels/operators.yaml" in content
    assert json.dumps(sha256_of(b"mm neg")).encode() in content, "the manifest names the bundle"
    assert b"opt/flagos/lib/flagkernels/engine/plugin.py" in content
    assert b"etc/flagos/serve.yaml" not in content
