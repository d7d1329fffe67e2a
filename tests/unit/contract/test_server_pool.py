"""Servers that stay up between stages: taken again while they run, and all stopped at the end."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from flagrelease.contract.server_pool import ServerPool
from flagrelease.errors import DockerUnavailable


@dataclass
class Program:
    """What is started; counts how often it was stopped."""

    over: bool = False
    stops: int = 0

    def ended(self) -> object | None:
        return "ended" if self.over else None

    def stop(self) -> None:
        self.stops += 1


@dataclass
class Server:
    running: Program = field(default_factory=Program)


def test_a_server_is_taken_by_its_key_alone() -> None:
    standing: Any = ServerPool()
    native, flagos = Server(), Server()
    standing.leave(("image", "weights", "native"), native)
    standing.leave(("image", "weights", "flagos"), flagos)
    assert standing.take(("another", "weights", "native")) is None
    assert standing.take(("image", "weights", "native")) is native
    assert standing.take(("image", "weights", "native")) is None
    standing.close()
    assert (native.running.stops, flagos.running.stops) == (0, 1), "what was taken is the taker's"
    assert not standing


def test_one_that_ended_meanwhile_is_removed_and_not_given() -> None:
    standing: Any = ServerPool()
    gone = Server(Program(over=True))
    standing.leave(("i", "w", "s"), gone)
    assert standing.take(("i", "w", "s")) is None
    assert gone.running.stops == 1


def test_the_host_is_taken_once_and_let_go_at_the_end() -> None:
    seen: list[str] = []

    def take(held: ExitStack) -> None:
        seen.append("taken")
        held.callback(seen.append, "free")

    standing = ServerPool()
    standing.hold(take)
    standing.hold(take)
    assert seen == ["taken"]
    standing.close()
    standing.close()
    assert seen == ["taken", "free"]
    standing.hold(take)
    assert seen == ["taken", "free", "taken"]


def test_one_that_cannot_be_stopped_keeps_neither_the_others_nor_the_host() -> None:
    class Stuck(Program):
        def stop(self) -> None:
            super().stop()
            raise DockerUnavailable("no answer")

    standing: Any = ServerPool()
    seen: list[str] = []
    standing.hold(lambda held: held.callback(seen.append, "free"))
    servers = [Server(), Server(Stuck()), Server()]
    for number, server in enumerate(servers):
        standing.leave((str(number), "w", "s"), server)
    with pytest.raises(DockerUnavailable):
        standing.close()
    assert [one.running.stops for one in servers] == [1, 1, 1]
    assert seen == ["free"]
    assert not standing


def test_one_that_cannot_be_asked_is_still_stopped_at_the_end() -> None:
    class Silent(Program):
        def ended(self) -> object | None:
            raise DockerUnavailable("no answer")

    standing: Any = ServerPool()
    server = Server(Silent())
    standing.leave(("i", "w", "s"), server)
    with pytest.raises(DockerUnavailable):
        standing.take(("i", "w", "s"))
    standing.close()
    assert server.running.stops == 1
