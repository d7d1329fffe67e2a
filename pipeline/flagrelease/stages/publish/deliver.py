"""Send a release to all targets of the matrix: one that fails does not keep the others from theirs."""

from __future__ import annotations

from collections.abc import Mapping

from flagrelease.config.targets import Target
from flagrelease.contract.results import Delivered
from flagrelease.errors import FlagreleaseError, worst
from flagrelease.ports.progress import Progress
from flagrelease.stages.publish.publisher import Place, Shipment, Steps
from flagrelease.stages.publish.targets import PUBLISHERS

__all__ = ["check", "configured", "failure", "places", "send"]


def places(targets: Mapping[str, Target], *, private: bool) -> tuple[Place, ...]:
    """The places of releases that passed or, with `private`, of those that did not."""
    return tuple(
        Place(target=name, settings=settings, at=at, private=private)
        for name, settings in targets.items()
        if (at := settings.place(private=private))
    )


def configured(targets: Mapping[str, Target]) -> None:
    """Raise ConfigError or EnvironmentFault if something for a target is missing on this side. Asks nobody."""
    for place in _all(targets):
        PUBLISHERS[place.settings.kind].configured(place)


def check(targets: Mapping[str, Target]) -> dict[str, FlagreleaseError]:
    """By place, why nothing can be written there now."""
    failed: dict[str, FlagreleaseError] = {}
    for place in _all(targets):
        try:
            PUBLISHERS[place.settings.kind].configured(place)
            PUBLISHERS[place.settings.kind].check(place)
        except FlagreleaseError as error:
            failed[f"targets.{place.target} ({place.at})"] = error
    return failed


def send(
    shipment: Shipment, to: tuple[Place, ...], progress: Progress
) -> tuple[tuple[Delivered, ...], dict[str, FlagreleaseError]]:
    """Publish to each place; return where the release is, and by target why it is not there."""
    done: list[Delivered] = []
    failed: dict[str, FlagreleaseError] = {}
    for place in to:
        steps = Steps(place.target, progress)
        try:
            with shipment.meter.waiting():
                where = PUBLISHERS[place.settings.kind].publish(shipment, place, steps)
        except FlagreleaseError as error:
            failed[place.target] = error
            steps.note(error.line())
        else:
            done.append(Delivered(target=place.target, place=where))
    return tuple(done), failed


def failure(cell: str, done: tuple[Delivered, ...], failed: Mapping[str, FlagreleaseError]) -> FlagreleaseError:
    """One error for all targets that failed, of the kind of the most severe one."""
    code = worst(error.exit_code for error in failed.values())
    name, severe = next((name, error) for name, error in failed.items() if error.exit_code == code)
    also = [f"{target}: {error.line()}" for target, error in failed.items() if target != name]
    hints = [f"{severe.hint}; " if severe.hint else "", "`flagrelease run` publishes only what is missing"]
    return type(severe)(
        f"{cell} is not published to {' and '.join(failed)}",
        why=severe.line(),
        hint="".join(hints),
        detail="\n".join([*also, *(f"{one.target}: published, {one.place}" for one in done)]),
    )


def _all(targets: Mapping[str, Target]) -> tuple[Place, ...]:
    return (*places(targets, private=False), *places(targets, private=True))
