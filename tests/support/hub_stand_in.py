"""Hubs on the loopback interface, for the ones that tests must not depend on.

One server speaks the three protocols that the real clients talk: ModelScope's /api/v1 (modelscope-hub), Hugging
Face's (plain HTTP, with its redirect to a CDN), and a simple package index (pip). Faults are scripted: each
`Fault` is used up by the requests whose path holds its `where`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

# Read by the ModelScope client when it is first imported; its defaults retry for half a minute.
os.environ.setdefault("MODELSCOPE_DOWNLOAD_MAX_RETRIES", "2")
os.environ.setdefault("MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS", "2")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Fault:
    """What goes wrong for the next `times` requests whose path and query hold `where`.

    `status` answers with that code (and `headers`); `reset` closes without an answer; `cut` sends so many bytes of
    the body and closes; `flip` inverts one bit of the body; `stall` sends so many bytes and then waits until the
    test goes on; `hang` accepts the request and answers nothing; `garbage` answers 200 with something that is no
    protocol; `says` answers with this body; `more` follows the body of a file.
    """

    where: str
    times: int = 1
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    reset: bool = False
    cut: int | None = None
    flip: bool = False
    stall: int | None = None
    hang: bool = False
    garbage: bool = False
    says: bytes | None = None
    more: bytes = b""


class HubStandIn:
    """`files` are the repository's, by path; `names` overrides the listed paths; `unhashed` are listed without a
    sha256, and with a git blob id if one is in `blob_ids`; `commit` is where the branch is; `requests` are those seen,
    with the Range header where there is one, `credentials` the Authorization and Cookie headers of all."""

    handler: type[BaseHTTPRequestHandler] | None = None
    """Answers the requests, instead of Handler."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.names: list[str] | None = None
        self.modes: dict[str, str] = {}
        self.unhashed: set[str] = set()
        self.blob_ids: dict[str, str] = {}
        self.commit = COMMIT
        self.commits: dict[str, dict[str, bytes]] = {}
        self.wheels: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.credentials: list[str] = []
        self.stalled = threading.Event()
        self.go_on = threading.Event()
        self._lock = threading.Lock()
        stand_in = self

        class Bound(self.handler or Handler):  # type: ignore[misc]  # a class that subclasses of the hub choose
            hub = stand_in

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  a client that went away
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[HubStandIn]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.go_on.set()
            self._server.shutdown()
            self._server.server_close()

    def fault_for(self, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and fault.where in unquote(path):
                    fault.times -= 1
                    return fault
        return None

    def asked(self, where: str) -> list[str]:
        """The Range headers (or nothing) of the requests whose path holds `where`."""
        return [header for path, header in self.requests if where in unquote(path)]

    def at(self, revision: str) -> dict[str, bytes]:
        return self.commits.get(revision, self.files)

    def known(self, revision: str) -> bool:
        return revision in ("master", "main", self.commit) or revision in self.commits


class Handler(BaseHTTPRequestHandler):
    hub: HubStandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        hub, url = self.hub, urlsplit(self.path)
        hub.requests.append((self.path, self.headers.get("Range", "")))
        hub.credentials += [self.headers[name] for name in ("Authorization", "Cookie") if name in self.headers]
        fault = hub.fault_for(self.path)
        if fault and fault.reset:
            self.close_connection = True
            self.connection.close()
            return
        if fault and fault.hang:
            hub.go_on.wait(600)
            self.close_connection = True
            return
        if fault and fault.says is not None:
            self._send(fault.status or 200, fault.says, fault.headers)
            return
        if fault and fault.status:
            self._send(fault.status, json.dumps({"Message": "scripted", "Success": False}).encode(), fault.headers)
            return
        if fault and fault.garbage:
            self._send(200, b"<html>captive portal</html>", {"Content-Type": "text/html"})
            return
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        path = unquote(url.path)
        for pattern, answer in (
            (r"/api/v1/models/([^/]+/[^/]+)/repo/files", self._modelscope_list),
            (r"/api/v1/datasets/([^/]+/[^/]+)/repo/tree", self._modelscope_list),
            (r"/api/v1/(?:models|datasets)/([^/]+/[^/]+)/repo", self._modelscope_file),
            (r"/api/(?:models|datasets)/([^/]+/[^/]+)/revision/(.+)", self._hf_list),
            (r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._hf_file),
            (r"/cdn/([^/]+)/(.+)", self._cdn),
            (r"/simple/([^/]+)/", self._index),
            (r"/wheels/(.+)", self._wheel),
        ):
            if match := re.fullmatch(pattern, path):
                answer(query, fault, *match.groups())
                return
        self._send(404, b'{"Message": "no such page"}')

    def _modelscope_list(self, query: Mapping[str, str], _fault: Fault | None, _name: str) -> None:
        hub = self.hub
        revision = query.get("Revision", "master")
        if not hub.known(revision):
            self._send(
                404, json.dumps({"Code": 10010205001, "Message": "revision not found", "Success": False}).encode()
            )
            return
        entries = []
        for path in hub.names if hub.names is not None else sorted(hub.at(revision)):
            content = hub.at(revision).get(path, b"")
            entry = {"Name": path.rpartition("/")[2], "Path": path, "Type": "blob", "Size": len(content)}
            entry |= {"Mode": hub.modes.get(path, "100644"), "IsLFS": False, "CommittedDate": 1700000000}
            entry |= {"Revision": hub.commit, "Sha256": _sha256(content)}
            if path in hub.unhashed:
                entry["Sha256"] = ""
            entries.append(entry)
        folders = sorted({path.rpartition("/")[0] for path in hub.files if "/" in path})
        entries += [{"Name": name, "Path": name, "Type": "tree", "Size": 0, "Revision": hub.commit} for name in folders]
        if root := query.get("Root"):
            entries = [entry for entry in entries if str(entry["Path"]).startswith(f"{root}/")]
        page = {"Files": entries, "IsVisual": 0, "LatestCommitter": {"Id": "", "ShortId": hub.commit[:8]}}
        self._send(200, json.dumps({"Code": 200, "Data": page, "Message": "success", "Success": True}).encode())

    def _modelscope_file(self, query: Mapping[str, str], fault: Fault | None, _name: str) -> None:
        content = self.hub.at(query.get("Revision", "master")).get(query.get("FilePath", ""))
        if content is None or not self.hub.known(query.get("Revision", "master")):
            self._send(404, json.dumps({"Code": 10010205001, "Message": "file not found", "Success": False}).encode())
            return
        self._bytes(content, fault)

    def _hf_list(self, _query: Mapping[str, str], _fault: Fault | None, name: str, revision: str) -> None:
        hub = self.hub
        if not hub.known(revision):
            self._send(404, b'{"error": "Revision Not Found"}')
            return
        siblings = []
        for path in hub.names if hub.names is not None else sorted(hub.at(revision)):
            content = hub.at(revision).get(path, b"")
            one: dict[str, object] = {"rfilename": path, "size": len(content)}
            if path in hub.blob_ids:
                one["blobId"] = hub.blob_ids[path]
            if path not in hub.unhashed:
                one["lfs"] = {"sha256": _sha256(content), "size": len(content), "pointerSize": 135}
            siblings.append(one)
        self._send(200, json.dumps({"id": name, "sha": hub.commit, "siblings": siblings}).encode())

    def _hf_file(self, _query: Mapping[str, str], fault: Fault | None, _name: str, revision: str, path: str) -> None:
        if not self.hub.known(revision) or path not in self.hub.at(revision):
            self._send(404, b"Entry not found")
        elif path in self.hub.unhashed:
            self._bytes(self.hub.at(revision)[path], fault)
        else:
            self._send(302, b"", {"Location": f"/cdn/{revision}/{path}"})

    def _cdn(self, _query: Mapping[str, str], fault: Fault | None, revision: str, path: str) -> None:
        self._bytes(self.hub.at(revision)[path], fault)

    def _index(self, _query: Mapping[str, str], _fault: Fault | None, name: str) -> None:
        links = "".join(
            f'<a href="/wheels/{wheel}#sha256={_sha256(content)}">{wheel}</a>'
            for wheel, content in self.hub.wheels.items()
            if wheel.lower().replace("_", "-").startswith(f"{name}-")
        )
        if not links:
            self._send(404, b"not found")
            return
        page = f"<!DOCTYPE html><html><body>{links}</body></html>".encode()
        self._send(200, page, {"Content-Type": "text/html"})

    def _wheel(self, _query: Mapping[str, str], fault: Fault | None, wheel: str) -> None:
        self._bytes(self.hub.wheels[wheel], fault)

    def _bytes(self, content: bytes, fault: Fault | None) -> None:
        start, status, headers = 0, 200, {"Accept-Ranges": "bytes"}
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(match.group(1))
            if start >= len(content):
                self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            status, headers["Content-Range"] = 206, f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:] + (fault.more if fault else b"")
        if fault and fault.flip:
            body = bytes([body[0] ^ 1]) + body[1:]
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if fault and fault.cut is not None:
            self.wfile.write(body[: fault.cut])
            self.close_connection = True
            return
        if fault and fault.stall is not None:
            self.wfile.write(body[: fault.stall])
            self.wfile.flush()
            self.hub.stalled.set()
            self.hub.go_on.wait(60)
            self.close_connection = True
            return
        self.wfile.write(body)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def wheel_of(name: str, version: str, members: Mapping[str, bytes]) -> tuple[str, bytes]:
    """The file name and the bytes of a wheel that holds `members`."""
    stem = f"{name.replace('-', '_')}-{version}"
    files = dict(members)
    files[f"{stem}.dist-info/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    files[f"{stem}.dist-info/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    files[f"{stem}.dist-info/RECORD"] = b""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return f"{stem}-py3-none-any.whl", out.getvalue()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
