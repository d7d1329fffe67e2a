"""`flagrelease add chip|model NAME`: write a stanza into matrix.yaml, from flags, the model's hub, and questions."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from flagrelease.cli.hub_facts import Facts, answered
from flagrelease.cli.stanza import inserted, stanza
from flagrelease.config import matrix, strict_yaml
from flagrelease.config.cell import expand
from flagrelease.config.matrix import Matrix
from flagrelease.config.sources import Source
from flagrelease.errors import ConfigError
from flagrelease.ports.hub import RealHubs
from flagrelease.ports.progress import Silent
from flagrelease.store.files import write_atomic

_REQUIRED = {
    "chip": {
        "vendor": "FlagGems' name for the vendor, such as nvidia",
        "device_name": "the vendor's name for the device, such as NVIDIA H100",
        "code": "the device's code in FlagOS, such as nvidia004",
        "base": "the base image, HOST/NAME:TAG",
        "flagscale": "the version of FlagScale",
        "flaggems": "the version of FlagGems, or none",
    },
    "model": {
        "source": "where the weights are, such as modelscope://ORG/NAME",
        "license": "the licence identifier, such as apache-2.0",
    },
}
"""By kind, the flags without which there is no stanza, with the question for each."""


def main(arguments: argparse.Namespace) -> int:
    path: Path = arguments.matrix
    before = matrix.load(path)
    text = path.read_text(encoding="utf-8")
    kind, name = arguments.kind, arguments.name
    section = f"{kind}s"
    if name in getattr(before, section):
        raise ConfigError(f"{section}.{name} exists", hint=f"edit it in {path}, or choose another name")
    given = {key: value for key, value in vars(arguments).items() if value is not None}
    notes: list[str] = []
    values = _chip(_asked(kind, given)) if kind == "chip" else _model(name, given, notes)
    new = stanza(name, values)
    changed = inserted(text, section, new)
    after = strict_yaml.loads(changed.encode(), Matrix, str(path))
    cells = [cell for cell in expand(after) if name in (cell.chip_name, cell.model_name) and not cell.excluded]
    if not arguments.dry_run:
        write_atomic(path, changed.encode())
    if arguments.json:
        shown = {"file": str(path), "stanza": new, "cells": [cell.id for cell in cells], "notes": notes}
        print(json.dumps({**shown, "written": not arguments.dry_run}, indent=2, ensure_ascii=False))
        return 0
    print(new, end="")
    for note in notes:
        print(f"note: {note}")
    done = "would be written to" if arguments.dry_run else "written to"
    print(f"{done} {path}; new cells: {', '.join(cell.id for cell in cells) or 'none'}")
    print(f"next: exclude the cells that are not to be released, then `flagrelease lock '{_glob(kind, name)}'`")
    return 0


def _glob(kind: str, name: str) -> str:
    return f"{name}/*" if kind == "chip" else f"*/{name}"


def _asked(kind: str, given: Mapping[str, Any], ask: Callable[[str], str] = input) -> dict[str, Any]:
    """`given` with answers for what is required and missing. Raises ConfigError if nobody can be asked."""
    missing = {name: question for name, question in _REQUIRED[kind].items() if not given.get(name)}
    answers: dict[str, str] = {}
    with suppress(EOFError):  # nobody answers any more
        if missing and sys.stdin.isatty():
            for name, question in missing.items():
                answers[name] = ask(f"{question}: ").strip()
    missing = {name: question for name, question in missing.items() if not answers.get(name)}
    if missing:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise ConfigError(f"a {kind} also needs {flags}", why="; ".join(missing.values()))
    return {**given, **answers}


def _chip(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "vendor": given["vendor"],
        "device": {"name": given["device_name"], "code": given["code"], "memory": given.get("memory")},
        "base": given["base"],
        "python": given.get("python"),
        "components": {"flagscale": given["flagscale"], "flaggems": given["flaggems"]},
        "container": {"gpus": given.get("gpus"), "shm": given.get("shm"), "ipc": given.get("ipc")},
        "host_devices": given.get("host_devices"),
    }


def _model(name: str, given: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """The stanza of a model. Flags prevail over what its hub says; `notes` gets where values come from."""
    facts, refused = Facts(), ""
    if "source" in given and not given.get("offline"):
        Source.parse(given["source"])
        facts, refused = answered(given["source"], RealHubs(), Silent())
        notes.append(f"the hub was not read: {refused}" if refused else _told(facts))
    values = _asked("model", {**({"license": facts.license} if facts.license else {}), **given})
    origin = Source.parse(values["source"]).name.strip("/")
    title = values.get("title") or origin.rpartition("/")[2] or name
    own = {key: values[key] for key in ("temperature", "top_p", "top_k") if key in values}
    return {
        "title": title,
        "source": values["source"],
        "upstream": values.get("upstream") or origin,
        "license": values["license"],
        "languages": list(values.get("languages") or facts.languages),
        "serve": {
            "name": name,
            "engine": values["engine"],
            "max_model_len": values.get("max_model_len") or facts.max_model_len,
            "devices": values.get("devices"),
        },
        "sampling": {
            "thinking": values.get("thinking") or None,
            **(own or facts.sampling),
            "max_tokens": values.get("max_tokens"),
        },
    }


def _told(facts: Facts) -> str:
    size = f"{facts.weight_bytes / 2**30:,.1f} GiB of weights" if facts.weight_bytes else "no size of weights"
    said = [facts.architecture or "no architecture", size]
    said += [f"context {facts.max_model_len}"] if facts.max_model_len else ["no length of the context"]
    said += ["its own sampling parameters"] if facts.sampling else ["no sampling parameters: greedy"]
    return f"the hub says: {', '.join(said)}"
