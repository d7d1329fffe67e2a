"""`flagrelease init`: a first matrix.yaml."""

from __future__ import annotations

import argparse
from pathlib import Path

from flagrelease import matrix
from flagrelease.errors import ConfigError
from flagrelease.files import write_atomic

_STARTER = Path(__file__).resolve().parents[3] / "templates" / "matrix.yaml"


def main(arguments: argparse.Namespace) -> int:
    target: Path = arguments.matrix
    if target.exists():
        raise ConfigError(f"{target} exists", hint="edit it, or name another with --matrix FILE")
    write_atomic(target, _STARTER.read_bytes())
    matrix.load(target)
    print(f"{target} written: one cell, cpu/smollm2-135m")
    print("next: `flagrelease doctor`, `flagrelease lock`, `flagrelease run`; a chip or a model more is a stanza more")
    return 0
