"""A different canary in each credential, and a search for them wherever they could come out."""

from __future__ import annotations

import base64
import gzip
import json
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, quote_plus

_BLOCK = 1 << 20
_GZIP = b"\x1f\x8b"


def forms(name: str, secret: str) -> dict[bytes, str]:
    """What a secret may look like, and what it is then called."""
    texts = {
        "plain": secret,
        "in a URL": quote(secret, safe=""),
        "in a form": quote_plus(secret),
        "in JSON": json.dumps(secret)[1:-1],
    }
    found = {text.encode(): f"{name}, {form}" for form, text in texts.items()}
    for user in ("", "canary:", "robot:"):
        # The last letters depend on what follows.
        found[base64.b64encode(f"{user}{secret}".encode()).rstrip(b"=")[:-2]] = f"{name}, in base64"
    return found


@dataclass
class Canaries:
    """`secrets` by the name of where they were put."""

    secrets: Mapping[str, str]
    seen: set[str] = field(default_factory=set)
    searched: int = 0

    def __post_init__(self) -> None:
        self._forms = {
            form: what for name, secret in self.secrets.items() for form, what in forms(name, secret).items()
        }
        self._longest = max(map(len, self._forms))

    def search(self, where: str, data: bytes) -> None:
        self.searched += 1
        self.seen |= {f"{what}: {where}" for form, what in self._forms.items() if form in data}

    def search_file(self, path: Path) -> None:
        """Also inside, if it is compressed, as layers are."""
        with path.open("rb") as file:
            compressed = file.read(2) == _GZIP
            file.seek(0)
            self._search_blocks(str(path), iter(lambda: file.read(_BLOCK), b""))
        if compressed:
            with suppress(EOFError, OSError, zlib.error), gzip.open(path) as layer:
                self._search_blocks(f"{path}, unpacked", iter(lambda: layer.read(_BLOCK), b""))

    def _search_blocks(self, where: str, blocks: Iterator[bytes]) -> None:
        rest = b""
        for block in blocks:
            self.search(where, rest + block)
            rest = block[-self._longest :]

    def search_folder(self, folder: Path, *, but: frozenset[str] = frozenset()) -> None:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.name not in but:
                self.search_file(path)

    @contextmanager
    def watching_processes(self, allowed: bytes) -> Iterator[None]:
        """Search command lines and environments of all processes while the block runs, but the environments of those
        whose command line contains `allowed`."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.1):
                for process in Path("/proc").glob("[0-9]*"):
                    self._look_at(process, allowed)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def _look_at(self, process: Path, allowed: bytes) -> None:
        with suppress(OSError):
            line = (process / "cmdline").read_bytes()
            self.search(f"command line {line[:200]!r}", line)
            if allowed not in line:
                environment = (process / "environ").read_bytes()
                # A child that was forked and has not replaced its program shows its parent's for a moment.
                time.sleep(0)
                if (process / "cmdline").read_bytes() == line:
                    self.search(f"environment of {line[:200]!r}", environment)
