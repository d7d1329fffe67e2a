"""Redact what a verb writes to standard output and standard error, and go on if nobody reads it any longer."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

from flagrelease.redact import redact

__all__ = ["redacted_output"]


class _Redacted:
    """A text stream that redacts each text before it is written; all else is the stream's own.

    If its reader has closed the pipe (`flagrelease run … | head`), the rest is written nowhere: the verb does its work,
    and its exit code is that of the work.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(redact(text))
        except BrokenPipeError:
            self._forsake()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._forsake()

    def _forsake(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def redacted_output() -> Iterator[None]:
    """Standard output and standard error redact until the end, for all verbs and the libraries that print."""
    out, err = (cast("TextIO", _Redacted(stream)) for stream in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(err):
        yield
