"""Publish a real release to a registry with TLS and a login: seconds, and the bytes that the registry received.

    python benchmarks/targets.py [--release FOLDER]

FOLDER is a release folder whose image is in the registry that its record names; by default, the newest one of this
checkout. The release is published three times: at first, again without a change, and after the image got another last
layer of 4 MB, as new operators give it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "pipeline"), str(ROOT / "tests")]

from flagrelease.config.targets import Target  # noqa: E402
from flagrelease.ports.clock import SystemClock  # noqa: E402
from flagrelease.ports.credentials import Logins  # noqa: E402
from flagrelease.ports.meter import Meter  # noqa: E402
from flagrelease.ports.progress import Silent  # noqa: E402
from flagrelease.ports.registry import OciRegistry, referrers  # noqa: E402
from flagrelease.stages.card import record  # noqa: E402
from flagrelease.stages.card.record import Record  # noqa: E402
from flagrelease.stages.publish import attach, deliver  # noqa: E402
from flagrelease.stages.publish.publisher import Shipment  # noqa: E402
from support.authority import certificates  # noqa: E402
from support.login_registry import login_registry  # noqa: E402

LAYER_BYTES = 4_000_000


def published(release: Record, files: dict[str, Path], target: Target, registry: OciRegistry) -> None:
    clock = SystemClock()
    shipment = Shipment(
        release=release, tag=release.tag, files=files, registry=registry, clock=clock, meter=Meter(clock)
    )
    for artifact in attach.artifacts(release, release.tag, files):
        referrers.attach(registry, release.image.repository, release.image.digest, artifact)
    _, failed = deliver.send(shipment, deliver.places({"bench": target}, private=False), Silent())
    for error in failed.values():
        raise error


def with_another_layer(release: Record, registry: OciRegistry) -> Record:
    """The release of an image whose last layer is another one."""
    repository = release.image.repository
    manifest = registry.manifest(repository, release.image.digest)
    document, layer = json.loads(manifest.body), os.urandom(LAYER_BYTES)
    last = document["layers"][-1]
    document["layers"][-1] = {**last, "digest": registry.push_blob(repository, layer), "size": len(layer)}
    body = json.dumps(document).encode()
    from flagrelease.store.digests import sha256_of

    digest = registry.put_manifest(repository, f"sha256:{sha256_of(body)}", body, manifest.media_type)
    return replace(release, image=replace(release.image, digest=digest))


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", type=Path, metavar="FOLDER")
    given = parser.parse_args().release
    newest = max(
        (ROOT / ".flagrelease/releases").glob("*/*/latest"), key=lambda link: link.stat().st_mtime, default=None
    )
    folder = given or newest
    if folder is None:
        parser.error("there is no release here: give --release FOLDER")
    folder = folder.resolve()
    release = record.loads((folder / "release.json").read_bytes())
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    host = release.image.repository.partition("/")[0]
    registry = OciRegistry(known=Logins(own=host))
    os.environ |= {"FLAGRELEASE_TARGET_BENCH_USER": "robot$bench", "FLAGRELEASE_TARGET_BENCH_PASSWORD": "password-1"}
    with tempfile.TemporaryDirectory() as temporary:
        tls = certificates(Path(temporary, "tls"))
        with login_registry(Path(temporary, "registry"), "robot$bench", "password-1", tls) as running:
            target = Target(kind="registry", to=f"{running}/public", ca=str(tls.authority))
            print(f"{release.image.reference}: {release.image.size / 1e6:.0f} MB unpacked, {len(files)} files")
            for name in ("first", "again", "another last layer"):
                before, start = size(Path(temporary, "registry/data")), time.monotonic()
                published(release, files, target, registry)
                seconds, grown = time.monotonic() - start, size(Path(temporary, "registry/data")) - before
                print(f"{name:20} {seconds:6.1f} s  the registry's storage grew by {grown:12,} B")
                if name == "again":
                    release = with_another_layer(release, registry)


if __name__ == "__main__":
    main()
