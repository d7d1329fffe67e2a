"""hf://: the Hugging Face hub through its HTTP API. HF_ENDPOINT and HF_TOKEN are the hub's own variables.

The token is sent to the endpoint only, and only if nobody on the way can read it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flagrelease.config.lockfile import LockedFile
from flagrelease.config.sources import Source
from flagrelease.errors import Corrupt, HubAbsent, HubRefused, HubUnavailable
from flagrelease.ports.credentials import token_for
from flagrelease.ports.http import public_authorities, retry_after
from flagrelease.ports.hub.disk import BLOCK
from flagrelease.ports.hub.listing import Listing, check_names, is_commit
from flagrelease.ports.hub.watch import Watch
from flagrelease.ports.retry import Attempts, Backoff, retriable, retry, wait_or_raise
from flagrelease.redact import redact

if TYPE_CHECKING:
    import httpx

_ENDPOINT = "https://huggingface.co"
_TOKEN = "HF_TOKEN"  # noqa: S105 - the name of a variable
_IDLE_SECONDS = 8.0  # then resume the file on a new connection; also the longest delay of a stop
_BACKOFF = Backoff(first=1.0, most=30.0, budget=120.0)  # the budget restarts with every byte received


class HuggingFace:
    """One repository at one revision."""

    def __init__(self, source: Source, revision: str) -> None:
        self._source = source
        self._revision = revision or source.revision or "main"
        self._endpoint = (os.environ.get("HF_ENDPOINT", "").strip() or _ENDPOINT).rstrip("/")
        self._token = token_for(self._endpoint, _TOKEN)
        kind = "datasets" if source.dataset else "models"
        self._api = f"{self._endpoint}/api/{kind}/{source.name}/revision/{quote(self._revision, safe='')}"
        self._files = f"{self._endpoint}/{'datasets/' if source.dataset else ''}{source.name}/resolve"
        self.name = f"hf://{'datasets/' if source.dataset else ''}{source.name}@{self._revision}"

    def listing(self, scratch: Path, watch: Watch) -> Listing:  # noqa: ARG002  nothing is fetched
        """The files at the commit that the revision currently names. Raises HubRefused, HubUnavailable."""

        def attempt() -> Listing:
            with self._translated_errors(), self._client() as client:
                answer = client.get(self._api, params={"blobs": "true"})
                self._check(answer, self.name)
                return self._listing(answer.json())

        return retry(attempt, _BACKOFF, watch, watch.note)

    def get(self, file: LockedFile, staging: Path, watch: Watch, *, fresh: bool) -> Path:
        """Download the file below `staging`; resume an unfinished download unless `fresh`. Raises HubRefused,
        HubUnavailable, and Corrupt if the hub sends more or less than it lists."""
        path = self._source.remote(file)
        target = staging / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if fresh or (target.exists() and target.stat().st_size > file.size):
            target.unlink(missing_ok=True)
        have = target.stat().st_size if target.exists() else 0
        watch.found(have)
        attempts = Attempts(_BACKOFF, watch.monotonic)
        while have < file.size or not target.exists():
            try:
                self._append(path, target, have, file.size, watch)
            except HubUnavailable as error:
                if target.exists() and target.stat().st_size > have:
                    attempts.progressed()
                wait_or_raise(error, attempts, watch, watch.note)
            have = target.stat().st_size if target.exists() else 0
        return target

    def _append(self, path: str, target: Path, have: int, size: int, watch: Watch) -> None:
        url = f"{self._files}/{quote(self._revision, safe='')}/{quote(path)}"
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with self._translated_errors(), self._client() as client, client.stream("GET", url, headers=headers) as answer:
            if answer.status_code == 416:
                raise Corrupt(f"{path} of {self.name} is shorter than listed", why=f"it ends before byte {have}")
            self._check(answer, f"{path} of {self.name}")
            resumed = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            if have and not resumed:
                watch.found(-have)
                have = 0
            with target.open("ab" if have else "wb") as out:
                for block in answer.iter_bytes(BLOCK):
                    have += len(block)
                    if have > size:
                        raise Corrupt(f"{path} of {self.name} is longer than listed", why=f"more than {size} bytes")
                    out.write(block)
                    watch.arrived(len(block))
        if have < size:
            raise HubUnavailable(f"{path} of {self.name} ended early", why=f"{have} of {size} bytes")

    def _listing(self, answer: Any) -> Listing:
        try:
            commit = str(answer["sha"])
            files = [_file(entry) for entry in answer["siblings"]]
        except (KeyError, TypeError, ValueError) as error:
            raise HubRefused(
                f"unexpected response from {self._endpoint}", why=f"{type(error).__name__}: {error}"
            ) from error
        if not is_commit(commit):
            raise HubRefused(f"{self.name} names no commit", why=f"its sha is {commit!r}")
        check_names((file.path for file in files), self.name)
        ids = {entry["rfilename"]: str(entry.get("blobId") or "") for entry in answer["siblings"]}
        within = self._source.within(files)
        named = {file.path: ids[self._source.remote(file)] for file in within if not file.sha256}
        blobs = {path: blob for path, blob in named.items() if is_commit(blob)}
        return Listing(source="", revision=commit, files=within, blobs=blobs)

    def _client(self) -> httpx.Client:
        import httpx

        # httpx drops the token where a file is redirected to another origin.
        headers = {"User-Agent": "flagrelease"} | ({"Authorization": f"Bearer {self._token}"} if self._token else {})
        trusted = public_authorities()
        return httpx.Client(headers=headers, timeout=_IDLE_SECONDS, follow_redirects=True, verify=trusted)

    def _check(self, answer: httpx.Response, what: str) -> None:
        status = answer.status_code
        why = f"HTTP {status} from {self._endpoint}"
        if status in (401, 403):
            raise HubRefused(f"access denied to {what}", why=why, hint=self._access_hint(status))
        if status == 404:
            raise HubAbsent(f"{what} does not exist", why=why, hint="check its name and revision")
        if retriable(status):
            unavailable = HubUnavailable(
                f"{what} is temporarily unavailable", why=why, hint="run again later: the download resumes"
            )
            unavailable.after = retry_after(answer.headers.get("Retry-After", ""))
            raise unavailable
        if status >= 400:
            raise HubRefused(f"{what} is refused", why=why)

    def _access_hint(self, status: int) -> str:
        """What to do after 401 or 403. Without a valid token, the hub answers 401 for an absent repository, too."""
        terms = "accept the terms of the repository on its page"
        if self._token is None and os.environ.get(_TOKEN):
            hint = f"{_TOKEN} was not sent, since HF_ENDPOINT is plain http: use an https one"
        elif self._token:
            hint = f"check that {_TOKEN} is valid and may read the repository; {terms} with its account"
        else:
            hint = f"if it is private or its access is restricted, set {_TOKEN} and {terms}"
        return f"check the name, since the repository may not exist; {hint}" if status == 401 else hint

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Translate the HTTP client's errors into ours."""
        import httpx

        try:
            yield
        except httpx.RequestError as error:
            raise HubUnavailable(
                f"{self.name} is temporarily unavailable",
                why=f"{self._endpoint}: {error or type(error).__name__}",
                hint="run again: the download resumes; HF_ENDPOINT selects another site",
            ) from error
        except (ValueError, RecursionError) as error:
            raise HubRefused(f"unexpected response from {self._endpoint}", why=redact(str(error))[:200]) from error


def _file(entry: Any) -> LockedFile:
    """A file of the listing; only those in large-file storage have a sha256. Raises KeyError, TypeError."""
    path, size, storage = entry["rfilename"], entry["size"], entry.get("lfs") or {}
    sha256 = storage.get("sha256") or "" if isinstance(storage, dict) else None
    if not (isinstance(path, str) and type(size) is int and size >= 0 and isinstance(sha256, str)):
        raise TypeError(f"{str(entry)[:100]} is not a file")
    return LockedFile(path=path, size=size, sha256=sha256)
