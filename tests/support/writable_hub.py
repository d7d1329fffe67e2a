"""Model hubs on the loopback interface to which the real clients write: Hugging Face's and ModelScope's protocols.

Both keep repositories with commits and tags. Large files are sent as blobs by the protocol of git-lfs, and seen only
after a commit that names them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

# Read by the ModelScope client when it is first imported; its defaults retry for half a minute.
os.environ.setdefault("MODELSCOPE_API_MAX_RETRIES", "1")

from support.hub_stand_in import Handler, HubStandIn

TOKEN = "hub-token-0123456789"
OWNER = "FlagRelease"


@dataclass
class Repository:
    private: bool
    license: str = ""
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{".gitattributes": b"*.png filter=lfs\n"}])
    """The files of each, oldest first."""
    large: set[str] = field(default_factory=set)
    """Paths in large-file storage."""
    tags: dict[str, int] = field(default_factory=dict)
    """By tag, the number of a commit."""
    messages: list[str] = field(default_factory=list)
    """Of the commits that clients made."""

    def number(self, revision: str) -> int | None:
        if revision in ("main", "master"):
            return len(self.commits) - 1
        return next((n for n in range(len(self.commits)) if commit_id(n) == revision), self.tags.get(revision))


def commit_id(number: int) -> str:
    return hashlib.sha1(f"commit {number}".encode(), usedforsecurity=False).hexdigest()


class _Writable(Handler):
    hub: WritableHub

    def do_GET(self) -> None:  # noqa: N802
        self._answered("GET", b"")

    def do_POST(self) -> None:  # noqa: N802
        self._with_body("POST")

    def do_PUT(self) -> None:  # noqa: N802
        self._with_body("PUT")

    def _with_body(self, method: str) -> None:
        hub, fault = self.hub, self.hub.fault_for(f"{method} {self.path}")
        length = int(self.headers.get("Content-Length") or 0)
        if fault and fault.cut is not None:
            self.rfile.read(min(fault.cut, length))
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        chunks = self._chunked() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
        if fault:
            hub.writes.append(f"{method} {fault.status} {self.path}")
            self._send(fault.status, json.dumps({"Message": "scripted", "error": "scripted"}).encode(), fault.headers)
            return
        self._answered(method, chunks)

    def _chunked(self) -> bytes:
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def _answered(self, method: str, body: bytes) -> None:
        hub, url = self.hub, urlsplit(self.path)
        path, query = unquote(url.path), {name: values[0] for name, values in parse_qs(url.query).items()}
        given = {self.headers.get("Authorization", ""), self.headers.get("Cookie", "")}
        hub.credentials += sorted(given - {""})
        if method != "GET":
            hub.writes.append(f"{method} {path}")
        elif fault := hub.fault_for(f"GET {self.path}"):
            self._send(fault.status, b'{"Message": "scripted", "error": "scripted"}', fault.headers)
            return
        if path.startswith("/blobs/") and method == "PUT":  # the address has the right in it, as presigned ones do
            digest = hashlib.sha256(body).hexdigest()
            hub.blobs[digest] = body
            self._send(200 if digest == path.rpartition("/")[2] else 400, b"{}")
        elif path == "/verify":
            self._send(200, b"{}")
        elif f"Bearer {TOKEN}" not in given:
            self._send(
                401, b'{"error": "no token"}', {"X-Error-Message": "Invalid credentials in Authorization header"}
            )
        else:
            status, answer, headers = self._hub(method, path, query, body)
            self._send(status, json.dumps(answer).encode(), headers)

    def _hub(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> tuple[int, Any, dict[str, str]]:
        document = json.loads(body) if body.startswith((b"{", b"[")) and b"\n{" not in body else None
        ours = self._huggingface if not path.startswith(("/api/v1/", "/openapi/")) else self._modelscope
        return ours(method, path.split("/")[1:], query, document, body)

    # Hugging Face

    def _huggingface(
        self, method: str, parts: list[str], _query: Mapping[str, str], document: Any, body: bytes
    ) -> tuple[int, Any, dict[str, str]]:
        hub = self.hub
        match [method, *parts]:
            case ["GET", "api", "whoami-v2"]:
                return 200, hub.account, {}
            case ["POST", "api", "validate-yaml"]:
                return 200, {"errors": [], "warnings": []}, {}
            case ["POST", "api", "repos", "create"]:
                name = f"{document['organization']}/{document['name']}"
                if document["organization"] not in (hub.account["name"], OWNER):
                    return 403, {"error": "no permission"}, {}
                if name in hub.repositories:
                    return 409, {"error": "You already created this model repo"}, {}
                hub.repositories[name] = Repository(private=document.get("visibility") == "private")
                return 200, {"url": f"{hub.url}/{name}"}, {}
            case ["POST", owner, name, "info", "lfs", "objects", "batch"]:
                objects = [self._lfs(one) for one in document["objects"]]
                return 200, {"transfer": "basic", "objects": objects}, {}
            case ["GET" | "POST", "api", "models", owner, name, *rest]:
                repository = hub.repositories.get(f"{owner}/{name}")
                if repository is None:
                    return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
                return self._of_huggingface(f"{owner}/{name}", repository, rest, document, body)
        return 404, {"error": "no such page"}, {}

    def _of_huggingface(
        self, name: str, repository: Repository, rest: list[str], document: Any, body: bytes
    ) -> tuple[int, Any, dict[str, str]]:
        number = repository.number(rest[1]) if len(rest) > 1 else None
        if number is None:
            return 404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"}
        match rest[0]:
            case "revision":
                files = repository.commits[number]
                siblings = [_sibling(path, data, path in repository.large) for path, data in files.items()]
                found = {"id": name, "sha": commit_id(number), "private": repository.private, "siblings": siblings}
                return 200, found, {}
            case "preupload":
                return 200, {"files": [_mode(one, repository.commits[number]) for one in document["files"]]}, {}
            case "commit":
                lines = [json.loads(line) for line in body.splitlines()]
                parent = lines[0]["value"].get("parentCommit")
                if parent and parent != commit_id(number):
                    return 412, {"error": "A commit has happened since"}, {}
                files = dict(repository.commits[-1])
                for line in lines[1:]:
                    self._apply(repository, files, line["key"], line["value"])
                repository.commits.append(files)
                repository.messages.append(lines[0]["value"]["summary"])
                made = commit_id(len(repository.commits) - 1)
                return 200, {"commitUrl": f"{self.hub.url}/{name}/commit/{made}", "commitOid": made}, {}
            case "tag":
                if document["tag"] in repository.tags:
                    return 409, {"error": "Tag reference exists already"}, {}
                repository.tags[document["tag"]] = number
                return 200, {}, {}
        return 404, {"error": "no such page"}, {}

    def _apply(self, repository: Repository, files: dict[str, bytes], key: str, value: Any) -> None:
        if key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            files[value["path"]] = self.hub.blobs[value["oid"]]
            repository.large.add(value["path"])
        else:
            del files[value["path"]]

    def _lfs(self, wanted: Any) -> Any:
        known = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] in self.hub.blobs:
            return known
        storage = self.hub.storage or self.hub.url
        upload = {"href": f"{storage}/blobs/{wanted['oid']}"}
        return {**known, "actions": {"upload": upload, "verify": {"href": f"{storage}/verify"}}}

    # ModelScope

    def _modelscope(
        self, method: str, parts: list[str], query: Mapping[str, str], document: Any, _body: bytes
    ) -> tuple[int, Any, dict[str, str]]:
        hub = self.hub
        match [method, *parts]:
            case ["GET", "openapi", "v1", "users", "me"]:
                return 200, {"success": True, "data": {"username": hub.account["name"]}}, {}
            case ["POST", "api", "v1", "models"]:
                name = f"{document['Path']}/{document['Name']}"
                if document["Path"] not in (hub.account["name"], OWNER):
                    return 403, _failed("no permission"), {}
                hub.repositories[name] = Repository(
                    private=document["Visibility"] == 1,
                    license=document["License"],
                    commits=[{"README.md": b"# new\n"}],
                )
                return 200, _done({"Id": 1}), {}
            case ["POST", "api", "v1", "repos", "models", owner, name, "info", "lfs", "objects", "batch"]:
                return 200, _done({"objects": [self._lfs(one) for one in document["objects"]]}), {}
            case ["POST", "api", "v1", "repos", "models", owner, name, "commit", _branch]:
                repository = hub.repositories[f"{owner}/{name}"]
                files = dict(repository.commits[-1])
                for one in document["actions"]:
                    kind = {"create": "lfsFile" if one["type"] == "lfs" else "file", "delete": "deleted"}
                    self._apply(repository, files, kind[one["action"]], {**one, "oid": one["sha256"]})
                repository.commits.append(files)
                repository.messages.append(document["commit_message"])
                return 200, _done({"oid": commit_id(len(repository.commits) - 1)}), {}
            case [_, "api", "v1", "models", owner, name, *rest] if f"{owner}/{name}" in hub.repositories:
                return self._of_modelscope(hub.repositories[f"{owner}/{name}"], rest, query, document)
        return 404, _failed("not found"), {}

    def _of_modelscope(
        self, repository: Repository, rest: list[str], query: Mapping[str, str], document: Any
    ) -> tuple[int, Any, dict[str, str]]:
        match rest:
            case []:
                return 200, _done({"Visibility": 1 if repository.private else 5}), {}
            case ["repo", "files"]:
                number = repository.number(query.get("Revision", "master"))
                if number is None:
                    return 404, _failed("revision not found"), {}
                listed = [_entry(path, data, number) for path, data in repository.commits[number].items()]
                return 200, _done({"Files": listed, "IsVisual": 0}), {}
            case ["repo", "tag"]:
                number = repository.number(document["Ref"])
                if number is None or document["TagName"] in repository.tags:
                    return 400, _failed("the tag exists already"), {}
                repository.tags[document["TagName"]] = number
                return 200, _done({}), {}
        return 404, _failed("not found"), {}


class WritableHub(HubStandIn):
    """`storage` is where large files are sent to, if it is not here; `writes` are the requests that change things."""

    handler = _Writable

    def __init__(self) -> None:
        super().__init__()
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.writes: list[str] = []
        self.storage = ""
        self.account: dict[str, Any] = {
            "name": "release-bot",
            "orgs": [{"name": OWNER, "roleInOrg": "write"}, {"name": "readers", "roleInOrg": "read"}],
            "auth": {"accessToken": {"role": "write"}},
        }


def _sibling(path: str, data: bytes, large: bool) -> dict[str, Any]:
    known: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": _git(data)}
    if large:
        known["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 135}
    return known


def _mode(wanted: Any, files: Mapping[str, bytes]) -> dict[str, Any]:
    large = wanted["path"].endswith(".png") or wanted["size"] > 1000
    known = {"path": wanted["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
    return {**known, "oid": _git(files[wanted["path"]])} if wanted["path"] in files else known


def _entry(path: str, data: bytes, number: int) -> dict[str, Any]:
    known = {"Path": path, "Name": path.rpartition("/")[2], "Type": "blob", "Size": len(data), "Mode": "100644"}
    return {**known, "Sha256": hashlib.sha256(data).hexdigest(), "Revision": commit_id(number)}


def _git(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _done(data: Any) -> dict[str, Any]:
    return {"Code": 200, "Success": True, "Data": data, "Message": "success"}


def _failed(why: str) -> dict[str, Any]:
    return {"Code": 10010205001, "Success": False, "Message": why}
