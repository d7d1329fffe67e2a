"""Files that are whole or absent: JSON written by temp, fsync and rename; JSONL appended and synced line by line."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flagkernels.errors import ChipFault, UsageError

__all__ = ["append_line", "read_json", "read_lines", "write_json", "write_text"]


def write_text(path: Path, text: str) -> None:
    """Raises ChipFault where the disk is full or the folder cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise ChipFault(f"cannot write {path}", why=str(error), hint="choose another --out") from error
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
        raise ChipFault(f"cannot write {path}", why=str(error), hint="free disk space, then run again") from error


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises UsageError where the file is missing or is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}", why=str(error), hint="check the path") from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON", why=str(error), hint="write it again with its own step") from error


def append_line(path: Path, value: Any) -> None:
    """One JSON line, on the disk when this returns, so that a kill afterwards cannot lose it.

    A line that a kill cut short stays cut; the newline put before the next one keeps it from spoiling that."""
    line = json.dumps(value, ensure_ascii=False).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as stream:
            if stream.tell():
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":
                    line = b"\n" + line
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise ChipFault(f"cannot append to {path}", why=str(error), hint="free disk space, then run again") from error


def read_lines(path: Path) -> Iterator[Any]:
    """The whole lines of a JSONL file; a line that was cut short by a kill is skipped."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            try:
                yield json.loads(line)
            except ValueError:
                continue
