"""weights: fetch and verify the model files, and convert them for engines that need a different format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flagrelease.config.lockfile import LockedFile, LockedModel, set_digest, unverified
from flagrelease.contract import results
from flagrelease.contract.job import Job
from flagrelease.contract.stage import Stage
from flagrelease.errors import ConfigError, HubRefused
from flagrelease.packaging.base_image import pinned_base
from flagrelease.stages.weights import signature
from flagrelease.stages.weights.folder import seal, set_aside, trouble
from flagrelease.stages.weights.gguf import PROGRAM, unpacked
from flagrelease.store.evidence import Evidence
from flagrelease.store.files import write_atomic
from flagrelease.store.locks import wait_for
from flagrelease.store.workspace import manifest_of

if TYPE_CHECKING:
    from flagrelease.contract.context import Context, Look

_DIGEST_LETTERS = 12
_GIVE_CONFIG = "pass the config.json of a transformers model"


def locked(job: Job) -> LockedModel:
    """The model's entry in matrix.lock. Raises ConfigError if it is missing, edited, for another source, or has files
    that the matrix refuses."""
    name = job.cell.model_name
    job.lock.require("models", name)
    model = job.lock.models[name]
    if model.source != job.cell.model.source:
        why = f"matrix.yaml says {job.cell.model.source}, matrix.lock {model.source}"
        raise ConfigError(f"models.{name} is locked for another source", why=why, hint="run `flagrelease lock`")
    if set_digest(model.files) != model.digest:
        why = "its digest does not match its files"
        raise ConfigError(f"models.{name} in matrix.lock was edited", why=why, hint="run `flagrelease lock`")
    if model.unverified and job.matrix.defaults.unverified_files == "refuse":
        raise unverified(model.source, model.unverified)
    return model


def inputs(job: Job) -> Mapping[str, object]:
    model = locked(job)
    fetched: dict[str, object] = {"source": model.source, "revision": model.revision, "digest": model.digest}
    if job.cell.model.signed_by:
        fetched["signed_by"] = job.cell.model.signed_by
    if convert := job.cell.model.serve.convert:
        return {**fetched, "convert": convert, **pinned_base(job), "runner": job.runner}
    return fetched


def run(job: Job, context: Context) -> results.Weights:
    with _held(job, context):
        weights = _fetched(job, context)
        return unpacked(job, context, weights) if job.cell.model.serve.convert else weights


def fetched(job: Job, context: Context) -> results.Weights:
    """Fetch and verify the files without converting them, which needs the chip's base image."""
    with _held(job, context):
        return _fetched(job, context)


def _folder(job: Job) -> str:
    digest = locked(job).digest.removeprefix("sha256:")[:_DIGEST_LETTERS]
    return f"{job.cell.model_name}/{digest}"


def _held(job: Job, context: Context) -> AbstractContextManager[None]:
    """Lock the model's weights, which cells of several chips share."""
    hold = context.workspace.locks / f"weights-{_folder(job).replace('/', '-')}.lock"

    def waiting(holder: str) -> None:
        context.progress.doing(f"waiting for another run that uses the same weights, {holder}")

    return wait_for(hold, context.run_id, waiting, context.ports.clock.sleep)


def _fetched(job: Job, context: Context) -> results.Weights:
    model, folder = locked(job), _folder(job)
    if job.cell.model.signed_by:
        signature.key_of(job.cell.model.signed_by)  # a key that cannot be used shows before anything is fetched
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
        evidence=_signature(job, context, model, into),
    )


def _signature(job: Job, context: Context, model: LockedModel, into: Path) -> tuple[Evidence, ...]:
    """The source's signature, which was checked; nothing if the matrix wants none. Raises ConfigError for a bad key,
    HubRefused for weights that are not signed with it."""
    if not job.cell.model.signed_by:
        if any(file.path == signature.NAME for file in model.files):
            name = f"models.{job.cell.model_name}.signed_by"
            context.progress.note(f"{model.source} offers a signature; {name} names no key to check it with")
        return ()
    context.progress.doing("checking the signature of the weights")
    refused = f"{model.source} is not signed with the key of models.{job.cell.model_name}.signed_by"
    hint = "find out who changed the weights or the key; without `signed_by`, only their sha256 is checked"
    try:
        raw = (into / signature.NAME).read_bytes()
    except FileNotFoundError:
        raise HubRefused(refused, why=f"it has no {signature.NAME}", hint=hint) from None
    try:
        other = signature.check(raw, job.cell.model.signed_by, model.files)
    except signature.InvalidSignatureError as error:
        raise HubRefused(refused, why=str(error), hint=hint) from None
    if other:
        raise HubRefused(refused, why="; ".join(other[:3]) + (" …" if other[3:] else ""), hint=hint)
    return (context.evidence.put(f"weights/{signature.NAME}", raw),)


def intact(result: results.Weights, look: Look) -> str:
    return trouble(look.workspace.weights / result.folder, result.digest, result.files)


def of_config(path: Path) -> Stage[results.Weights]:
    """A weights stage that only takes the model's config.json, for uses in which random weights suffice. Raises
    ConfigError if the file is not a JSON object."""
    try:
        content = path.read_bytes()
        valid = isinstance(json.loads(content), dict)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read", why=str(error.strerror), hint=_GIVE_CONFIG) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON", why=str(error), hint=_GIVE_CONFIG) from None
    if not valid:
        raise ConfigError(f"{path} is not a config.json", why="it is not a JSON object", hint=_GIVE_CONFIG)
    file = LockedFile(path="config.json", size=len(content), sha256=hashlib.sha256(content).hexdigest())
    digest = set_digest((file,))

    def store(job: Job, context: Context) -> results.Weights:
        folder = f"{job.cell.model_name}/{digest.removeprefix('sha256:')[:_DIGEST_LETTERS]}"
        into = context.workspace.weights / folder
        write_atomic(into / file.path, content)
        seal(into, digest, (file,))
        return results.Weights(
            folder=folder, source=file.path, revision="", digest=digest, files=(file,), bytes_moved=0
        )

    return replace(STAGE, doing="reading config.json", inputs=lambda _job: {"config": digest}, run=store)


STAGE = Stage(
    result=results.WEIGHTS,
    doing="fetching weights",
    inputs=inputs,
    run=run,
    intact=intact,
    programs=(PROGRAM,),
)
