"""Flags that this machine's engine refuses are found one by one, and everything else stays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import support.served_cell as given
from flagrelease.config.chip import Container
from flagrelease.errors import DockerUnavailable, EnvironmentFault
from flagrelease.recipe.container import ContainerRun
from flagrelease.rehearsal import flags


class Engine:
    """Refuses some options as an engine without these capabilities does."""

    def __init__(self, *refused: str) -> None:
        self._refused = refused
        self.started = 0

    def start(self, run: ContainerRun) -> Any:
        self.started += 1
        for option in run.options():
            if option in self._refused:
                why = f"unable to start: error during container init: {option} is not permitted: unknown"
                raise EnvironmentFault("starting failed", why=why)
        return self

    def stop(self) -> None:
        pass


FLAGS = given.cell("metax/qwen3-8b").chip.container


def asked(engine: Any, container: Container = FLAGS) -> dict[str, str]:
    return flags.refused(engine, container, "image", {})


def test_one_start_is_enough_if_nothing_is_refused() -> None:
    engine = Engine("--device=/dev/mxcd", "--gpus=all")
    assert asked(engine, replace(FLAGS, gpus="all")) == {}, "devices are looked for on the host"
    assert engine.started == 1
    assert flags.usable(FLAGS, {}) == FLAGS


def test_each_refused_option_is_named_with_the_reason() -> None:
    found = asked(Engine("--ulimit=memlock=-1", "--privileged"))
    assert found == {name: f"{name} is not permitted" for name in ("--ulimit=memlock=-1", "--privileged")}
    left = flags.usable(FLAGS, found)
    assert (left.ulimits, left.privileged) == ({}, False)
    assert (left.security, left.groups, left.devices) == (FLAGS.security, FLAGS.groups, FLAGS.devices)


def test_an_engine_that_is_away_is_no_refusal() -> None:
    class Away:
        def start(self, _run: object) -> None:
            raise DockerUnavailable("the engine does not run")

    with pytest.raises(DockerUnavailable):
        asked(Away())
