"""Convert a GGUF file to safetensors in the chip's base image, for engines that do not serve GGUF.

The result is stored next to the fetched folder, under a name derived from everything that it depends on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from flagrelease.config.cell import fingerprint
from flagrelease.config.lockfile import set_digest
from flagrelease.contract import code_version, results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.errors import EnvironmentFault
from flagrelease.packaging import one_shot
from flagrelease.packaging.base_image import base_image, locked_base
from flagrelease.stages.weights.folder import Manifest, hashed, read, seal, trouble
from flagrelease.store.files import translate_disk_errors
from flagrelease.store.workspace import manifest_of

PROGRAM = "packaging/payload/gguf_to_safetensors.py"

_SECONDS = 3600.0
_DIGEST_LETTERS = 12


def unpacked(job: Job, context: Context, fetched: results.Weights) -> results.Weights:
    """Convert the fetched weights, unless done before. Raises CommandFailed, and the errors of `base_image`."""
    program = hashlib.sha256((code_version.PACKAGE / PROGRAM).read_bytes()).hexdigest()
    depends = {"weights": fetched.digest, "program": program, "base": locked_base(job), "runner": job.runner}
    folder = f"{fetched.folder}-{job.cell.model.serve.convert}-{fingerprint(depends)[:_DIGEST_LETTERS]}"
    into = context.workspace.weights / folder
    manifest = read(into)
    if manifest is None or trouble(into, manifest.digest, manifest.locked):
        manifest_of(into).unlink(missing_ok=True)
        with translate_disk_errors("unpacking weights"):
            manifest = _make(job, context, context.workspace.weights / fetched.folder, into)
    return results.Weights(
        folder=folder,
        source=fetched.source,
        revision=fetched.revision,
        digest=manifest.digest,
        files=manifest.locked,
        bytes_moved=fetched.bytes_moved,
        evidence=fetched.evidence,
        unpacked=results.Unpacked(
            folder=fetched.folder,
            digest=fetched.digest,
            files=fetched.files,
            program=program,
            versions=manifest.versions,
        ),
    )


def _make(job: Job, context: Context, source: Path, into: Path) -> Manifest:
    reference, _ = base_image(job, context)
    source, into = source.resolve(), into.resolve()
    program = code_version.PACKAGE / PROGRAM
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    # Mount everything at its own path: processes without a container see the same paths.
    run = one_shot.of(
        job,
        context,
        name="unpack",
        image=reference,
        argv=["python3", str(program), str(source), str(into)],
        mounts=[f"{program}:{program}:ro", f"{source}:{source}:ro", f"{into}:{into}:rw"],
    )
    context.progress.doing("unpacking weights")
    printed = one_shot.finish(
        context, run, seconds=_SECONDS, line=lambda text: context.progress.doing(f"unpacking weights: {text[:50]}")
    )
    files = hashed(into, context.progress)
    seal(into, set_digest(files), files, _versions(printed))
    manifest = read(into)
    if manifest is None:
        raise EnvironmentFault("the unpacked weights disappeared right after they were written", why=str(into))
    return manifest


def _versions(printed: str) -> Mapping[str, str]:
    try:
        versions = json.loads(printed.strip().rpartition("\n")[2])["versions"]
    except (ValueError, KeyError, TypeError):
        raise EnvironmentFault(
            f"{PROGRAM} did not report its result", why="its last line is not a report", detail=printed
        ) from None
    return {str(name): str(version) for name, version in versions.items()}
