"""Read the event stream (server-sent events) of a completions endpoint. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

from flagrelease.errors import error_words

__all__ = ["DONE", "EventStream", "ReportedError", "event"]

DONE = "[DONE]"
"""The data after the last event."""

_LINE_END = re.compile(rb"[\r\n]")  # between the two of a CRLF is an empty line, which has no data
_HEAD = 4096
"""More bytes than an error document has."""


class ReportedError(ValueError):
    """The server reports an error instead of an event; the text has its words."""


class EventStream:
    """Splits the bytes of a stream into the data of its events, however they are divided into blocks.

    A line ends at CR, LF or CRLF only: the other line ends of str.splitlines, such as U+2028, are part of the data. The
    data of each `data:` line is an event, so that one without an empty line after it counts.
    """

    def __init__(self) -> None:
        self._line = bytearray()
        self._events = False
        self._head = b""

    @property
    def document(self) -> bytes:
        """The beginning of a body that is a JSON object instead of events, as of an error; empty if it is not one."""
        return b"" if self._events or not self._head.lstrip().startswith(b"{") else self._head

    def feed(self, block: bytes) -> list[str]:
        """The data of the events that the block completes."""
        if not self._events:
            self._head = (self._head + block)[:_HEAD]
        first, *others = _LINE_END.split(block)
        self._line += first
        found = []
        for line in others:
            found += self.end()
            self._line += line
        return found

    def end(self) -> list[str]:
        """The data of the last line, which may have no end."""
        line, self._line = self._line.decode(errors="replace"), bytearray()
        name, _, text = line.partition(":")
        data = text.strip()
        if name == "error" and data:
            # How older versions of llama.cpp's server report an error; the standard has no such field.
            data = json.dumps({"error": data})
        if name not in ("data", "error") or not data:
            return []
        self._events = True
        return [data]


def event(data: str) -> dict[str, Any]:
    """The JSON object of an event. Raises ReportedError, or ValueError if it is not an object with `choices`."""
    try:
        found = json.loads(data)
    except RecursionError:
        raise ValueError("the JSON of an event is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"an event is not a JSON object: {data[:100]!r}")
    if found.get("error") or not isinstance(found.get("choices"), list):
        words = error_words(found) or (data[:200] if found.get("error") else "")
        if words:
            raise ReportedError(f"the server reports an error: {words}")
        raise ValueError(f"an event has no choices: {data[:100]!r}")
    return found
