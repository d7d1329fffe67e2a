"""Weights: verified model files, and what is made of them for engines that need another format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flagrelease.config.lockfile import LockedFile, LockedModel, set_digest
from flagrelease.contract import results
from flagrelease.contract.job import Job
from flagrelease.contract.stage import Stage
from flagrelease.errors import ConfigError
from flagrelease.packaging.base_image import pinned_base
from flagrelease.stages.weights.folder import manifest_of, seal, set_aside, trouble
from flagrelease.stages.weights.gguf import PROGRAM, unpacked
from flagrelease.store.files import write_atomic
from flagrelease.store.locks import wait_for

if TYPE_CHECKING:
    from flagrelease.contract.context import Context, Look

_DIGEST_LETTERS = 12
_GIVE_CONFIG = "give the config.json of a transformers model"


def locked(job: Job) -> LockedModel:
    """The model's entry in matrix.lock. Raises ConfigError where there is none, or it is not of this matrix."""
    name = job.cell.model_name
    job.lock.require("models", name)
    model = job.lock.models[name]
    if model.source != job.cell.model.source:
        why = f"matrix.yaml says {job.cell.model.source}, matrix.lock {model.source}"
        raise ConfigError(f"models.{name} is locked for another source", why=why, hint="run `flagrelease lock`")
    if set_digest(model.files) != model.digest:
        why = "the set digest is not that of the files"
        raise ConfigError(f"models.{name} in matrix.lock was edited", why=why, hint="run `flagrelease lock`")
    return model


def inputs(job: Job) -> Mapping[str, object]:
    model = locked(job)
    fetched = {"source": model.source, "revision": model.revision, "digest": model.digest}
    if convert := job.cell.model.serve.convert:
        return {**fetched, "convert": convert, **pinned_base(job), "runner": job.runner}
    return fetched


def run(job: Job, context: Context) -> results.Weights:
    with _held(job, context):
        found = _fetched(job, context)
        return unpacked(job, context, found) if job.cell.model.serve.convert else found


def fetched(job: Job, context: Context) -> results.Weights:
    """The files as the hub has them, verified; nothing is unpacked, which takes the chip's base image."""
    with _held(job, context):
        return _fetched(job, context)


def _folder(job: Job) -> str:
    digest = locked(job).digest.removeprefix("sha256:")[:_DIGEST_LETTERS]
    return f"{job.cell.model_name}/{digest}"


def _held(job: Job, context: Context) -> AbstractContextManager[None]:
    """Cells of several chips share the weights of a model."""
    hold = context.workspace.locks / f"weights-{_folder(job).replace('/', '-')}.lock"

    def waiting(holder: str) -> None:
        context.progress.doing(f"waiting for the same weights, {holder}")

    return wait_for(hold, context.run_id, waiting, context.ports.clock.sleep)


def _fetched(job: Job, context: Context) -> results.Weights:
    model, folder = locked(job), _folder(job)
    into = context.workspace.weights / folder
    moved = 0
    if trouble(into, model.digest, model.files):
        manifest_of(into).unlink(missing_ok=True)
        set_aside(into, model.files, context.progress)
        moved = context.ports.hubs.fetch(model, into, context.progress, context.meter)
        seal(into, model.digest, model.files)
    return results.Weights(
        folder=folder,
        source=model.source,
        revision=model.revision,
        digest=model.digest,
        files=model.files,
        bytes_moved=moved,
    )


def intact(result: results.Weights, look: Look) -> str:
    return trouble(look.workspace.weights / result.folder, result.digest, result.files)


def of_config(path: Path) -> Stage[results.Weights]:
    """In place of the weights, the model's config.json alone: enough where random weights do. Raises ConfigError where
    the file is no JSON object."""
    try:
        content = path.read_bytes()
        known = isinstance(json.loads(content), dict)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read", why=str(error.strerror), hint=_GIVE_CONFIG) from None
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON", why=str(error), hint=_GIVE_CONFIG) from None
    if not known:
        raise ConfigError(f"{path} is no config.json", why="it is not a JSON object", hint=_GIVE_CONFIG)
    file = LockedFile(path="config.json", size=len(content), sha256=hashlib.sha256(content).hexdigest())
    digest = set_digest((file,))

    def kept(job: Job, context: Context) -> results.Weights:
        folder = f"{job.cell.model_name}/{digest.removeprefix('sha256:')[:_DIGEST_LETTERS]}"
        into = context.workspace.weights / folder
        write_atomic(into / file.path, content)
        seal(into, digest, (file,))
        return results.Weights(
            folder=folder, source=file.path, revision="", digest=digest, files=(file,), bytes_moved=0
        )

    return replace(STAGE, doing="reading config.json", inputs=lambda _job: {"config": digest}, run=kept)


STAGE = Stage(
    result=results.WEIGHTS,
    doing="fetching weights",
    inputs=inputs,
    run=run,
    intact=intact,
    programs=(PROGRAM,),
)
