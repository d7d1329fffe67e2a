"""`flagrelease compare A B`: the verdict on two answer sets, without running anything."""

from __future__ import annotations

import argparse

from flagrelease.errors import ConfigError
from flagrelease.verdict.compare import compare_main


def main(arguments: argparse.Namespace) -> int:
    margins = dict(_margin(text) for text in arguments.margin)
    text, code = compare_main(arguments.baseline, arguments.candidate, margins, as_json=arguments.json)
    print(text)
    return code


def _margin(text: str) -> tuple[str, float]:
    benchmark, _, number = text.rpartition("=")
    try:
        margin = float(number)
    except ValueError:
        margin = -1.0
    if not 0.0 < margin < 1.0:
        raise ConfigError(f"--margin {text}", why="a margin is a fraction between 0 and 1", hint="--margin mmlu=0.01")
    return benchmark or "*", margin
