"""Check the copy of a release on a model hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flagrelease.config.targets import Target
from flagrelease.contract.results import Delivered
from flagrelease.ports.hub import write_huggingface, write_modelscope
from flagrelease.ports.hub.writer import Content, HubWriter, differing
from flagrelease.releases.rot import Check
from flagrelease.stages.card.files import README
from flagrelease.stages.publish.release_folder import SUMS
from flagrelease.store.digests import sha256_of
from flagrelease.watching.subject import Inspect, Look, Step, Subject, holds, not_checked, rotten

__all__ = ["huggingface", "modelscope"]


def _inspect(opened: Callable[[], HubWriter]) -> Inspect:
    def inspect(subject: Subject, copy: Delivered, target: Target, look: Look) -> Sequence[Step]:  # noqa: ARG001
        writer = opened()
        repository = writer.repository(copy.place)
        if not repository:
            why = f"{copy.place} is a page of another hub than the one that is set up now"
            return [Step(check="copy", make=lambda: not_checked("copy", copy.place, why))]
        place = _Copy(subject, writer, repository, copy.place)
        newest = [Step(check="card", make=place.card)] if subject.latest else []
        return [Step(check="copy", make=place.tagged, decides=True), *newest]

    return inspect


class _Copy:
    def __init__(self, subject: Subject, writer: HubWriter, repository: str, page: str) -> None:
        self._subject = subject
        self._writer = writer
        self._repository = repository
        self._page = page
        self._again = f"`flagrelease run {subject.cell} --force publish` publishes it again"

    def tagged(self) -> Check:
        """The files at the tag of the release."""
        content = self._writer.at(self._repository, self._subject.tag)
        if content is None:
            gone = self._writer.at(self._repository) is None
            what = f"{self._repository} no longer exists" if gone else f"{self._repository} has no tag of the release"
            why = "the hub does not know it" if gone else self._subject.tag
            return rotten("copy", self._page, what, why=why, hint=self._again)
        if content.private:
            why, hint = "nobody else sees it", "make it public on the hub"
            return rotten("copy", self._page, f"{self._repository} is private", why=why, hint=hint)
        return self._compared("copy", content, self._files())

    def card(self) -> Check:
        """The card that the hub shows: that of the newest revision."""
        content = self._writer.at(self._repository)
        files = {path: file for path, file in self._files().items() if path == README}
        if content is None or not files:
            return not_checked("card", self._page, f"there is no {README} to compare with")
        return self._compared("card", content, files)

    def _compared(self, check: str, content: Content, files: Mapping[str, Path]) -> Check:
        if not files:
            why = f"{self._subject.folder} is missing, with which it would be compared"
            return not_checked(check, self._page, why)
        if other := differing(content, files, _sums(self._subject.folder)):
            more = f" and {len(other) - 1} more" if other[1:] else ""
            what = "the tag names other files" if check == "copy" else "the card on the hub is another"
            then = (
                "put the release's back" if check == "card" else f"after the tag is removed on the hub, {self._again}"
            )
            hint = f"find out who changed it; {then}"
            return rotten(check, self._page, what, why=f"{other[0]}{more}", hint=hint)
        return holds(check, self._page, f"{len(files)} file{'s' * (len(files) != 1)} as published")

    def _files(self) -> dict[str, Path]:
        sums = _sums(self._subject.folder)
        return {path: self._subject.folder / path for path in sums if (self._subject.folder / path).is_file()}


def _sums(folder: Path) -> dict[str, str]:
    """The sha256 of each file of the release, by path; empty if the folder is missing."""
    try:
        data = (folder / SUMS).read_bytes()
    except OSError:
        return {}
    lines = (line.split("  ", 1) for line in data.decode(errors="replace").splitlines() if "  " in line)
    return {**{name: digest for digest, name in lines}, SUMS: sha256_of(data)}


huggingface = _inspect(lambda: write_huggingface.opened(reads_only=True))
modelscope = _inspect(lambda: write_modelscope.opened(reads_only=True))
