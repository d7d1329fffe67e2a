"""Errors of Docker name what it was doing, once."""

import pytest

from flagrelease.errors import DockerUnavailable
from flagrelease.ports.docker.errors import translated


@pytest.mark.parametrize(
    ("doing", "what"),
    [
        ("reaching Docker Engine", "Docker Engine does not answer"),
        ("building the image", "Docker Engine does not answer while building the image"),
    ],
)
def test_an_engine_that_is_away(doing: str, what: str) -> None:
    with pytest.raises(DockerUnavailable) as caught, translated(doing):
        raise ConnectionRefusedError(111, "Connection refused")
    assert caught.value.what == what
    assert caught.value.hint.endswith("finished stages are kept") is ("while" in what)
