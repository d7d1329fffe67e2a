"""Check that the source of the weights still offers the files that were released, and that the model's page exists."""

from __future__ import annotations

import tempfile
from pathlib import Path

from flagrelease.config.lockfile import LockedFile
from flagrelease.config.sources import SOURCES, Source
from flagrelease.errors import HubAbsent, HubUnavailable
from flagrelease.ports.clock import SystemClock
from flagrelease.ports.command import run
from flagrelease.ports.hub import OPENERS
from flagrelease.ports.hub.listing import Listing
from flagrelease.ports.hub.watch import Cancelled, Watch
from flagrelease.ports.progress import Silent
from flagrelease.releases.rot import Check
from flagrelease.watching.subject import Look, Weights, holds, not_checked, rotten

__all__ = ["link", "page_of", "place_of", "weights"]

_LISTED = ("hf", "modelscope")
"""Sources whose listing costs no download."""
_HINT = "name another source in matrix.yaml, lock and release again; yank this release if users cannot get its weights"


class _Impatient(Watch):
    """Gives up once pauses between attempts would take longer than `patience` seconds altogether."""

    def __init__(self, patience: float) -> None:
        super().__init__("", None, Silent(), SystemClock())
        self.said = ""
        self._left = patience

    def note(self, text: str) -> None:
        self.said = text.rpartition("; retrying")[0] or text

    def sleep(self, seconds: float) -> None:
        self._left -= seconds
        if self._left < 0:
            raise Cancelled
        super().sleep(seconds)


def _listing(source: Source, revision: str, look: Look) -> Listing:
    """The files of a source. Raises HubAbsent if it is gone, and other errors if it does not say."""
    watch = _Impatient(look.patience)
    with tempfile.TemporaryDirectory(prefix="flagrelease-watch-") as folder:
        try:
            return OPENERS[source.scheme](source, revision, Path(folder), run).listing(Path(folder), watch)
        except Cancelled:
            raise HubUnavailable(watch.said or f"{source.name} does not answer") from None


def place_of(pinned: Weights) -> str:
    """The source with its revision."""
    return f"{pinned.source} at {pinned.revision}" if pinned.revision not in pinned.source else pinned.source


def weights(pinned: Weights, look: Look) -> Check:
    """Compare what the source lists at the pinned revision with the files of the release."""
    source, place = Source.parse(pinned.source), place_of(pinned)
    if source.scheme not in _LISTED and not look.deep:
        why = "its files are on this machine" if source.scheme == "file" else "it lists no sha256 of the files"
        return not_checked("weights", place, why, hint="--deep reads them")
    try:
        listing = _listing(source, pinned.revision, look)
    except HubAbsent as error:
        return rotten("weights", place, "the weights are no longer there", why=error.line(), hint=_HINT)
    return _compared(pinned.fetched, listing, place)


def _compared(files: tuple[LockedFile, ...], listing: Listing, place: str) -> Check:
    now = {file.path: file for file in listing.files}
    gone = [file.path for file in files if file.path not in now]
    known = [file for file in files if file.path in now and now[file.path].sha256]
    other = [file.path for file in known if now[file.path].sha256 != file.sha256]
    if gone or other:
        listed = [*(f"{path} is gone" for path in gone), *(f"{path} has another sha256" for path in other)]
        why = "; ".join(listed[:3]) + (f" and {len(listed) - 3} more" if listed[3:] else "")
        what = f"{len(listed)} of {len(files)} files are not those of the release"
        return rotten("weights", place, what, why=why, hint=_HINT)
    resized = [file.path for file in files if now[file.path].size not in (0, file.size)]
    if resized:
        return rotten("weights", place, "files have another size", why=", ".join(resized[:3]), hint=_HINT)
    unknown = len(files) - len(known)
    rest = f"; of {unknown} more the hub lists no sha256, only the size" if unknown else ""
    return holds("weights", place, f"{len(known)} of {len(files)} files have the locked sha256{rest}")


def page_of(pinned: Weights, upstream: str) -> tuple[Source, str]:
    """The repository that the card names as the model's, and the address of its page."""
    page = SOURCES[Source.parse(pinned.source).scheme].page
    hub = next(name for name in _LISTED if SOURCES[name].page == page)
    return Source(scheme=hub, name=upstream), page.replace("{upstream}", upstream)


def link(source: Source, page: str, look: Look) -> Check:
    """Whether the model's page that the card names exists."""
    try:
        _listing(source, "", look)
    except HubAbsent as error:
        hint = "name the model's new page as `upstream` in matrix.yaml and release again"
        return rotten("link", page, "the card names a page that does not exist", why=error.line(), hint=hint)
    return holds("link", page, "the page that the card names exists")
