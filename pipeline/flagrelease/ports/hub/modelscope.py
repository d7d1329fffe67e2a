"""modelscope://: the ModelScope hub through its own client, modelscope-hub.

The client resumes, retries and honours Retry-After, but it trusts the hub: it writes to any path that the hub lists,
and does not verify a file for which the hub lists no sha256. So it gets only names that were checked, and we hash the
files that it writes. It also sends its token to other hosts of the hub's domain, in a cookie. MODELSCOPE_ENDPOINT and
MODELSCOPE_API_TOKEN are its own variables.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flagrelease.config.lockfile import LockedFile
from flagrelease.config.sources import Source
from flagrelease.errors import Corrupt, FlagreleaseError, HubAbsent, HubRefused, HubUnavailable
from flagrelease.ports.credentials import token_for
from flagrelease.ports.http import Origin, origin
from flagrelease.ports.hub.listing import Listing, check_names, is_commit
from flagrelease.ports.hub.watch import Cancelled, Watch
from flagrelease.redact import redact, remember

if TYPE_CHECKING:
    import requests
    from modelscope_hub import HubApi

_DEFAULT_REVISION = "master"
_TOKEN = "MODELSCOPE_API_TOKEN"  # noqa: S105 - the name of a variable
_SYMLINK = "120000"  # git's file mode for symbolic links
_LISTING_SECONDS = 300.0
# Read on import by the client and tqdm. We show the progress ourselves; on a slow line a shard of a large model takes
# longer than the client's default of an hour; a listing that needs more requests has too many files for us anyway.
_SETTINGS = {
    "TQDM_DISABLE": "1",
    "MODELSCOPE_DOWNLOAD_TOTAL_TIMEOUT": "86400",
    "MODELSCOPE_REPO_TREE_MAX_REQUESTS": "200",
}


class ModelScope:
    """One repository at one revision. `cache` is the folder for the client's lock files."""

    def __init__(self, source: Source, revision: str, cache: Path) -> None:
        self._source = source
        self._revision = revision or source.revision or _DEFAULT_REVISION
        self._kind = "dataset" if source.dataset else "model"
        self._cache = cache
        self._client: HubApi | None = None
        self._making = threading.Lock()

    @property
    def name(self) -> str:
        return f"modelscope://{'datasets/' if self._source.dataset else ''}{self._source.name}@{self._revision}"

    def listing(self, scratch: Path, watch: Watch) -> Listing:  # noqa: ARG002  nothing is fetched
        """The files at the revision, pinned to a commit if the hub names one with the same files.
        Raises HubRefused, HubUnavailable."""
        entries = self._entries(self._revision, watch)
        files = self._files(entries)
        revision = self._revision
        if not is_commit(revision):
            commit = _newest_commit(entries)
            if commit and self._files(self._entries(commit, watch)) == files:
                revision = commit
            else:
                watch.note(f"{self.name} names no commit with its files; its revision may move")
        return Listing(source="", revision=revision, files=files)

    def get(self, file: LockedFile, staging: Path, watch: Watch, *, fresh: bool) -> Path:
        """Download the file below `staging`; resume an unfinished download unless `fresh`. Raises HubRefused,
        HubUnavailable, and Corrupt if the file contradicts the hub's own listing."""
        path = self._source.remote(file)
        unfinished = _unfinished(staging / path)
        if fresh:
            unfinished.unlink(missing_ok=True)
        with self._translated_errors(f"{path} of {self.name}"):
            path_on_disk: Path = self._api().downloader.download_file(
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
            return path_on_disk

    def _entries(self, revision: str, watch: Watch) -> Sequence[Mapping[str, Any]]:
        with self._translated_errors(self.name):
            client = self._api().legacy
            from modelscope_hub._download_control import _DownloadControl

            with (
                _DownloadControl(total_timeout=_LISTING_SECONDS, cancel_event=watch.cancelled) as control,
                client.read_context(control),
            ):
                entries: object = client.list_repo_files(self._source.name, self._kind, revision=revision)
        if not isinstance(entries, list):
            raise self._refused(f"it is not a list: {entries!r}"[:200])
        return entries

    def _files(self, entries: Sequence[Mapping[str, Any]]) -> tuple[LockedFile, ...]:
        files = []
        for entry in entries:
            path = entry.get("Path") if isinstance(entry, Mapping) else None
            if not isinstance(path, str):
                raise self._refused(f"an entry has no path: {entry!r}"[:200])
            if entry.get("Type") == "tree":
                continue
            if entry.get("Type") not in ("blob", None) or str(entry.get("Mode", "")) == _SYMLINK:
                raise self._refused(f"{path!r} is not a regular file")
            size, sha256 = entry.get("Size") or 0, entry.get("Sha256") or ""
            if type(size) is not int or size < 0 or not isinstance(sha256, str):
                raise self._refused(f"the size or sha256 of {path!r} is invalid: {size!r}, {sha256!r}"[:200])
            files.append(LockedFile(path=path, size=size, sha256=sha256.lower()))
        check_names((file.path for file in files), self.name)
        return self._source.within(files)

    def _refused(self, why: str) -> HubRefused:
        return HubRefused(f"the file list of {self.name} is refused", why=why, hint="nothing was written")

    def _api(self) -> HubApi:
        # Files are fetched by several threads: none may have a client that is not guarded yet.
        with self._making:
            if self._client is None:
                self._client = guarded_client(self._cache)
            return self._client

    @contextmanager
    def _translated_errors(self, what: str) -> Iterator[None]:
        """Translate the client's errors into ours."""
        try:
            yield
        except (Cancelled, FlagreleaseError):
            raise
        except Exception as error:
            if (translated := _translated(error, what, self._api().legacy.endpoint)) is None:
                raise
            raise translated from error


def guarded_client(cache: Path) -> HubApi:
    """A client whose token leaves for the endpoint alone, and only if nobody on the way can read it; `cache` is the
    folder for its lock files."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from modelscope_hub import HubApi
    from modelscope_hub.config import HubConfig

    # The client logs its retries; its final error, which we report, has the cause.
    logging.getLogger("modelscope_hub").setLevel(logging.CRITICAL)
    config = HubConfig(cache_dir=cache)
    endpoint = str(config.endpoint)
    token = token_for(endpoint, _TOKEN)
    if token is None or os.environ.get(_TOKEN):
        config = HubConfig(cache_dir=cache, token=token or "")
    remember(_TOKEN, config.token or "")
    client = HubApi(config, user_agent="flagrelease")
    for session in (client.legacy._session, client.legacy._read_session, client.openapi._session):
        _keep_to(origin(endpoint), session)
    return client


def _keep_to(audience: Origin | None, session: requests.Session) -> None:
    """Let no credential of the session leave the origin `audience`, wherever it is redirected."""
    send = session.send

    def guarded(request: requests.PreparedRequest, **options: Any) -> requests.Response:
        if origin(str(request.url)) != audience:
            request.headers.pop("Authorization", None)
            request.headers.pop("Cookie", None)
        return send(request, **options)

    session.send = guarded  # type: ignore[method-assign]  # the client makes its sessions itself


def _translated(error: Exception, what: str, endpoint: str) -> BaseException | None:
    from modelscope_hub import _download_control as control
    from modelscope_hub import errors as client

    why = reason(error)
    match error:
        case control._DownloadCancelledError():
            return Cancelled()
        case client.FileIntegrityError():
            return Corrupt(f"{what} does not match the hub's listing", why=why)
        case client.AuthenticationError() | client.PermissionDeniedError():
            return HubRefused(
                f"access denied to {what} by {endpoint}",
                why=why,
                hint="set MODELSCOPE_API_TOKEN to a token with access, and accept the model's terms on its page",
            )
        case client.NotExistError():
            return HubAbsent(
                f"{what} does not exist on {endpoint}",
                why=why,
                hint="check its name and revision; `flagrelease lock` updates the revision",
            )
        case client.RateLimitError() | client.ServerError() | client.NetworkError():
            return HubUnavailable(
                f"{what} is temporarily unavailable from {endpoint}",
                why=why,
                hint="run again later: the download resumes; MODELSCOPE_ENDPOINT selects another site",
            )
        case client.HubError():
            return HubRefused(f"{endpoint} refused {what}", why=why)
        # The response is not JSON or has other types than the client expects, so the server is not a hub.
        case ValueError() | RecursionError() | AttributeError() | TypeError() | KeyError():
            return HubRefused(f"{what}: unexpected response from {endpoint}", why=why)
        case _:
            return None


def reason(error: Exception) -> str:
    """The cause in one line: HTTP status and the hub's message, or the innermost cause of a lost connection."""
    status = getattr(error, "status_code", None)
    text = redact(str(getattr(error, "message", "")) or str(error) or type(error).__name__).splitlines()[0]
    text = text.rpartition("Caused by ")[2]
    text = re.sub(r"^\w+\([\"'].*?: |[\"']\)+$", "", text)
    return f"HTTP {status}: {text}"[:300] if status else text[:300]


def _newest_commit(entries: Sequence[Mapping[str, Any]]) -> str:
    dates = (entry.get("CommittedDate") for entry in entries)
    known = (date if type(date) is int else 0 for date in dates)
    dated = [(date, str(entry.get("Revision") or "")) for date, entry in zip(known, entries, strict=True)]
    return next((commit for _, commit in sorted(dated, reverse=True) if is_commit(commit)), "")


def _counting(watch: Watch, unfinished: Path) -> type[Any]:
    """A progress callback class for the client, which instantiates it for each transfer."""
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
