"""The weights of a rehearsal: a folder with the model's architecture, few layers and random values."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from flagrelease.config.lockfile import LockedFile, LockedModel, set_digest
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.errors import EnvironmentFault, FlagreleaseError
from flagrelease.packaging import one_shot
from flagrelease.rehearsal import small_model
from flagrelease.rehearsal.report import LeftOut
from flagrelease.store.digests import file_sha256

_CONFIG, _HINTS = "config.json", "rehearsal.json"
_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What the weights are drawn from."""

    files: Mapping[str, bytes]
    """config.json, the tokenizer, and hints for the program that draws."""
    left_out: tuple[LeftOut, ...]
    """What differs from the model's own files."""


def drawn(locked: LockedModel | None, job: Job, context: Context) -> Drawn:
    """The files to draw weights from: the model's own config.json and tokenizer, made small, or a stand-in's if the
    hub does not answer."""
    own, why = _own(locked, context, job)
    config: Mapping[str, Any] = json.loads(own[_CONFIG]) if _CONFIG in own else small_model.STAND_IN
    left_out = []
    if _CONFIG not in own:
        left_out.append(_omitted("the model's own config.json: that of a Qwen3 model", why))
    tokenizer = {name: own[name] for name in small_model.TOKENIZER_FILES if name in own}
    made, printable = small_model.small(config), list[int]()
    if "tokenizer.json" not in tokenizer and "tokenizer.model" not in tokenizer:
        tokenizer, entries, printable = small_model.byte_tokenizer(job.cell.model.serve.max_model_len)
        made |= entries
        left_out.append(_omitted("the model's own tokenizer: one with a token for each byte", why))
    sizes = small_model.narrowed(config, made)
    what = f"the weights: random ones, with {sizes}"
    left_out.append(_omitted(what, "a processor serves them, and none have to be fetched"))
    if "quantization_config" in config:
        left_out.append(_omitted("the quantisation of the weights", "its kernels need the chip"))
    files = {**tokenizer, _CONFIG: json.dumps(made, indent=1).encode()}
    return Drawn(files={**files, _HINTS: json.dumps({"printable": printable}).encode()}, left_out=tuple(left_out))


def write(files: Drawn, job: Job, context: Context, image: str, folder: Path) -> tuple[LockedModel, str]:
    """Draw the weights into `folder` in a container of `image`; the entry of matrix.lock for it, and what was drawn.
    Raises the errors of `one_shot.finish`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.files.items():
        (folder / name).write_bytes(content)
    program = folder.with_name("random_weights.py")
    program.write_bytes((resources.files("flagrelease.rehearsal") / "programs/random_weights.py").read_bytes())
    run = one_shot.of(
        job,
        context,
        name="weights",
        image=image,
        argv=("python3", "/random_weights.py", "/model"),
        mounts=(f"{program}:/random_weights.py:ro", f"{folder}:/model"),
    )
    # No device is needed, and what the chip's flags allow a container to do is not either.
    plain = replace(run, flags=type(run.flags)(), env={"OMP_NUM_THREADS": "2"})
    printed = one_shot.finish(context, plain, seconds=_SECONDS, line=lambda text: context.progress.doing(text[:70]))
    (folder / _HINTS).unlink()
    files_made = tuple(
        LockedFile(path=path.name, size=path.stat().st_size, sha256=file_sha256(path))
        for path in sorted(folder.iterdir())
    )
    said = re.search(r"(?m)^(\d+) (\w+)$", printed)
    if said is None:
        raise EnvironmentFault("the weights were not drawn", why="the program did not say so", detail=printed)
    entry = LockedModel(source=f"file://{folder}", revision="", files=files_made, digest=set_digest(files_made))
    return entry, f"{said[2]} with {int(said[1]) / 1e6:.1f} million random parameters"


def _own(locked: LockedModel | None, context: Context, job: Job) -> tuple[dict[str, bytes], str]:
    """The model's own small files by name, and why one cannot be had."""
    if locked is None:
        return {}, "the hub does not answer from this machine, and matrix.lock has no files of the model"
    wanted = {_CONFIG, *small_model.TOKENIZER_FILES}
    files = tuple(file for file in locked.files if file.path in wanted)
    if not files:
        return {}, "the source has no such file"
    found: dict[str, bytes] = {}
    why = ""
    with tempfile.TemporaryDirectory(dir=context.workspace.scratch(job.cell.slug, "weights")) as scratch:
        for file in files:
            entry = replace(locked, files=(file,), digest=set_digest((file,)))
            try:
                context.ports.hubs.fetch(entry, Path(scratch, "files"), context.progress, context.meter)
                found[file.path] = Path(scratch, "files", file.path).read_bytes()
            except FlagreleaseError as error:
                why = error.line()
    return found, why


def _omitted(what: str, why: str) -> LeftOut:
    return LeftOut(part="weights", what=what, why=why)
