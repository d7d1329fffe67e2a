"""Write to the Hugging Face hub through its own client, huggingface_hub.

Large files go by the LFS protocol, not by Xet: its native library has threads and a server of its own, and evidence is
small. The token leaves for the endpoint alone. HF_ENDPOINT and HF_TOKEN are the hub's own variables.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flagrelease.errors import FlagreleaseError, HubRefused, HubUnavailable
from flagrelease.ports.credentials import required_token, token_for
from flagrelease.ports.http import origin, retry_after
from flagrelease.ports.hub.writer import Content, HubWriter, Upload
from flagrelease.ports.retry import retriable
from flagrelease.redact import redact, remember

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub import CommitOperationAdd, HfApi

_ENDPOINT = "https://huggingface.co"
_TOKEN = "HF_TOKEN"  # noqa: S105 - the name of a variable
_GUARDED: list[str] = []
"""The endpoint that the token is kept to in the client's connections, which all of its users share."""
_SETTING = threading.Lock()
_WRITERS = ("admin", "write", "contributor")
_TOKEN_HINT = f"set {_TOKEN} to a token with the right to write to that account or organisation"


class HuggingFaceWriter:
    """Raises ConfigError without a token that can be sent, unless it is only for reading."""

    def __init__(self, *, reads_only: bool = False) -> None:
        self._endpoint = (os.environ.get("HF_ENDPOINT", "").strip() or _ENDPOINT).rstrip("/")
        if reads_only:
            token = token_for(self._endpoint, _TOKEN) or ""
        else:
            token = required_token("Hugging Face", self._endpoint, _TOKEN, _TOKEN_HINT)
        remember(_TOKEN, token)
        self._token = token
        self._client: HfApi | None = None

    def check(self, owner: str) -> None:
        with self._translated_errors(f"the account of {_TOKEN}"):
            account = self._api().whoami()
            token = account["auth"]["accessToken"]
            names = {account["name"], *(o["name"] for o in account["orgs"] if o.get("roleInOrg") in _WRITERS)}
            scopes = (token.get("fineGrained") or {}).get("scoped") or ()
            scoped = [s["entity"].get("name") for s in scopes if "repo.write" in s.get("permissions", ())]
        if token["role"] == "read" or (token["role"] == "fineGrained" and owner not in scoped):
            what = "only read" if token["role"] == "read" else f"not write to {owner}"
            raise HubRefused(f"{_TOKEN} may {what}", why=f"it is a token of {account['name']}", hint=_TOKEN_HINT)
        if owner not in names:
            why = f"{account['name']} may write to {', '.join(sorted(names))}"
            raise HubRefused(f"{_TOKEN} may not write to {owner}", why=why, hint=_TOKEN_HINT)

    def at(self, repository: str, revision: str = "") -> Content | None:
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        with self._translated_errors(repository):
            try:
                info = self._api().model_info(repository, revision=revision or "main", files_metadata=True)
            except (RepositoryNotFoundError, RevisionNotFoundError) as error:
                if error.response.status_code in (401, 403):
                    raise
                return None
            digests = {
                one.rfilename: f"sha256:{one.lfs.sha256}" if one.lfs else f"git:{one.blob_id}"
                for one in info.siblings or ()
            }
            return Content(commit=str(info.sha or ""), digests=digests, private=bool(info.private))

    def create(self, repository: str, *, private: bool, license_id: str) -> None:  # noqa: ARG002  the card has it
        with self._translated_errors(repository):
            self._api().create_repo(repository, private=private, exist_ok=False)

    def upload(self, repository: str, files: Mapping[str, Path]) -> Upload:
        with self._translated_errors(repository):
            from huggingface_hub import CommitOperationAdd

            added = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=file) for path, file in files.items()]
            self._api().preupload_lfs_files(repository, added, free_memory=False)
            return _Upload(self, repository, added)

    def commit(
        self, repository: str, added: list[CommitOperationAdd], delete: Collection[str], message: str, parent: str
    ) -> None:
        """See Upload."""
        with self._translated_errors(repository):
            from huggingface_hub import CommitOperationDelete

            removed = [CommitOperationDelete(path_in_repo=path) for path in delete]
            self._api().create_commit(
                repository, [*added, *removed], commit_message=message, parent_commit=parent or None
            )

    def tag(self, repository: str, tag: str, commit: str) -> None:
        with self._translated_errors(repository):
            self._api().create_tag(repository, tag=tag, revision=commit or None)

    def page(self, repository: str, tag: str) -> str:
        return f"{self._endpoint}/{repository}/tree/{tag}"

    def repository(self, page: str) -> str:
        found = re.fullmatch(rf"{re.escape(self._endpoint)}/([^/]+/[^/]+)/tree/.+", page)
        return found[1] if found else ""

    def _api(self) -> HfApi:
        if self._client is None:
            import huggingface_hub
            from huggingface_hub.utils.tqdm import disable_progress_bars

            # The client shows what we show, and warns of what we report. Others may have imported it before.
            huggingface_hub.constants.HF_HUB_DISABLE_XET = True
            disable_progress_bars()
            logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
            with _SETTING:
                # Setting it closes the connections of other threads.
                if self._endpoint not in _GUARDED:
                    huggingface_hub.set_client_factory(self._http)
                    _GUARDED[:] = [self._endpoint]
            # False: without a token, the client would look for one that its own program has stored.
            self._client = huggingface_hub.HfApi(endpoint=self._endpoint, token=self._token or False)
        return self._client

    def _http(self) -> httpx2.Client:
        import httpx2
        from huggingface_hub.utils._http import hf_request_event_hook

        audience = origin(self._endpoint)

        def keep_the_token(request: httpx2.Request) -> None:
            if origin(str(request.url)) != audience:
                request.headers.pop("Authorization", None)

        hooks = {"request": [hf_request_event_hook, keep_the_token]}
        return httpx2.Client(event_hooks=hooks, follow_redirects=True, timeout=httpx2.Timeout(60.0, connect=30.0))

    @contextmanager
    def _translated_errors(self, what: str) -> Iterator[None]:
        """Translate the client's errors into ours."""
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError

        try:
            yield
        except FlagreleaseError:
            raise
        except Exception as error:
            # The client wraps what ended the upload of a large file.
            cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error
            match cause:
                case HfHubHTTPError():
                    raise self._refused(what, cause.response) from error
                case httpx2.RequestError() | ConnectionError() | TimeoutError():
                    why = redact(f"{self._endpoint}: {cause or type(cause).__name__}")[:300]
                    hint = "run again later: what was sent is not sent again"
                    raise HubUnavailable(f"{what} cannot be written now", why=why, hint=hint) from error
                case ValueError() | KeyError() | TypeError() | AttributeError():
                    why = redact(" ".join(f"{type(cause).__name__}: {cause}".split()))[:300]
                    raise HubRefused(f"{what}: unexpected response from {self._endpoint}", why=why) from error
                case _:
                    raise

    def _refused(self, what: str, answer: Any) -> FlagreleaseError:
        status = int(answer.status_code)
        said = " ".join(redact(str(answer.headers.get("X-Error-Message") or "")).split())[:200]
        why = f"HTTP {status} from {self._endpoint}" + (f": {said}" if said else "")
        if retriable(status):
            error = HubUnavailable(f"{what} cannot be written now", why=why, hint="run again later")
            error.after = retry_after(answer.headers.get("Retry-After", ""))
            return error
        if status in (401, 403):
            return HubRefused(f"access denied to {what}", why=why, hint=_TOKEN_HINT)
        if status in (409, 412):
            hint = "run again: it compares with what is there now"
            return HubRefused(f"{what} was changed by somebody else meanwhile", why=why, hint=hint)
        if status == 413:
            return HubRefused(f"{what} takes no files of this size", why=why, hint="a proxy before the hub limits them")
        hint = "check the name of the account or organisation in matrix.yaml" if status == 404 else ""
        return HubRefused(f"{what} does not exist" if status == 404 else f"{what} is refused", why=why, hint=hint)


class _Upload:
    def __init__(self, writer: HuggingFaceWriter, repository: str, added: list[CommitOperationAdd]) -> None:
        self._writer = writer
        self._repository = repository
        self._added = added

    def commit(self, delete: Collection[str], message: str, parent: str) -> None:
        self._writer.commit(self._repository, self._added, delete, message, parent)


def opened(*, reads_only: bool = False) -> HubWriter:
    """Raises ConfigError without a token that can be sent, unless it `reads_only`."""
    return HuggingFaceWriter(reads_only=reads_only)
