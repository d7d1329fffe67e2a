"""Publish to a model hub: the card and the evidence in one commit, then a tag.

What the hub has is compared by digest, so that only what differs is sent. Files that others put into the repository,
such as the weights, stay; of our own, evidence of an earlier release is removed from the newest revision, and its tag
keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from flagrelease.config import names
from flagrelease.errors import HubRefused
from flagrelease.ports.hub.writer import Content, HubWriter, differing
from flagrelease.ports.retry import Backoff, retry
from flagrelease.stages.publish.publisher import Place, Shipment, Steps
from flagrelease.stages.publish.release_folder import SUMS
from flagrelease.store.digests import sha256_of

_BACKOFF = Backoff(first=2.0, most=60.0, budget=180.0)
_EVIDENCE = "evidence/"


class HubPublisher:
    """Publishes with the writer of one hub."""

    def __init__(self, opened: Callable[[], HubWriter]) -> None:
        self._opened = opened

    def configured(self, place: Place) -> None:  # noqa: ARG002  the same for all places
        self._opened()

    def check(self, place: Place) -> None:
        self._opened().check(place.at)

    def publish(self, shipment: Shipment, place: Place, steps: Steps) -> str:
        repository, tag = f"{place.at}/{names.hub(shipment.name(place))}", shipment.tag
        writer, files = self._opened(), dict(shipment.files)
        sums = _sums(files[SUMS])

        def attempt() -> str:
            steps.begin("blobs")
            if _tagged(writer, repository, tag, files, sums):
                return writer.page(repository, tag)
            head = _head(writer, repository, shipment, place, steps)
            changed = differing(head, files, sums)
            gone = [path for path in head.digests if path.startswith(_EVIDENCE) and path not in files]
            if changed or gone:
                upload = writer.upload(repository, {path: files[path] for path in changed})
                steps.begin("card")  # with the evidence: nobody sees one without the other
                upload.commit(gone, f"Release {tag}", head.commit)
                head = writer.at(repository) or head
            steps.begin("tag")
            writer.tag(repository, tag, head.commit)
            if not _tagged(writer, repository, tag, files, sums):
                raise HubRefused(f"{repository} has no tag {tag} after it was set", hint="look at the hub's page of it")
            return writer.page(repository, tag)

        return retry(lambda: steps.again(attempt), _BACKOFF, shipment.clock, steps.note)


def _tagged(writer: HubWriter, repository: str, tag: str, files: Mapping[str, Path], sums: Mapping[str, str]) -> bool:
    """Whether the release is there. Raises HubRefused if its tag names something else."""
    content = writer.at(repository, tag)
    if content is None:
        return False
    if other := differing(content, files, sums):
        raise HubRefused(
            f"the tag {tag} of {repository} is taken",
            why=f"{other[0]} has another content there" + (f", and {len(other) - 1} more files" if other[1:] else ""),
            hint="a published tag is never moved: find out who moved this one, and remove it on the hub",
        )
    return True


def _head(writer: HubWriter, repository: str, shipment: Shipment, place: Place, steps: Steps) -> Content:
    """The newest revision of the repository, which is created if there is none."""
    content = writer.at(repository)
    if content is None:
        writer.create(repository, private=place.private, license_id=shipment.release.model.license)
        content = writer.at(repository)
    if content is None:
        raise HubRefused(f"{repository} is not there after it was created", hint="look at the hub's page of it")
    if place.private and not content.private:
        raise HubRefused(
            f"{repository} is public, and this release did not pass",
            hint=f"make it private on the hub, or name another place in targets.{place.target}.private",
        )
    if content.private and not place.private:
        steps.note(f"{repository} is private on the hub, so nobody else sees this release")
    return content


def _sums(listed: Path) -> dict[str, str]:
    data = listed.read_bytes()
    lines = (line.split("  ", 1) for line in data.decode().splitlines())
    return {**{name: digest for digest, name in lines}, SUMS: sha256_of(data)}
