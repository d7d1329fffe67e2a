"""Smoke reports what a server answers wrongly as a failed check, and never as a defect of flagrelease."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

import support.finished_cell as given
from flagrelease.errors import DockerUnavailable, SmokeFailed
from flagrelease.ports.openai_client import Client
from flagrelease.serving.inside import Inside
from flagrelease.stages.smoke.run import _checks, _perform
from support.contexts import Executing, Shown, SleeplessClock, served, without_ports

SERVER = served(Executing(lambda _argv: ""))


@pytest.mark.parametrize(
    "check",
    [
        lambda: json.loads("[" * 100_000),
        lambda: json.loads("<html>"),
        lambda: json.loads("{}")["choices"],
        lambda: json.loads("[]").get("choices"),
        lambda: json.loads("5")[0],
    ],
)
def test_a_response_of_another_schema_is_a_failed_check(check: Callable[[], str]) -> None:
    context = without_ports(Path("nowhere"), SleeplessClock(), Shown())
    (bad, good), skipped = _perform(context, SERVER, [("bad", check), ("good", lambda: "fine")], {})
    assert (bad.passed, good.passed, skipped) == (False, True, {})
    assert bad.detail.startswith("unexpected response schema: ")


def test_docker_that_goes_away_is_not_a_failed_check() -> None:
    def lost() -> str:
        raise DockerUnavailable("Docker Engine does not answer")

    with pytest.raises(DockerUnavailable):
        _perform(without_ports(Path("nowhere"), SleeplessClock(), Shown()), SERVER, [("lost", lost)], {})


def test_a_server_that_does_not_answer_the_first_question_has_failed() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening, so that connections are refused
        with Client(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", seconds=5) as client:
            container: Inside = None  # type: ignore[assignment]  # not asked
            with pytest.raises(SmokeFailed, match="first question") as caught:
                list(_checks(given.job().cell, SERVER, client, container, None))
    assert "ConnectError" in caught.value.why
    assert caught.value.detail.startswith("the last")
