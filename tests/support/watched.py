"""A project with a published release, in a real registry and on a hub, which `flagrelease watch` looks at."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flagrelease.cli import app
from flagrelease.config.lockfile import LockedFile, set_digest
from flagrelease.config.targets import Target
from flagrelease.contract.context import Context
from flagrelease.contract.results import Publish, Weights
from flagrelease.ports.registry import OciRegistry
from flagrelease.stages.publish import stage as publish
from flagrelease.store.ledger import Entry, Ledger
from support.pushed import finished, job
from support.writable_hub import Repository, WritableHub, commit_id

CELL = "cpu/smollm2-135m"
ROOT = Path(__file__).parents[2]
SOURCE, UPSTREAM = "org/weights", "HuggingFaceTB/SmolLM2-135M-Instruct"
WEIGHTS = {"config.json": b'{"a": 1}', "model.safetensors": b"weights " * 100}


@dataclass
class Watched:
    """The project; its folder is the current one."""

    root: Path
    hub: WritableHub
    repository: str
    """HOST/NAME of the image."""
    targets: dict[str, Target]
    results: list[Publish]
    """The releases, oldest first."""
    context: Context | None = None
    """In which the newest one was published."""

    @property
    def tag(self) -> str:
        return self.results[-1].tags[0].rpartition(":")[2]

    @property
    def digest(self) -> str:
        return self.results[-1].digest

    def place(self, target: str) -> str:
        return next(one.place for one in self.results[-1].targets if one.target == target)

    def watch(self, capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[dict[str, Any]]]:
        """The exit code, and the releases of the JSON output."""
        capsys.readouterr()
        code = app.main(["watch", "--json", *argv])
        return code, json.loads(capsys.readouterr().out)["releases"]

    def publish(self, name: str, **made: Any) -> Publish:
        """Publish a release, as `run` does, and write it to the ledger."""
        own = OciRegistry()
        context = finished(self.root / ".flagrelease", own, self.repository, weights=weights(), **made)
        self.context = context
        result = publish.run(job(self.targets), context)
        entry = Entry(
            at=f"2026-01-0{len(self.results) + 1}T00:00:00+00:00",
            run=name,
            cell=CELL,
            stage="publish",
            state="done",
            key=name,
            process="1@b",
            result=msgspec.to_builtins(result),
        )
        Ledger(self.root / ".flagrelease/ledger.jsonl").append(entry)
        self.results.append(result)
        return result


def project(root: Path, hub: WritableHub, registry: str, targets: dict[str, Target]) -> Watched:
    """A project in the folder `root` with one release. The registry is HOST/PREFIX."""
    text = (ROOT / "templates/matrix.yaml").read_text()
    lines = [f"  {name}: {json.dumps(settings_of(target))}\n" for name, target in targets.items()]
    (root / "matrix.yaml").write_text(f"{text}\ntargets:\n{''.join(lines)}" if targets else text)
    hub.repositories[SOURCE] = Repository(private=False, commits=[dict(WEIGHTS)], large={"model.safetensors"})
    hub.repositories[UPSTREAM] = Repository(private=False)
    made = Watched(root=root, hub=hub, repository=f"{registry}/smollm2-135m-cpu", targets=targets, results=[])
    made.publish("one")
    return made


def settings_of(target: Target) -> dict[str, str]:
    return {name: value for name, value in msgspec.to_builtins(target).items() if value}


def weights() -> Weights:
    files = tuple(
        LockedFile(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest()) for path, data in WEIGHTS.items()
    )
    return Weights(
        folder="x/y",
        source=f"hf://{SOURCE}",
        revision=commit_id(0),
        digest=set_digest(files),
        files=files,
        bytes_moved=0,
    )


def found(releases: list[dict[str, Any]]) -> dict[str, str]:
    """What a watch found of the newest release, by kind of check."""
    return {each["check"]: f"{each['what']}: {each['why']}" for each in releases[-1]["findings"]}


def open_checks(releases: list[dict[str, Any]]) -> dict[str, str]:
    """What was not checked, by kind."""
    return {each["check"]: each["what"] for each in releases[-1]["checks"] if each["state"] == "not checked"}


__all__ = ["CELL", "SOURCE", "UPSTREAM", "WEIGHTS", "Watched", "found", "open_checks", "project"]
