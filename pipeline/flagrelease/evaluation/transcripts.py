"""`replies.jsonl` beside a samples file: what was graded, word for word, for a reader who doubts a grade.

One line for each answer: {benchmark, subset, question_id, repeat, text}. Texts are without thinking, with secrets taken
out, and cut in the middle beyond a length; a file stops growing at a size. Neither score nor verdict reads it.
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
    """Appends to the replies beside the samples file `samples`. Used by one thread."""

    def __init__(self, samples: Path) -> None:
        self._path = samples.with_name(REPLIES)
        self._file: BinaryIO | None = None

    def __enter__(self) -> Replies:
        self._file = self._path.open("ab")
        if self._file.tell():
            self._file.write(b"\n")  # what a killed writer left half-written ends here
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def keep(self, key: Key, text: str) -> None:
        if self._file is None or self._file.tell() > _MOST_BYTES:
            return
        benchmark, subset, question, repeat = key
        names = {"benchmark": benchmark, "subset": subset, "question_id": question, "repeat": repeat}
        line = json.dumps({**names, "text": _bounded(redact(text))}, ensure_ascii=False)
        self._file.write(line.encode("utf-8", errors="replace") + b"\n")


def collect(folders: Iterable[Path], wanted: Container[Key]) -> bytes:
    """The newest reply of each `wanted` answer in the folders' files, as lines. What cannot be read is passed over."""
    found: dict[Key, str] = {}
    for folder in folders:
        for path in sorted(folder.rglob(REPLIES)):
            for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
                try:
                    one = json.loads(line)
                    key = (one["benchmark"], one["subset"], one["question_id"], one["repeat"])
                except (ValueError, KeyError, TypeError):
                    continue
                if key in wanted:
                    found[key] = line
    return "".join(found[key] + "\n" for key in sorted(found)).encode()


def _bounded(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters left out …]\n{text[-half:]}"
