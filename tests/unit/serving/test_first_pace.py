"""A server's speed is known before the evaluation, and a server that hangs by then is noticed."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from typing import Any

import pytest

from flagrelease.errors import SmokeFailed
from flagrelease.serving.first_pace import token_seconds
from support.endpoints import Said, chat, serving


def test_it_is_the_slowest_of_as_many_requests_as_will_be_open() -> None:
    def answer(_request: dict[str, Any], n: int) -> Said:
        return replace(chat("one two three", tokens=4), seconds=0.8 if n == 2 else 0.2)

    with serving(answer) as server:
        measured = token_seconds(server.base_url, "m", 3)
        assert (sum(server.asked.values()), server.most_in_flight) == (3, 3)
    assert 0.2 <= measured < 2


def test_a_server_that_accepts_requests_and_does_not_answer_them_hangs() -> None:
    with socket.socket() as hung:
        hung.bind(("127.0.0.1", 0))
        hung.listen()
        began = time.monotonic()
        with pytest.raises(SmokeFailed, match="the server has stopped answering") as caught:
            token_seconds(f"http://127.0.0.1:{hung.getsockname()[1]}/v1", "m", 2, limit=0.3)
        assert time.monotonic() - began < 5
    assert "within 0 s" in caught.value.why


@pytest.mark.parametrize("answer", [Said(b"{}", status=500), Said(b"{}"), Said(b"[")])
def test_what_cannot_be_measured_is_not_known(answer: Said) -> None:
    with serving(lambda _request, _n: answer) as server:
        assert token_seconds(server.base_url, "m", 1) == 0
    assert token_seconds(server.base_url, "m", 1) == 0, "nobody is there"
