"""Shared HTTP helpers: Retry-After, loopback, origins and challenges."""

import pytest

from flagrelease.ports.http import challenges, is_loopback, origin, retry_after


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("0", 0.0),
        ("", None),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    assert retry_after(text) == seconds


@pytest.mark.parametrize("host", ["localhost", "localhost:5000", "127.0.0.1:5000", "127.1.2.3", "[::1]:5000", "[::1]"])
def test_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["harbor.baai.ac.cn", "localhost.example.org:5000", "10.0.0.1:5000", "128.0.0.1"])
def test_another_machine(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "host", ["127.example.org", "127.0.0.1.example.org", "localhost:5000@example.org", "localhost:x"]
)
def test_a_name_that_looks_like_this_machine(host: str) -> None:
    assert not is_loopback(host)


def test_origins_are_equal_whatever_the_spelling() -> None:
    assert origin("https://Reg.example/v2/") == origin("https://reg.example:443") != origin("http://reg.example")
    assert str(origin("HTTP://[::1]:5000/x")) == "http://[::1]:5000"
    for url in ("/v2/", "ftp://reg.example", "https://", "https://reg.example:port", "http://["):
        assert origin(url) is None
    for url, private in (("https://x", True), ("http://127.0.0.2", True), ("http://x", False)):
        found = origin(url)
        assert found is not None
        assert found.private is private


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("", []),
        ("Negotiate", [("negotiate", {})]),
        ('Bearer realm="https://a/t",service=b', [("bearer", {"realm": "https://a/t", "service": "b"})]),
        (
            'Basic realm="a, \\"b\\" Bearer", Bearer Realm = "c", scope="x:y:pull,push"',
            [("basic", {"realm": 'a, "b" Bearer'}), ("bearer", {"realm": "c", "scope": "x:y:pull,push"})],
        ),
    ],
)
def test_challenges(header: str, found: object) -> None:
    assert challenges(header) == found
