"""Crash-safe files: JSON replaced atomically (temporary file, fsync, rename), JSONL appended and synced by line."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flagkernels.digests import no_space
from flagkernels.errors import ChipFault, UsageError

__all__ = ["append_line", "make_folder", "read_json", "read_lines", "write_json", "write_text"]


def make_folder(path: Path) -> None:
    """Create the folder and its parents. Raises NoSpace if the disk is full, ChipFault if creation fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> ChipFault:
    hint = "choose a writable path"
    return no_space(error, path) or ChipFault(f"cannot write {path}", why=str(error), hint=hint)


def write_text(path: Path, text: str) -> None:
    """Replace the file atomically. Raises NoSpace if the disk is full, ChipFault if the file cannot be written."""
    make_folder(path.parent)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise _unwritable(path, error) from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def write_json(path: Path, value: Any) -> None:
    """Replace the file atomically. Raises what `write_text` raises."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read one JSON value. Raises UsageError if the file is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}", why=str(error), hint="check the path") from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON", why=str(error), hint="run the step that writes it again") from error


def append_line(path: Path, value: Any) -> None:
    """Append one JSON line and sync it, so that a later kill cannot lose it.

    If a kill truncated the last line, a newline is written first, so that the new line stays readable.
    Raises what `write_text` raises."""
    line = json.dumps(value, ensure_ascii=False).encode() + b"\n"
    make_folder(path.parent)
    try:
        with path.open("ab+") as stream:
            if stream.tell():
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":
                    line = b"\n" + line
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise _unwritable(path, error) from error


def read_lines(path: Path) -> Iterator[Any]:
    """The lines of a JSONL file, none if it does not exist; a line truncated by a kill is skipped.

    Raises UsageError if the file cannot be read."""
    if not path.exists():
        return
    try:
        stream = path.open(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"cannot read {path}", why=str(error), hint="check the path") from error
    with stream:
        for line in stream:
            try:
                yield json.loads(line)
            except ValueError:
                continue
