"""Which process listens at a port of this machine, by what /proc says."""

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
    """The sockets that listen at `port`, as the links below /proc/PID/fd name them."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(f"socket:[{fields[9]}]")
    return found


def held(pids: Sequence[int]) -> set[str]:
    """What these processes have open, sockets among it; nothing of those that are not ours to look into."""
    found = set()
    for pid in pids:
        with suppress(OSError):
            for path in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    found.add(str(path.readlink()))
    return found


@cache
def owners_are_shown() -> bool:
    """Whether /proc says here which process listens where; not every sandbox does."""
    with socket.create_server(("127.0.0.1", 0)) as own:
        return bool(at(own.getsockname()[1]) & held([os.getpid()]))
