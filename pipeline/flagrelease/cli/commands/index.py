"""`flagrelease index`: write a static site that shows all cells, their releases and the evidence of each verdict."""

from __future__ import annotations

import argparse
import json

from flagrelease.cli.shared import options
from flagrelease.run.matrix_state import read_ledger
from flagrelease.run.project import open_project, shipped_templates
from flagrelease.site.build import build


def main(arguments: argparse.Namespace) -> int:
    project = open_project(options(arguments))
    output = (arguments.output or project.workspace.root / "index").resolve()
    own = project.templates / "site"
    built = build(
        {cell.id: cell.excluded for cell in project.cells},
        read_ledger(project.ledger.path),
        project.workspace,
        output,
        templates=own if own.is_dir() else shipped_templates() / "site",
        url=arguments.url,
    )
    if arguments.json:
        figures = {"cells": built.cells, "releases": built.releases, "front_bytes": built.front}
        print(json.dumps({"output": str(output), **figures}, indent=2, ensure_ascii=False))
    else:
        print(f"{output / 'index.html'}: {built.cells} cells, {built.releases} releases")
    return 0
