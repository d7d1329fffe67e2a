"""Transcripts: the graded replies in `replies.jsonl` next to a samples file, for checking grades.

One line for each answer: {benchmark, subset, question_id, repeat, text}. Thinking is removed, secrets are redacted, and
text beyond 4,000 characters is cut from the middle; a file stops growing at 32 MB. Neither score nor verdict reads it.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from flagrelease.redact import redact
from flagrelease.verdict.samples import Key

__all__ = ["REPLIES", "Replies", "collect"]

REPLIES = "replies.jsonl"

_LONGEST = 4000
_MOST_BYTES = 32_000_000


class Replies:
    """Appends to the transcript next to the samples file `samples`. Not thread-safe."""

    def __init__(self, samples: Path) -> None:
        self._path = samples.with_name(REPLIES)
        self._file: BinaryIO | None = None

    def __enter__(self) -> Replies:
        self._file = self._path.open("ab")
        if self._file.tell():
            self._file.write(b"\n")  # ends the truncated line of a killed writer
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def keep(self, key: Key, text: str) -> None:
        """Append the reply of one answer, unless the file is full."""
        if self._file is None or self._file.tell() > _MOST_BYTES:
            return
        benchmark, subset, question, repeat = key
        names = {"benchmark": benchmark, "subset": subset, "question_id": question, "repeat": repeat}
        line = json.dumps({**names, "text": _bounded(redact(text))}, ensure_ascii=False)
        self._file.write(line.encode("utf-8", errors="replace") + b"\n")


def collect(places: Iterable[Path], wanted: Container[Key]) -> bytes:
    """The newest reply of each `wanted` answer in transcripts, oldest place first, as lines. A place is a transcript or
    a folder of them. Invalid lines are skipped."""
    newest: dict[Key, str] = {}
    for place in places:
        for path in sorted(place.rglob(REPLIES)) if place.is_dir() else [place] if place.is_file() else []:
            for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
                try:
                    reply = json.loads(line)
                    key = (reply["benchmark"], reply["subset"], reply["question_id"], reply["repeat"])
                except (ValueError, KeyError, TypeError):
                    continue
                if key in wanted:
                    newest[key] = line
    return "".join(newest[key] + "\n" for key in sorted(newest)).encode()


def _bounded(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters left out …]\n{text[-half:]}"
