"""Publish to a directory, such as a network share: PLACE/NAME/TAG, written completely or not at all."""

from __future__ import annotations

import tempfile
from pathlib import Path

from flagrelease.errors import ConfigError, EnvironmentFault
from flagrelease.stages.publish import release_folder
from flagrelease.stages.publish.publisher import Place, Publisher, Shipment, Steps
from flagrelease.store.files import unfinished


class _Folder:
    def configured(self, place: Place) -> None:
        """Nothing is needed."""

    def check(self, place: Place) -> None:
        at = Path(place.at)
        nearest = next(path for path in (at, *at.parents) if path.exists())
        try:
            with tempfile.TemporaryDirectory(dir=nearest, prefix=unfinished()):
                pass
        except OSError as error:
            raise EnvironmentFault(
                f"{at} cannot be written",
                why=f"{nearest}: {error.strerror or error}",
                hint=f"make it writable for this user, or fix targets.{place.target} in matrix.yaml",
            ) from None

    def publish(self, shipment: Shipment, place: Place, steps: Steps) -> str:
        self.check(place)
        name = shipment.name(place)
        folder = Path(place.at, *name.split("/"), shipment.tag)
        if not folder.resolve().is_relative_to(Path(place.at).resolve()):
            raise ConfigError(f"{name!r} leads out of {place.at}", hint=f"fix targets.{place.target}.name")
        steps.begin("evidence")
        release_folder.write(folder, {n: path for n, path in shipment.files.items() if n != release_folder.SUMS})
        steps.begin("tag")
        if shipment.latest and not place.private:
            release_folder.point_latest(folder)
        return str(folder)


PUBLISHER: Publisher = _Folder()
