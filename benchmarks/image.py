"""Make a cell's image by Docker and by assembling it: seconds, and the bytes that the registry received and returned.

    python benchmarks/image.py [--registry HOST:PORT] [--wheels FOLDER]

The registry has the base image, and this machine has the wheels and the base image. Each way makes the image at first,
again without a change, and with other kernels; the second and third time, each has what it kept. Both read the same
wheels and render the same files.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "pipeline"), str(ROOT / "tests")]

import support.served_cell as given  # noqa: E402
from flagrelease.config.lockfile import LockedChip  # noqa: E402
from flagrelease.contract.context import Context  # noqa: E402
from flagrelease.contract.job import Job  # noqa: E402
from flagrelease.packaging import operator_bundle, wheelhouse  # noqa: E402
from flagrelease.packaging.base_image import OWN_BASE, base_image  # noqa: E402
from flagrelease.ports.docker.engine import Engine  # noqa: E402
from flagrelease.ports.registry import OciRegistry  # noqa: E402
from flagrelease.stages.image import build_context, stage  # noqa: E402
from flagrelease.stages.image.push import push  # noqa: E402
from flagrelease.store.digests import sha256_of  # noqa: E402
from support import finished_cell  # noqa: E402
from support.contexts import after  # noqa: E402
from support.unreliable_proxy import Proxy  # noqa: E402

STEPS = ("at first", "again", "other kernels")
BUNDLES = ("a", "a", "b")
BUNDLE_BYTES = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A workspace, and the registry behind a proxy that counts."""

    job: Job
    context: Context
    proxy: Proxy

    def kernels(self, name: str) -> Context:
        """The context after a kernels stage that made this bundle."""
        folder = self.context.workspace.kernels / name
        if not folder.exists():
            folder.mkdir(parents=True)
            (folder / "cache.bin").write_bytes(os.urandom(BUNDLE_BYTES))
        return after(
            self.context, kernels=finished_cell.kernels(folder=f"kernels/{name}", content=sha256_of(name.encode()))
        )

    def measured(self, way: str, make: Callable[[Context], str]) -> None:
        for step, bundle in zip(STEPS, BUNDLES, strict=True):
            context, start = self.kernels(bundle), time.monotonic()
            received, returned = self.proxy.received, self.proxy.returned
            digest = make(context)
            moved = f"{self.proxy.received - received:>12,} B sent {self.proxy.returned - returned:>10,} B read"
            print(f"{way:10} {step:14} {time.monotonic() - start:7.1f} s {moved}  {digest[:19]}", flush=True)


def by_docker(bench: Bench, mark: str) -> Callable[[Context], str]:
    """Build and push, as flagrelease did before it assembled; `mark` keeps Docker from taking layers of before."""

    def make(context: Context) -> str:
        engine, job = Engine(), replace(bench.job, registry=f"{bench.job.registry}/docker")
        reference, base = base_image(job, context)
        house = wheelhouse.of(job, context)
        shipped = operator_bundle.of(context.optional(stage.results.KERNELS), context.workspace)
        plan = build_context.draw(job, house, reference, base.id, operators=shipped)
        text = plan.files["Dockerfile"][0].decode().replace("LABEL io.flagos.part=packages", f"LABEL bench={mark}")
        packed = io.BytesIO()
        build_context.write(replace(plan, files={**plan.files, "Dockerfile": (text.encode(), 0o644)}), packed)
        packed.seek(0)
        tag = f"{job.repository}:bench"
        built = engine.image(engine.build(packed, tag=tag, args={"BASE": reference}, line=lambda _line: None))
        assert built is not None
        digest, _ = push(context, job.repository, built, "1")
        return digest

    return make


def assembled(bench: Bench) -> Callable[[Context], str]:
    return lambda context: stage.run(replace(bench.job, registry=f"{bench.job.registry}/assembled"), context).digest


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--registry", default="localhost:5000")
    parser.add_argument("--wheels", type=Path, default=ROOT / ".flagrelease/wheels")
    arguments = parser.parse_args()
    mark, engine, cell = uuid.uuid4().hex[:8], Engine(), given.cell()
    host, _, port = arguments.registry.partition(":")
    proxy = Proxy((host.replace("localhost", "127.0.0.1"), int(port or 80)))
    with proxy.running(), tempfile.TemporaryDirectory() as root:
        (Path(root) / "wheels").symlink_to(arguments.wheels.resolve())
        context = given.context(Path(root), registry=OciRegistry())
        where, image = f"{proxy.url}/bench-{mark}/base", engine.image(OWN_BASE)
        assert image is not None, f"no {OWN_BASE}; `make base` makes it"
        digest, size = push(context, where, image, "1")
        base = f"{where}:1"
        job = given.job(replace(cell, chip=replace(cell.chip, base=base)), f"{proxy.url}/bench-{mark}")
        locked = {"cpu": LockedChip(base=base, digest=digest)}
        bench = Bench(job=replace(job, lock=replace(job.lock, chips=locked)), context=context, proxy=proxy)
        print(f"the base has {size:,} B, which Docker pulls to a machine that does not have it")
        bench.measured("docker", by_docker(bench, mark))
        bench.measured("assembled", assembled(bench))
        engine.untag(f"{where}@{digest}")


if __name__ == "__main__":
    main()
