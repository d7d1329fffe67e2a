"""Point `latest` at the newest release of a cell that is not yanked, wherever it names one of the cell's releases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from flagrelease.contract.results import Publish
from flagrelease.errors import FlagreleaseError
from flagrelease.ports.credentials import Logins
from flagrelease.ports.registry import OciRegistry
from flagrelease.ports.retry import Backoff
from flagrelease.run.cell_state import image_of, own_tag
from flagrelease.run.project import Project
from flagrelease.stages.publish.publisher import Place
from flagrelease.stages.publish.release_folder import LATEST, point_latest
from flagrelease.stages.publish.targets.registry import client

__all__ = ["Pointed", "point"]

_PATIENCE = Backoff(first=0.2, budget=0.5)
_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Pointed:
    """`latest` at one place."""

    place: str
    """REPOSITORY:latest, or the path of the link."""
    moved: bool
    """Whether it names another release than before."""
    tag: str = ""
    """The release that it names now; empty if that is not known."""
    why: str = ""
    """Why it was not moved, if it should have been."""
    hint: str = ""
    """What to do then."""


def point(project: Project, cell: str) -> list[Pointed]:
    """Every place where `latest` was, or should have been, moved. None if no release is left that it could name."""
    published, yanked = project.publications(cell), project.yanks(cell)
    usable = [result for tag, result in published.items() if tag not in yanked]
    if not usable:
        return []
    newest = usable[-1]
    found = [*_registries(project, published, newest), *_folders(project, published, newest)]
    return [each for each in found if each.moved or each.why]


def _registries(project: Project, published: Mapping[str, Publish], newest: Publish) -> Iterator[Pointed]:
    repository = image_of(newest).partition("@")[0]
    own = OciRegistry(known=Logins(own=project.registry.partition("/")[0]), backoff=_PATIENCE, seconds=_SECONDS)
    yield _pointed(own, repository, published, newest)
    for copy in newest.targets:
        target = project.matrix.targets.get(copy.target)
        if target is not None and target.kind == "registry":
            place = Place(target=copy.target, settings=target, at=target.to, private=False)
            registry = client(place, _PATIENCE, _SECONDS)
            yield _pointed(registry, copy.place.rpartition(":")[0], published, newest)


def _pointed(registry: OciRegistry, repository: str, published: Mapping[str, Publish], newest: Publish) -> Pointed:
    place, tag = f"{repository}:{LATEST}", own_tag(newest)
    try:
        named = registry.digest(repository, LATEST)
        if named == newest.digest or named not in {result.digest for result in published.values()}:
            return Pointed(place=place, moved=False, tag=tag if named == newest.digest else "")
        registry.tag(repository, newest.digest, LATEST)
    except FlagreleaseError as error:
        hint = (
            f"`oras tag {repository}@{newest.digest} {LATEST}` moves it; `flagrelease watch` says whether it has to be"
        )
        return Pointed(place=place, moved=False, why=error.line(), hint=hint)
    return Pointed(place=place, moved=True, tag=tag)


def _folders(project: Project, published: Mapping[str, Publish], newest: Publish) -> Iterator[Pointed]:
    folders = [project.workspace.root / newest.folder]
    folders += [Path(copy.place) for copy in newest.targets if copy.place.startswith("/")]
    for folder in folders:
        link, tag = folder.parent / LATEST, own_tag(newest)
        try:
            named = link.readlink().name
            if named != folder.name and named in published and folder.is_dir():
                point_latest(folder)
                yield Pointed(place=str(link), moved=True, tag=tag)
        except FileNotFoundError:
            continue
        except OSError as error:
            why = error.strerror or str(error)
            yield Pointed(place=str(link), moved=False, why=why, hint=f"make it a link to {folder.name}")
