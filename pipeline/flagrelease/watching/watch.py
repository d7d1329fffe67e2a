"""Watch published releases: everything that is asked, by release, in parallel and within deadlines."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from flagrelease.config.targets import Target
from flagrelease.errors import ConfigError
from flagrelease.ports.registry import OciRegistry
from flagrelease.releases.rot import Check
from flagrelease.watching import folder, hub, parallel, registry
from flagrelease.watching import weights as sources
from flagrelease.watching.subject import Inspect, Look, Step, Subject, made, not_checked, silent

__all__ = ["INSPECTORS", "watch"]

INSPECTORS: Mapping[str, Inspect] = {
    "folder": folder.inspect,
    "huggingface": hub.huggingface,
    "modelscope": hub.modelscope,
    "registry": registry.inspect,
}
"""By kind of target (the keys of TARGETS)."""
_WORKERS = 8


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What is asked at one place, for one release or for several."""

    subjects: list[int]
    """The numbers of the releases."""
    check: str
    """The check that stands for it if it takes too long."""
    place: str
    """Where."""
    work: Callable[[], list[Check]] = field(repr=False)
    """Asks."""


def watch(
    subjects: Sequence[Subject],
    targets: Mapping[str, Target],
    own: Callable[[str], OciRegistry],
    look: Look,
    *,
    seconds: float,
) -> list[list[Check]]:
    """The checks of each release. `own` opens the registry of the releases at a host; each place gets `seconds`."""
    parts = [*_images(subjects, targets, own, look), *_sources(subjects, look)]
    late = f"no answer within {seconds:.0f} s"
    found = parallel.all_of(
        [part.work for part in parts],
        lambda number: [silent(parts[number].check, parts[number].place, late)],
        workers=_WORKERS,
        seconds=seconds,
    )
    by_subject: list[list[Check]] = [[] for _ in subjects]
    for part, checks in zip(parts, found, strict=True):
        for number in part.subjects:
            by_subject[number] += checks
    return by_subject


def _images(
    subjects: Sequence[Subject], targets: Mapping[str, Target], own: Callable[[str], OciRegistry], look: Look
) -> Iterator[_Part]:
    clients: dict[str, OciRegistry] = {}
    for number, subject in enumerate(subjects):
        host = subject.repository.partition("/")[0]
        if host not in clients:
            clients[host] = own(host)
        again = f"`flagrelease run {subject.cell} --force image` builds and pushes it again"
        image = functools.partial(registry.steps, subject, subject.repository, clients[host], look, again=again)
        yield _part(number, "image", subject.repository, image)
        for copy in subject.copies:
            target = targets.get(copy.target)
            if target is None:
                why = f"targets.{copy.target} is no longer in matrix.yaml"
                gone = not_checked("copy", copy.place, why)
                yield _known(number, gone)
                continue
            place = copy.place.rpartition(":")[0] if target.kind == "registry" else copy.place
            check = "image" if target.kind == "registry" else "copy"
            yield _part(number, check, place, functools.partial(INSPECTORS[target.kind], subject, copy, target, look))


def _known(number: int, check: Check) -> _Part:
    return _Part(subjects=[number], check=check.check, place=check.place, work=lambda: [check])


def _part(number: int, check: str, place: str, steps: Callable[[], Sequence[Step]]) -> _Part:
    return _Part(subjects=[number], check=check, place=place, work=lambda: made(check, place, steps))


def _sources(subjects: Sequence[Subject], look: Look) -> Iterator[_Part]:
    """Weights and pages, each asked once for all releases that have it."""
    found: dict[object, _Part] = {}
    for number, subject in enumerate(subjects):
        for name, part in _of_record(number, subject, look):
            if name in found:
                found[name].subjects.append(number)
            else:
                found[name] = part
    yield from found.values()


def _of_record(number: int, subject: Subject, look: Look) -> Iterator[tuple[object, _Part]]:
    try:
        if subject.pins is None:
            raise ConfigError("its record is lost, or written by another version")
        pinned = subject.pins.weights
        page = sources.page_of(pinned, subject.pins.model.upstream)
    except ConfigError as error:
        lost = not_checked("weights", subject.image, error.line())
        yield number, _known(number, lost)
        return
    steps = [Step(check="weights", make=lambda: sources.weights(pinned, look))]
    yield pinned, _part(number, "weights", sources.place_of(pinned), lambda: steps)
    pages = [Step(check="link", make=lambda: sources.link(*page, look))]
    yield page, _part(number, "link", page[1], lambda: pages)
