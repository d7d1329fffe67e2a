"""`flagrelease compare`: judge two sets of answers."""

from __future__ import annotations

import argparse

from flagrelease.compare import compare_main, parse_margins


def main(arguments: argparse.Namespace) -> int:
    margins = parse_margins(arguments.margin)
    text, code = compare_main(arguments.baseline, arguments.candidate, margins, arguments.json)
    print(text)
    return code
