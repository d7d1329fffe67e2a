"""Publish to another registry: the image and what is attached to it are copied by digest, and tagged last.

No layer is packed or compressed again, so that the digest that was evaluated is the one that users pull, and its
signatures hold there as well.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from flagrelease.config import names
from flagrelease.errors import ConfigError, RegistryDenied
from flagrelease.ports.credentials import Logins
from flagrelease.ports.registry import OciRegistry, referrers
from flagrelease.ports.registry.transfer import Transfer
from flagrelease.ports.retry import Backoff
from flagrelease.stages.publish import attach
from flagrelease.stages.publish.publisher import Place, Publisher, Shipment, Steps
from flagrelease.stages.publish.release_folder import LATEST

_IMPATIENT = Backoff(first=0.5, budget=3.0)


class _Registry:
    def configured(self, place: Place) -> None:
        prefix = variables(place.target)
        halves = [name for name in (f"{prefix}_USER", f"{prefix}_PASSWORD") if os.environ.get(name, "").strip()]
        if len(halves) == 1:
            raise ConfigError(
                f"the credentials of targets.{place.target} are incomplete",
                why=f"only {halves[0]} is set",
                hint=f"set {prefix}_USER and {prefix}_PASSWORD, or none of them and `docker login`",
            )
        if place.settings.ca and not Path(place.settings.ca).is_file():
            why = f"{place.settings.ca} is not a file"
            hint = f"fix targets.{place.target}.ca in matrix.yaml"
            raise ConfigError(
                f"the certificate of the authority of targets.{place.target} is missing", why=why, hint=hint
            )

    def check(self, place: Place) -> None:
        client(place, _IMPATIENT).check_push(f"{place.at}/preflight")

    def publish(self, shipment: Shipment, place: Place, steps: Steps) -> str:
        image, tag = shipment.release.image, shipment.tag
        target, repository = client(place), f"{place.at}/{names.repository(shipment.name(place))}"

        def moved(count: int) -> None:
            shipment.meter.moved += count

        way = Transfer(
            source=shipment.registry,
            source_repository=image.repository,
            target=target,
            target_repository=repository,
            clock=shipment.clock,
            moved=moved,
            note=steps.note,
        )
        try:
            steps.begin("blobs")
            way.image(image.digest)
            steps.begin("evidence")
            if place.private:
                # The registry of the releases has nothing attached to an image that did not pass.
                for artifact in attach.artifacts(shipment.release, tag, shipment.files):
                    referrers.attach(target, repository, image.digest, artifact)
            else:
                way.attached(image.digest)
            steps.begin("tag")
            for name in (tag, LATEST) if shipment.latest and not place.private else (tag,):
                target.tag(repository, image.digest, name)
        except RegistryDenied as error:
            if error.what.endswith(repository):
                error.hint = _access_hint(place)
            raise
        return f"{repository}:{tag}"


def client(place: Place, backoff: Backoff | None = None, seconds: float | None = None) -> OciRegistry:
    """A client with the target's credentials and authority; `seconds` of silence end an attempt."""
    host = place.at.partition("/")[0]
    known = Logins(targets={host: variables(place.target)} if _bound(place) else {})
    authorities = {host: Path(place.settings.ca)} if place.settings.ca else {}
    limits: dict[str, Any] = {"backoff": backoff, "seconds": seconds}
    return OciRegistry(known=known, authorities=authorities, **{n: limit for n, limit in limits.items() if limit})


def variables(target: str) -> str:
    """The prefix of the variables with the credentials of a target."""
    return f"FLAGRELEASE_TARGET_{re.sub('[^A-Z0-9]', '_', target.upper())}"


def _bound(place: Place) -> bool:
    """Whether the target's credentials are for this place: they are for the host of `to` alone."""
    return place.at.partition("/")[0] == place.settings.to.partition("/")[0]


def _access_hint(place: Place) -> str:
    host, prefix = place.at.partition("/")[0], variables(place.target)
    login = f"`docker login {host}` with an account that may push there"
    return f"set {prefix}_USER and {prefix}_PASSWORD, or {login}" if _bound(place) else login


PUBLISHER: Publisher = _Registry()
