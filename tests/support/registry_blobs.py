"""Blobs of a registry on this machine, by the distribution protocol: tests put images together and take them apart."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx


def _client(repository: str) -> httpx.Client:
    import httpx

    host, _, name = repository.partition("/")
    return httpx.Client(base_url=f"http://{host}/v2/{name}", trust_env=False, follow_redirects=True)


def upload(repository: str, data: bytes) -> str:
    """Store a blob; its digest."""
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    with _client(repository) as client:
        place = client.post("/blobs/uploads/").raise_for_status().headers["Location"]
        joint = "&" if "?" in place else "?"
        client.put(f"{place}{joint}digest={digest}", content=data).raise_for_status()
    return digest


def blob(repository: str, digest: str) -> bytes:
    """A blob's bytes, checked against its digest."""
    with _client(repository) as client:
        body: bytes = client.get(f"/blobs/{digest}").raise_for_status().content
    assert "sha256:" + hashlib.sha256(body).hexdigest() == digest
    return body
