"""What the files of a model on its hub say about it: its config, its sampling parameters and its card."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from flagrelease.config.lockfile import LockedData
from flagrelease.errors import FlagreleaseError
from flagrelease.ports.clock import SystemClock
from flagrelease.ports.hub import Hubs
from flagrelease.ports.meter import Meter
from flagrelease.ports.progress import Progress
from flagrelease.recipe.devices import weight_bytes

_FILES = ("config.json", "generation_config.json", "README.md")
_LARGEST = 4_000_000
"""Bytes; these files are small, and a larger one is something else."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The values for a stanza. What the files do not say is empty."""

    license: str = ""
    """Of the card's front matter."""
    languages: tuple[str, ...] = ()
    """Of the card's front matter."""
    max_model_len: int | None = None
    """The positions that config.json has."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Of generation_config.json; empty if the model is greedy by default."""
    weight_bytes: int = 0
    """Of the listing."""
    architecture: str = ""
    """The model_type of config.json."""


def read(source: str, hubs: Hubs, progress: Progress) -> Facts:
    """List a source and read its small files. Raises the errors of `Hubs.resolve` and `Hubs.file`."""
    listing = hubs.resolve(source, progress)
    files = {file.path: file for file in listing.files}
    texts: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="flagrelease-add-") as folder:
        for name in _FILES:
            if name in files and files[name].size <= _LARGEST:
                locked = LockedData(
                    source=source, rows=0, file=files[name], archive=listing.archive, revision=listing.revision
                )
                path = hubs.file(locked, Path(folder), progress, Meter(SystemClock()))
                texts[name] = path.read_text(encoding="utf-8", errors="replace")
    return of_texts(texts, weight_bytes(listing.files))


def of_texts(texts: Mapping[str, str], size: int = 0) -> Facts:
    """The facts in the files' texts, by name. A file that is not what its name says is ignored."""
    config = _mapping(texts.get("config.json", ""), json.loads)
    card = _mapping(_front_matter(texts.get("README.md", "")), yaml.safe_load)
    generation = _mapping(texts.get("generation_config.json", ""), json.loads)
    text = config.get("text_config")
    inner: Mapping[str, Any] = text if isinstance(text, dict) else config
    length = inner.get("max_position_embeddings", config.get("max_position_embeddings"))
    languages = card.get("language", ())
    spoken = [languages] if isinstance(languages, str) else languages if isinstance(languages, list) else []
    known = card.get("license")
    return Facts(
        license=known.lower() if isinstance(known, str) and known != "other" else "",
        languages=tuple(code for code in spoken if isinstance(code, str) and code.isalpha() and len(code) <= 3),
        max_model_len=length if isinstance(length, int) and not isinstance(length, bool) and length >= 16 else None,
        sampling=_sampling(generation),
        weight_bytes=size,
        architecture=str(config.get("model_type", "")),
    )


def _sampling(generation: Mapping[str, Any]) -> dict[str, Any]:
    """Temperature, top_p and top_k, if the model samples by default; greedy otherwise."""
    if not generation or generation.get("do_sample") is False:
        return {}
    found = {name: generation.get(name) for name in ("temperature", "top_p", "top_k")}
    numbers = {name: value for name, value in found.items() if isinstance(value, int | float) and value > 0}
    return numbers if "temperature" in numbers else {}


def _front_matter(card: str) -> str:
    lines = card.splitlines()
    if not lines or lines[0].strip() != "---":
        return ""
    end = next((number for number, line in enumerate(lines[1:], 1) if line.strip() == "---"), 0)
    return "\n".join(lines[1:end])


def _mapping(text: str, load: Callable[[str], Any]) -> Mapping[str, Any]:
    try:
        value = load(text) if text else {}
    except (ValueError, yaml.YAMLError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def answered(source: str, hubs: Hubs, progress: Progress) -> tuple[Facts, str]:
    """The facts of a source, and why there are none if its hub does not answer."""
    try:
        return read(source, hubs, progress), ""
    except FlagreleaseError as error:
        return Facts(), error.line()
