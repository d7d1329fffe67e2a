"""`flagrelease init`: write an initial matrix.yaml and the Dockerfile of its chip's base image."""

from __future__ import annotations

import argparse
from pathlib import Path

from flagrelease.config import matrix
from flagrelease.errors import ConfigError, EnvironmentFault
from flagrelease.run.project import shipped_templates
from flagrelease.store.files import write_atomic


def main(arguments: argparse.Namespace) -> int:
    target: Path = arguments.matrix
    if target.exists():
        raise ConfigError(f"{target} exists", hint="edit it, or choose another path with --matrix FILE")
    starters = shipped_templates()
    try:
        write_atomic(target, (starters / "matrix.yaml").read_bytes())
    except EnvironmentFault as error:
        why = error.why or error.what
        raise EnvironmentFault(f"{target} cannot be written", why=why, hint="choose another --matrix FILE") from None
    (chip,) = matrix.load(target).chips.values()
    dockerfile = target.parent / "base" / "Dockerfile"
    if not dockerfile.exists():
        dockerfile.parent.mkdir(exist_ok=True)
        write_atomic(dockerfile, (starters / "base.Dockerfile").read_bytes())
    print(f"{target} written: one cell, cpu/smollm2-135m; {dockerfile} builds the chip's base image")
    print(f"next: `docker build --tag {chip.base} {dockerfile.parent}`, `flagrelease lock`, `flagrelease doctor`,")
    print("      `flagrelease run`; add a stanza for each further chip or model")
    return 0
