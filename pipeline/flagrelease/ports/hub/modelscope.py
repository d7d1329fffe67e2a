"""modelscope://: the hub through its own client, modelscope-hub.

The client resumes, retries and honours Retry-After, but it trusts the hub: it writes wherever a listed name leads,
and does not check a file for which the hub lists no sha256. So it is only given names that were checked, and what it
leaves on disk is hashed by us. MODELSCOPE_ENDPOINT and MODELSCOPE_API_TOKEN are its own variables.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flagrelease.config.lockfile import LockedFile
from flagrelease.config.sources import Source
from flagrelease.errors import Corrupt, FlagreleaseError, HubRefused, HubUnavailable
from flagrelease.ports.hub.listing import Listing, check_names, is_commit
from flagrelease.ports.hub.watch import Cancelled, Watch

if TYPE_CHECKING:
    from modelscope_hub import HubApi

_DEFAULT_REVISION = "master"
_SYMLINK = "120000"  # the mode that git gives a symbolic link
_LISTING_SECONDS = 300.0
# Read by the client, and by tqdm, when they are imported: our line shows the progress; a shard of a large model takes
# longer than the client's default of an hour on a slow line; a listing that needs more requests is refused anyway.
_SETTINGS = {
    "TQDM_DISABLE": "1",
    "MODELSCOPE_DOWNLOAD_TOTAL_TIMEOUT": "86400",
    "MODELSCOPE_REPO_TREE_MAX_REQUESTS": "200",
}


class ModelScope:
    """One repository at one revision. `cache` is where the client keeps its lock files."""

    def __init__(self, source: Source, revision: str, cache: Path) -> None:
        self._source = source
        self._revision = revision or source.revision or _DEFAULT_REVISION
        self._kind = "dataset" if source.dataset else "model"
        self._cache = cache
        self._client: HubApi | None = None

    @property
    def name(self) -> str:
        return f"modelscope://{'datasets/' if self._source.dataset else ''}{self._source.name}@{self._revision}"

    def listing(self, scratch: Path, watch: Watch) -> Listing:  # noqa: ARG002  nothing is fetched
        """The files at the revision, pinned to a commit where the hub names one that holds the same files.
        Raises HubRefused, HubUnavailable."""
        entries = self._entries(self._revision, watch)
        files = self._files(entries)
        revision = self._revision
        if not is_commit(revision):
            commit = _newest_commit(entries)
            if commit and self._files(self._entries(commit, watch)) == files:
                revision = commit
            else:
                watch.note(f"{self.name} names no commit that holds its files; its revision may move")
        return Listing(source="", revision=revision, files=files)

    def get(self, file: LockedFile, staging: Path, watch: Watch, *, fresh: bool) -> Path:
        """Leave the file below `staging`; resumes what is there unless `fresh`. Raises HubRefused, HubUnavailable,
        and Corrupt where the hub contradicts its own listing."""
        path = self._source.remote(file)
        unfinished = _unfinished(staging / path)
        if fresh:
            unfinished.unlink(missing_ok=True)
        with self._telling(f"{path} of {self.name}"):
            got: Path = self._api().downloader.download_file(
                self._source.name,
                self._kind,
                path,
                revision=self._revision,
                local_dir=staging,
                force=fresh,
                file_size=file.size,
                progress_callbacks=[_counting(watch, unfinished)],
                _cancel_event=watch.cancelled,
            )
            return got

    def _entries(self, revision: str, watch: Watch) -> Sequence[Mapping[str, Any]]:
        with self._telling(self.name):
            client = self._api().legacy
            from modelscope_hub._download_control import _DownloadControl

            with (
                _DownloadControl(total_timeout=_LISTING_SECONDS, cancel_event=watch.cancelled) as control,
                client.read_context(control),
            ):
                return client.list_repo_files(self._source.name, self._kind, revision=revision)

    def _files(self, entries: Sequence[Mapping[str, Any]]) -> tuple[LockedFile, ...]:
        files = []
        for entry in entries:
            path = entry.get("Path") if isinstance(entry, Mapping) else None
            if not isinstance(path, str):
                raise self._refused(f"an entry has no path: {entry!r}"[:200])
            if entry.get("Type") == "tree":
                continue
            if entry.get("Type") not in ("blob", None) or str(entry.get("Mode", "")) == _SYMLINK:
                raise self._refused(f"{path!r} is no regular file")
            sha256 = str(entry.get("Sha256") or "").lower()
            files.append(LockedFile(path=path, size=int(entry.get("Size") or 0), sha256=sha256))
        check_names((file.path for file in files), self.name)
        return self._source.within(files)

    def _refused(self, why: str) -> HubRefused:
        return HubRefused(f"the file list of {self.name} is refused", why=why, hint="nothing was written")

    def _api(self) -> HubApi:
        if self._client is None:
            for name, value in _SETTINGS.items():
                os.environ.setdefault(name, value)
            from modelscope_hub import HubApi
            from modelscope_hub.config import HubConfig

            # What the client retries is in its errors, in the end, and they are ours to tell.
            logging.getLogger("modelscope_hub").setLevel(logging.CRITICAL)
            self._client = HubApi(HubConfig(cache_dir=self._cache), user_agent="flagrelease")
        return self._client

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """Turn the client's errors into ours."""
        try:
            yield
        except (Cancelled, FlagreleaseError):
            raise
        except Exception as error:
            if (told := _told(error, what, self._api().legacy.endpoint)) is None:
                raise
            raise told from error


def _told(error: Exception, what: str, endpoint: str) -> BaseException | None:
    from modelscope_hub import _download_control as control
    from modelscope_hub import errors as client

    why = _reason(error)
    match error:
        case control._DownloadCancelledError():
            return Cancelled()
        case client.FileIntegrityError():
            return Corrupt(f"{what} is not what the hub lists", why=why)
        case client.AuthenticationError() | client.PermissionDeniedError():
            return HubRefused(
                f"{what} is denied by {endpoint}",
                why=why,
                hint="set MODELSCOPE_API_TOKEN to a token that may read it, and accept the model's terms on its page",
            )
        case client.NotExistError():
            return HubRefused(
                f"{what} is not on {endpoint}", why=why, hint="check its name and revision; `flagrelease lock` moves it"
            )
        case client.RateLimitError() | client.ServerError() | client.NetworkError():
            return HubUnavailable(
                f"{what} cannot be had from {endpoint} now",
                why=why,
                hint="run again later: what has arrived is kept; MODELSCOPE_ENDPOINT names another site",
            )
        case client.HubError():
            return HubRefused(f"{what} is refused by {endpoint}", why=why)
        case ValueError():  # what answers is no hub: its JSON does not parse
            return HubRefused(f"{what}: {endpoint} does not answer as a hub does", why=why)
        case _:
            return None


def _reason(error: Exception) -> str:
    """One line: the HTTP status with the hub's own message, or the innermost cause of a lost connection."""
    status = getattr(error, "status_code", None)
    text = (str(getattr(error, "message", "")) or str(error) or type(error).__name__).splitlines()[0]
    text = text.rpartition("Caused by ")[2]
    text = re.sub(r"^\w+\([\"'].*?: |[\"']\)+$", "", text)
    return f"HTTP {status}: {text}"[:300] if status else text[:300]


def _newest_commit(entries: Sequence[Mapping[str, Any]]) -> str:
    dated = [(int(entry.get("CommittedDate") or 0), str(entry.get("Revision") or "")) for entry in entries]
    return next((commit for _, commit in sorted(dated, reverse=True) if is_commit(commit)), "")


def _counting(watch: Watch, unfinished: Path) -> type[Any]:
    """A progress callback class for the client: it makes one for each transfer."""
    resumed = unfinished.stat().st_size if unfinished.exists() else 0

    class Counting:
        def __init__(self, _name: str, _size: int) -> None:
            self._resumed = resumed

        def update(self, count: int) -> None:
            if count < 0 or (self._resumed and count == self._resumed):
                self._resumed = 0
                watch.found(count)
            else:
                watch.arrived(count)

        def end(self) -> None:
            pass

    return Counting


def _unfinished(target: Path) -> Path:
    return target.with_suffix(target.suffix + ".incomplete")
