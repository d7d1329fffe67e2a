"""Find the process that listens on a port of this machine, through /proc."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

_LISTEN = "0A"
"""TCP_LISTEN in /proc/net/tcp."""


def at(port: int) -> set[str]:
    """The sockets that listen on `port`, named like the links in /proc/PID/fd."""
    sockets = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{fields[9]}]")
    return sockets


def held(pids: Sequence[int]) -> set[str]:
    """The files and sockets that these processes have open, except those of processes we may not inspect."""
    opened = set()
    for pid in pids:
        with suppress(OSError):
            for path in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    opened.add(str(path.readlink()))
    return opened


@cache
def owners_are_shown() -> bool:
    """Whether /proc shows which process listens on a port; not in every sandbox."""
    with socket.create_server(("127.0.0.1", 0)) as own:
        return bool(at(own.getsockname()[1]) & held([os.getpid()]))
