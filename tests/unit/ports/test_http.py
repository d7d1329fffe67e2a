"""Shared HTTP helpers: Retry-After parsing and loopback detection."""

import pytest

from flagrelease.ports.http import is_loopback, retry_after


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


@pytest.mark.parametrize("host", ["localhost", "localhost:5000", "127.0.0.1:5000", "127.1.2.3", "[::1]:5000"])
def test_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["harbor.baai.ac.cn", "localhost.example.org:5000", "10.0.0.1:5000", "128.0.0.1"])
def test_another_machine(host: str) -> None:
    assert not is_loopback(host)
