"""What a target is given, and what its publisher can do."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

from flagrelease.config import names
from flagrelease.config.targets import Target
from flagrelease.ports.clock import Clock
from flagrelease.ports.meter import Meter
from flagrelease.ports.progress import Progress
from flagrelease.ports.registry import Registry
from flagrelease.stages.card import facts
from flagrelease.stages.card.record import Record

__all__ = ["Place", "Publisher", "Shipment", "Step", "Steps"]

Step = Literal["blobs", "evidence", "card", "tag", "index"]
"""The steps of every publisher, in this order: nothing is visible before everything that it refers to is there."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a target puts a release."""

    target: str
    """The target's name in matrix.yaml."""
    settings: Target
    """Its entry."""
    at: str
    """The place, in the form of its kind."""
    private: bool
    """Whether it is for releases that did not pass."""


@dataclass(frozen=True, kw_only=True)
class Shipment:
    """A release on its way to the targets."""

    release: Record
    """Its record."""
    tag: str
    """The tag of the release."""
    files: Mapping[str, Path]
    """Everything that belongs to it, by path in its folder, with the list of sha256 sums."""
    registry: Registry
    """The registry that has its image."""
    clock: Clock
    """Time and sleep, for retries."""
    meter: Meter
    """Counts what is sent."""
    latest: bool = True
    """Whether `latest` names it from now on."""

    def name(self, place: Place) -> str:
        """The release's name at a place, by the template of the target. Raises the registry's errors."""
        template = place.settings.template
        fields = {**facts.name_fields(self.release), "tag": self.tag, "record": self.tag.rpartition("-")[2]}
        return names.render(template, {**fields, "arch": self._architecture() if "{arch}" in template else ""})

    def _architecture(self) -> str:
        """The architecture in the image's configuration, such as amd64; `none` if there is none."""
        image = self.release.image
        manifest = json.loads(self.registry.manifest(image.repository, image.digest).body)
        if "config" not in manifest:
            return "none"
        config = json.loads(self.registry.blob(image.repository, str(manifest["config"]["digest"])))
        return str(config.get("architecture") or "none")


class Steps:
    """Shows the steps of one publisher, and holds them to their order."""

    def __init__(self, target: str, progress: Progress) -> None:
        self._target = target
        self._progress = progress
        self._at = 0

    def begin(self, step: Step) -> None:
        """Begin a step. Steps may be left out, and none comes after a later one."""
        at = get_args(Step).index(step)
        if at < self._at:
            raise AssertionError(f"{self._target}: {step} comes too late")
        self._at = at
        self._progress.doing(f"publishing to {self._target}: {step}")

    def again(self, attempt: Callable[[], str]) -> str:
        """Another attempt at the same steps, from the first one."""
        self._at = 0
        return attempt()

    def note(self, text: str) -> None:
        """Print a line for the user."""
        self._progress.note(f"{self._target}: {text}")


class Publisher(Protocol):
    """One kind of target. Publishing is idempotent by digest: what is there already is not sent again."""

    def configured(self, place: Place) -> None:
        """Raise ConfigError or EnvironmentFault if something is missing on this side, such as a token. Asks nobody."""
        ...

    def check(self, place: Place) -> None:
        """Raise a FlagreleaseError unless this user may write there now."""
        ...

    def publish(self, shipment: Shipment, place: Place, steps: Steps) -> str:
        """Publish the release, and return where it is. Raises FlagreleaseError."""
        ...
