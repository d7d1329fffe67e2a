"""What the tests of hubs share: a hub with files, and a fetch as the weights stage does it."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field
from pathlib import Path

from flagrelease.config.lockfile import LockedModel, set_digest
from flagrelease.ports.clock import SystemClock
from flagrelease.ports.hub import RealHubs
from flagrelease.ports.hub.listing import Listing
from flagrelease.ports.meter import Meter
from flagrelease.ports.progress import Count
from support.hub_stand_in import HubStandIn
from support.model_files import safetensors_of


def some_bytes(count: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(count)


def fill(hub: HubStandIn) -> dict[str, bytes]:
    """A small model: two shards, one in a folder, and the files around them."""
    hub.files = {
        "config.json": b'{"architectures": ["Toy"]}',
        "model-00001-of-00002.safetensors": safetensors_of(some_bytes(3_000_000, 1)),
        "model-00002-of-00002.safetensors": safetensors_of(some_bytes(1_500_000, 2)),
        "onnx/model.onnx": some_bytes(400_000, 3),
    }
    return hub.files


@dataclass
class Seen:
    """A progress that remembers."""

    lines: list[tuple[str, Count | None]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def doing(self, text: str, count: Count | None = None) -> None:
        self.lines.append((text, count))

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclass
class Fetch:
    """Resolve and fetch with the real clients."""

    into: Path
    progress: Seen = field(default_factory=Seen)
    meter: Meter = field(default_factory=lambda: Meter(SystemClock()))
    hubs: RealHubs = field(default_factory=RealHubs)

    def lock(self, source: str) -> LockedModel:
        return locked(self.hubs.resolve(source, self.progress))

    def run(self, model: LockedModel) -> int:
        return self.hubs.fetch(model, self.into, self.progress, self.meter)

    def there(self) -> dict[str, bytes]:
        found = {}
        for path in self.into.rglob("*"):
            if path.is_file():
                found[path.relative_to(self.into).as_posix()] = path.read_bytes()
        return found


def locked(listing: Listing) -> LockedModel:
    return LockedModel(
        source=listing.source,
        revision=listing.revision,
        files=listing.files,
        digest=set_digest(listing.files),
        archive=listing.archive,
        unverified=listing.unverified,
    )


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
