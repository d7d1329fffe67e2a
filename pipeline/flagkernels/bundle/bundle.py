"""Pack the qualified operators, their tuned database and their compiled kernels for one chip.

operators.yaml   operators that replace the vendor's, and the shape classes that stay native
tuned.db         FlagGems' database of chosen configurations
triton-cache/    compiled kernels, without intermediate representations
report.json      verdicts, timings, tuning
compat.json      vendor, device, driver, Triton, FlagGems, source hash; digest of the other files
"""

from __future__ import annotations

import argparse
import base64
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flagkernels.arguments import add_option
from flagkernels.bundle.compat import Compat, SystemProbe, read_compat
from flagkernels.digests import directory_digest, no_space
from flagkernels.errors import BundleCorrupt, ChipFault, UsageError
from flagkernels.files import make_folder, read_json, write_json, write_text
from flagkernels.operators import catalogue
from flagkernels.operators.listing import Operators, read_operators
from flagkernels.tuning import database
from flagkernels.tuning.folder import Layout

__all__ = ["Bundle", "add_arguments", "build", "content", "digest", "load", "main"]

FILES = ("operators.yaml", "tuned.db", "report.json", "compat.json")
INTERMEDIATE = {".source", ".ttir", ".ttgir", ".llir", ".ptx", ".amdgcn", ".ttadapter"}
"""Suffixes of intermediate files of a compilation, which a launch does not read."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle on disk, checked for completeness and integrity."""

    path: Path
    operators: Operators
    compat: Compat
    database_name: str
    """File name that FlagGems on this chip expects for its database."""
    content: str
    """sha256 over all files except compat.json (see `content`)."""


def build(
    out: Path,
    *,
    operators: Operators,
    tuned: Path,
    database_name: str,
    triton_cache: Path,
    kernels: Iterable[str],
    report: Mapping[str, Any],
    compat: Compat,
) -> Bundle:
    """Write the bundle atomically; `out` must be absent, empty or an old bundle. `kernels`: Triton's hashes.

    Raises UsageError if `out` contains anything else, BundleCorrupt if a kernel is not in the cache, NoSpace if the
    disk is full, ChipFault if `out` cannot be written."""
    if out.exists() and not (out / "compat.json").exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} is not empty", hint="name a new folder, or an old bundle to replace")
    make_folder(out.parent)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        write_text(part / "operators.yaml", operators.to_yaml())
        write_json(part / "report.json", report)
        database.compact(tuned, part / "tuned.db")
        _copy_kernels(triton_cache, part / "triton-cache", kernels)
        label = {**asdict(compat), "database": database_name, "content": content(part)}
        write_json(part / "compat.json", label)
        part.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        part.rename(out)
    except OSError as error:
        raise no_space(error, out) or ChipFault(f"cannot write {out}", why=str(error)) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return load(out)


def cache_name(kernel: str) -> str:
    """The folder under TRITON_CACHE_DIR of a kernel with this (hexadecimal) hash."""
    return base64.b32encode(bytes.fromhex(kernel)).decode().rstrip("=")


def _copy_kernels(source: Path, target: Path, kernels: Iterable[str]) -> None:
    target.mkdir()
    for kernel in kernels:
        folder = source / cache_name(kernel)
        groups = list(folder.glob("__grp__*.json"))
        if not groups:
            raise BundleCorrupt(
                f"kernel {kernel[:16]} is not in {source}",
                why="the Triton cache was cleaned, or Triton stores it in another folder",
                hint="run `python -m flagkernels tune` again with the same --out",
            )
        (target / folder.name).mkdir()
        for file in sorted(folder.iterdir()):
            if file.is_file() and file.suffix not in INTERMEDIATE and file not in groups:
                shutil.copyfile(file, target / folder.name / file.name)
        for group in groups:
            # Triton stores absolute paths and silently recompiles if one does not exist, so store names only.
            names = [n for n in json.loads(group.read_text())["child_paths"] if Path(n).suffix not in INTERMEDIATE]
            write_json(target / folder.name / group.name, {"child_paths": {name: name for name in sorted(names)}})
    # Launch stubs: building them needs a C compiler, which a serving image may lack.
    for stub in sorted(source.glob("*/*.so")):
        (target / stub.parent.name).mkdir(exist_ok=True)
        shutil.copyfile(stub, target / stub.parent.name / stub.name)


def load(path: Path) -> Bundle:
    """Open a bundle and verify its content digest (about 1 MB is read).

    Raises BundleCorrupt if a file is missing or was changed."""
    missing = [name for name in (*FILES, "triton-cache") if not (path / name).exists()]
    if missing:
        raise BundleCorrupt(
            f"{path} is not a complete bundle",
            why=f"missing: {', '.join(missing)}",
            hint="copy the bundle from its release again",
        )
    compat = read_compat(path / "compat.json")
    label = read_json(path / "compat.json")
    if not all(isinstance(label.get(name), str) for name in ("database", "content")):
        raise BundleCorrupt(
            f"{path / 'compat.json'} is not a compatibility label",
            why="it names no database or no content digest",
            hint="copy the bundle from its release again",
        )
    if (actual := content(path)) != label["content"]:
        raise BundleCorrupt(
            f"{path} was changed after it was bundled",
            why=f"content is {actual}, was {label['content']}",
            hint="copy the bundle from its release again",
        )
    return Bundle(
        path=path,
        operators=read_operators(path / "operators.yaml"),
        compat=compat,
        database_name=label["database"],
        content=label["content"],
    )


def digest(path: Path) -> str:
    """sha256 over all files of the bundle, including compat.json; identifies it in a release."""
    return directory_digest(path, (file for file in path.rglob("*") if file.is_file()))


def content(path: Path) -> str:
    """sha256 over all files except compat.json, which records it."""
    label = path / "compat.json"
    return directory_digest(path, (file for file in path.rglob("*") if file.is_file() and file != label))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_option(parser, "--tuned", required=True, help="output folder of `tune`")
    add_option(parser, "--operators", type=Path, required=True, help="operators.yaml from `select`")
    parser.add_argument("--report", type=Path, help="report to ship (JSON); default: the report of `tune`")
    add_option(parser, "--vendor", help="FlagGems vendor name of this chip; default: as recorded by `tune`")
    add_option(parser, "--out", help="output folder of the bundle")


def main(args: argparse.Namespace) -> int:
    layout = Layout(args.tuned)
    tuned = read_json(layout.report)
    operators = read_operators(args.operators)
    catalogue.require_here(operators.include)
    report = read_json(args.report) if args.report else {n: v for n, v in tuned.items() if n != "compile_failures"}
    bundle = build(
        args.out,
        operators=operators,
        tuned=layout.database,
        database_name=layout.database.name,
        triton_cache=layout.triton,
        kernels=tuned["kernels"],
        report=report,
        compat=SystemProbe().compat(args.vendor or tuned["vendor"]),
    )
    print(json.dumps({"bundle": str(bundle.path), "digest": digest(bundle.path)}))  # noqa: T201 -- the result
    return 0
