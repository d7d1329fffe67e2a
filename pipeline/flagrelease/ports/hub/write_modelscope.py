"""Write to the ModelScope hub through its own client, modelscope-hub.

Its `upload_folder` prints to standard output and makes several commits, so that a reader may see half a release. So the
requests under it are used: blobs first, then one commit. MODELSCOPE_ENDPOINT and MODELSCOPE_API_TOKEN are its own
variables.
"""

from __future__ import annotations

import base64
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flagrelease.errors import FlagreleaseError, HubRefused, HubUnavailable
from flagrelease.ports.credentials import required_token
from flagrelease.ports.hub.modelscope import guarded_client, reason
from flagrelease.ports.hub.writer import Content, HubWriter, Upload
from flagrelease.store.digests import file_sha256

if TYPE_CHECKING:
    from modelscope_hub import HubApi

_ENDPOINT = "https://modelscope.cn"
_TOKEN = "MODELSCOPE_API_TOKEN"  # noqa: S105 - the name of a variable
_BRANCH = "master"
_PUBLIC = 5  # the hub's number; 3 is for an organisation, 1 for the owner
_MOST_INLINE_BYTES = 24 << 20
"""Of the small files of one commit, which are inside its request."""
_TOKEN_HINT = f"set {_TOKEN} to a token of an account that may write to that account or organisation"


class ModelScopeWriter:
    """Raises ConfigError without a token that can be sent, unless it is only for reading."""

    def __init__(self, *, reads_only: bool = False) -> None:
        self._endpoint = (os.environ.get("MODELSCOPE_ENDPOINT", "").strip() or _ENDPOINT).rstrip("/")
        if not reads_only:
            required_token("ModelScope", self._endpoint, _TOKEN, _TOKEN_HINT)
        self._client: HubApi | None = None

    @property
    def _api(self) -> HubApi:
        if self._client is None:
            # The client writes no files there for what is used here.
            self._client = guarded_client(Path(tempfile.gettempdir()))
        return self._client

    def check(self, owner: str) -> None:  # noqa: ARG002  the hub does not say to which organisations a token may write
        with self._translated_errors(f"the account of {_TOKEN}"):
            self._api.whoami()

    def at(self, repository: str, revision: str = "") -> Content | None:
        from modelscope_hub.errors import NotExistError

        with self._translated_errors(repository):
            legacy = self._api.legacy
            try:
                visibility = legacy.get_repo_info(repository, "model")["Visibility"]
                entries: Sequence[Mapping[str, Any]] = legacy.list_repo_files(
                    repository, "model", revision=revision or _BRANCH
                )
            except NotExistError:
                return None
            digests = {str(one["Path"]): f"sha256:{one['Sha256']}" for one in entries if one.get("Type") != "tree"}
            return Content(commit="", digests=digests, private=int(visibility) != _PUBLIC)

    def create(self, repository: str, *, private: bool, license_id: str) -> None:
        with self._translated_errors(repository):
            visibility = "private" if private else "public"
            self._api.create_repo(repository, "model", visibility=visibility, license=license_id)

    def upload(self, repository: str, files: Mapping[str, Path]) -> Upload:
        actions, objects = [], {}
        for path, file in files.items():
            if self._large(path, file):
                digest = file_sha256(file)
                objects[digest] = file
                actions.append(_action("create", path, kind="lfs", size=file.stat().st_size, sha256=digest))
            else:
                data = file.read_bytes()
                content = base64.b64encode(data).decode()
                actions.append(_action("create", path, size=len(data), content=content, encoding="base64"))
        if sum(len(one["content"]) for one in actions) > _MOST_INLINE_BYTES:
            raise HubRefused(f"{repository} takes no commit of this size", why="it has too many small files")
        with self._translated_errors(repository):
            legacy = self._api.legacy
            wanted = [{"oid": digest, "size": file.stat().st_size} for digest, file in objects.items()]
            missing = legacy.validate_blobs(repository, "model", wanted) if wanted else {}
            for digest, url in missing.items():
                if url is not None:
                    with objects[digest].open("rb") as blob:
                        legacy.upload_blob(url, blob, objects[digest].stat().st_size)
        return _Upload(self, repository, actions)

    def commit(self, repository: str, actions: list[dict[str, Any]], message: str) -> None:
        """See Upload."""
        with self._translated_errors(repository):
            self._api.legacy.create_commit(repository, "model", actions, message, revision=_BRANCH)

    def tag(self, repository: str, tag: str, commit: str) -> None:
        with self._translated_errors(repository):
            self._api.create_repo_tag(repository, "model", tag, revision=commit or _BRANCH)

    def page(self, repository: str, tag: str) -> str:
        return f"{self._endpoint}/models/{repository}/files?version={tag}"

    def repository(self, page: str) -> str:
        found = re.fullmatch(rf"{re.escape(self._endpoint)}/models/([^/]+/[^/]+)/files\?version=.+", page)
        return found[1] if found else ""

    @staticmethod
    def _large(path: str, file: Path) -> bool:
        """Whether the hub wants the file as a blob: the rule is the client's."""
        from modelscope_hub._upload import _upload_mode

        return bool(_upload_mode(path, file.stat().st_size, "model") == "lfs")

    @contextmanager
    def _translated_errors(self, what: str) -> Iterator[None]:
        """Translate the client's errors into ours."""
        try:
            yield
        except FlagreleaseError:
            raise
        except Exception as error:
            if (translated := _translated(error, what, self._endpoint)) is None:
                raise
            raise translated from error


def _action(action: str, path: str, *, kind: str = "normal", size: int = 0, **more: str) -> dict[str, Any]:
    """An action of a commit, as the client writes it."""
    empty = {"sha256": "", "content": "", "encoding": ""}
    return {"action": action, "path": path, "type": kind, "size": size, **empty, **more}


def _translated(error: Exception, what: str, endpoint: str) -> FlagreleaseError | None:
    import requests
    from modelscope_hub import errors as client

    why = f"{reason(error)} from {endpoint}"
    status = getattr(error, "status_code", None)
    match error:
        case client.AuthenticationError() | client.PermissionDeniedError():
            return HubRefused(f"access denied to {what}", why=why, hint=_TOKEN_HINT)
        case client.NotExistError():
            return HubRefused(
                f"{what} does not exist", why=why, hint="check the name of the account or organisation in matrix.yaml"
            )
        case client.RateLimitError() | client.ServerError() | client.NetworkError() | requests.RequestException():
            hint = "run again later: what was sent is not sent again"
            unavailable = HubUnavailable(f"{what} cannot be written now", why=why, hint=hint)
            unavailable.after = getattr(error, "retry_after", None)
            return unavailable
        case client.HubError() if status == 413:
            return HubRefused(f"{what} takes no files of this size", why=why, hint="a proxy before the hub limits them")
        case client.HubError():
            return HubRefused(f"{what} is refused", why=why)
        case ValueError() | RecursionError() | AttributeError() | TypeError() | KeyError():
            return HubRefused(f"{what}: unexpected response from {endpoint}", why=reason(error))
        case _:
            return None


class _Upload:
    def __init__(self, writer: ModelScopeWriter, repository: str, actions: list[dict[str, Any]]) -> None:
        self._writer = writer
        self._repository = repository
        self._actions = actions

    def commit(self, delete: Collection[str], message: str, parent: str) -> None:  # noqa: ARG002  the hub takes none
        removed = [_action("delete", path) for path in delete]
        self._writer.commit(self._repository, [*self._actions, *removed], message)


def opened(*, reads_only: bool = False) -> HubWriter:
    """Raises ConfigError without a token that can be sent, unless it `reads_only`."""
    return ModelScopeWriter(reads_only=reads_only)
