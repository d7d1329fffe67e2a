"""Servers that stay up between stages: taken again while they run, and all stopped at the end."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from flagrelease.standing import Standing


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
    standing: Any = Standing()
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
    standing: Any = Standing()
    gone = Server(Program(over=True))
    standing.leave(("i", "w", "s"), gone)
    assert standing.take(("i", "w", "s")) is None
    assert gone.running.stops == 1


def test_the_host_is_taken_once_and_let_go_at_the_end() -> None:
    seen: list[str] = []

    def take(held: ExitStack) -> None:
        seen.append("taken")
        held.callback(seen.append, "free")

    standing = Standing()
    standing.hold(take)
    standing.hold(take)
    assert seen == ["taken"]
    standing.close()
    standing.close()
    assert seen == ["taken", "free"]
    standing.hold(take)
    assert seen == ["taken", "free", "taken"]
