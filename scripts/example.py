#!/usr/bin/env python3
"""Write docs/example/ from the newest release of a cell: its verified card, record and charts.

The README shows the same numbers between its two `example` comments. `--draft` takes a folder with the private draft
of a cell that was released without Docker (from benchmarks/h100/cell.py); use it together with `--output`.
"""

import argparse
import hashlib
import re
import sys
from pathlib import Path

from flagrelease.stages.card import record, render
from flagrelease.stages.publish import index
from flagrelease.store.files import write_atomic
from flagrelease.store.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
SHOWN = re.compile(r"(?s)(<!-- example -->\n).*?(<!-- /example -->)")
MACHINE_PATH = re.compile(rb"/(root|home|work|tmp)/[\w.-]+")


def main() -> int:
    """Returns 0 if written, 1 if there is no release or it must not be shown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cell", default="cpu/smollm2-135m", metavar="CHIP/MODEL")
    parser.add_argument("--workspace", type=Path, default=ROOT / ".flagrelease", metavar="DIR")
    parser.add_argument("--draft", type=Path, metavar="DIR")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "example", metavar="DIR")
    arguments = parser.parse_args()

    if arguments.draft:
        shown, tag = drafted(arguments.draft), str(arguments.draft)
    else:
        workspace = Workspace(arguments.workspace)
        releases = [release for release in index.load(workspace).releases if release.cell == arguments.cell]
        if not releases:
            print(f"example: {arguments.cell} has no release in {workspace.root}\n  → make release", file=sys.stderr)
            return 1
        tag = releases[-1].tag
        shown = released(workspace.releases / releases[-1].folder)
    if not shown:
        return 1
    for name, data in shown.items():
        leak = MACHINE_PATH.search(data)
        if leak:
            print(f"example: {name} contains a path of this machine: {leak.group().decode()}", file=sys.stderr)
            return 1
    for name, data in sorted(shown.items()):
        write_atomic(arguments.output / name, data)
    if arguments.output == ROOT / "docs" / "example":
        release = record.loads(shown["release.json"])
        tables = f"{render.scores_table(release)}\n\n{render.stages_table(release)}"
        text = SHOWN.sub(lambda match: f"{match[1]}\n{tables}\n\n{match[2]}", README.read_text())
        write_atomic(README, text.encode())
    print(f"example: {', '.join(sorted(shown))} of {tag} in {arguments.output}")
    return 0


def released(folder: Path) -> dict[str, bytes]:
    """The files of a release to show; empty if they were changed after publishing."""
    shown = {}
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ", 1)
        data = (folder / name).read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            print(f"example: {folder / name} was changed after it was published", file=sys.stderr)
            return {}
        if "/" not in name:
            shown[name] = data
    return shown


def drafted(folder: Path) -> dict[str, bytes]:
    """The card, its record and its charts; empty if there is no card."""
    texts = ("README.md", "release.json")
    names = [path for path in sorted(folder.iterdir()) if path.name in texts or path.suffix == ".png"]
    if not (folder / "README.md").is_file():
        print(f"example: {folder} has no card", file=sys.stderr)
        return {}
    return {path.name: path.read_bytes() for path in names}


if __name__ == "__main__":
    sys.exit(main())
