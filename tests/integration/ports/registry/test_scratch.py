"""The registry on loopback stores what Docker Engine and our own client push, and refuses what is damaged."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path

import httpx
import pytest

from flagrelease.ports.registry import OciRegistry
from flagrelease.ports.registry.scratch import serving

CONFIG = b'{"architecture": "amd64"}'
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_what_is_pushed_is_there_again_in_the_next_start(tmp_path: Path) -> None:
    registry = OciRegistry()
    with serving(tmp_path) as host:
        name = f"{host}/rehearsal/image"
        registry.check_push(name)
        digest = registry.push_blob(name, CONFIG)
        config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": len(CONFIG)}
        body = json.dumps({"schemaVersion": 2, "config": config, "layers": []}).encode()
        pushed = registry.put_manifest(name, "one", body, MANIFEST_TYPE)
        assert registry.digest(f"{host}/rehearsal/another", "one") is None, "names are those of one repository"
    with serving(tmp_path) as host:
        name = f"{host}/rehearsal/image"
        assert registry.digest(name, "one") == pushed == sha256(body)
        found = registry.manifest(name, pushed)
        assert (found.body, found.media_type) == (body, MANIFEST_TYPE)
        assert registry.blob(name, digest) == CONFIG
        assert registry.digest(name, "two") is None
    assert not (tmp_path / "uploads").exists()


def test_a_body_in_pieces_is_put_together(tmp_path: Path) -> None:
    """Docker Engine sends layers without their length."""
    data = b"layer" * 1000
    with serving(tmp_path) as host, httpx.Client(base_url=f"http://{host}") as client:
        place = client.post("/v2/a/b/blobs/uploads/").headers["Location"]
        answer = client.patch(place, content=iter([data[:7], data[7:]]))
        assert (answer.status_code, answer.headers["Range"]) == (202, f"0-{len(data) - 1}")
        assert client.put(place, params={"digest": sha256(data)}).status_code == 201
        assert client.get(f"/v2/a/b/blobs/{sha256(data)}").content == data
        assert client.head(f"/v2/a/b/blobs/{sha256(b'no')}").status_code == 404


def test_damaged_content_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path) as host, httpx.Client(base_url=f"http://{host}") as client:
        place = client.post("/v2/a/b/blobs/uploads/").headers["Location"]
        assert client.put(place, content=b"x", params={"digest": sha256(b"y")}).status_code == 400
        assert client.put(place, content=b"x", params={"digest": sha256(b"x")}).status_code == 404, "it is gone"
        other = f"/v2/a/b/manifests/{sha256(b'y')}"
        assert client.put(other, content=b"x").status_code == 400
        assert client.get(other).status_code == 404


def test_a_port_that_is_taken_is_replaced(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with serving(tmp_path, port=port) as host:
            assert httpx.get(f"http://{host}/v2/").status_code == 200
            assert not host.endswith(f":{port}")
    with serving(tmp_path, port=port) as host:
        assert host == f"127.0.0.1:{port}"


@pytest.mark.parametrize("path", ["/", "/v2", "/v2/a/blobs/sha256:short", "/v2/../manifests/x"])
def test_nothing_else_is_served(tmp_path: Path, path: str) -> None:
    with serving(tmp_path) as host:
        assert httpx.get(f"http://{host}{path}").status_code == 404
