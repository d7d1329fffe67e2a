"""The errors that users see when flagkernels fails on the chip."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from flagrelease.config.chip import KernelSettings
from flagrelease.config.engines import Parallel
from flagrelease.errors import CommandFailed, ConfigError, EnvironmentFault, FlagreleaseError, GateFailed
from flagrelease.ports.progress import Silent
from flagrelease.stages.kernels import flagkernels_cli

EVENT = {"step": "qualify", "done": 3, "total": 15, "doing": "mm silu"}


def error(*lines: str, ended: CommandFailed | None = None) -> FlagreleaseError:
    output = flagkernels_cli._Output(Silent())
    for line in lines:
        output.line(line)
    return output.error("kernels", ended or CommandFailed("box ended with 1", why=lines[-1], detail="\n".join(lines)))


def failed(code: int, what: str = "no", hint: str = "") -> str:
    return json.dumps({"failed": "select", "code": code, "what": what, "why": "", "hint": hint})


def test_a_timeout_names_the_last_step_and_shows_no_json() -> None:
    late = CommandFailed("box did not end within 5 s", why="it was stopped", detail=json.dumps(EVENT))
    found = error(json.dumps(EVENT), ended=late)
    assert found.line() == (
        "kernels: box did not end within 5 s: it was stopped; "
        "the last reported step was `qualify: mm silu, 3 of 15 operators`"
    )
    assert found.detail == ""
    assert "kernels.limit" in found.hint


def test_an_unreported_failure_shows_what_was_printed() -> None:
    found = error("Traceback", "ImportError: libcuda.so.1", json.dumps(EVENT))
    assert found.why.startswith("ImportError: libcuda.so.1; the last reported step was `qualify")
    assert found.detail == "Traceback\nImportError: libcuda.so.1"
    silent = CommandFailed("box ended with 137", why="memory ran out")
    assert error(ended=silent).line() == "kernels: box ended with 137: memory ran out"


@pytest.mark.parametrize(
    ("code", "kind", "exit_code"),
    [(2, ConfigError, 2), (3, GateFailed, 4), (4, GateFailed, 4), (6, EnvironmentFault, 6), (1, EnvironmentFault, 6)],
)
def test_each_error_has_its_exit_code_and_the_first_is_the_cause(code: int, kind: type, exit_code: int) -> None:
    found = error(failed(code, "the cause"), failed(6, "select ended with exit code 4"))
    assert (type(found), found.exit_code, found.what) == (kind, exit_code, "select: the cause")


def test_hints_name_settings_of_the_matrix() -> None:
    assert error(failed(6, hint="run on the chip, or --device cpu")).hint == (
        "run on the chip, or kernels.device cpu (in matrix.yaml)"
    )
    assert error(failed(3, hint="use --policy coverage")).hint == (
        "use kernels.policy coverage (in matrix.yaml); or serve it with defaults.stack: native"
    )
    assert error(failed(4)).hint == "serve it with defaults.stack: native"
    assert error(failed(2, hint="did you mean 'neg'?")).hint == "did you mean 'neg'?"


def test_every_matrix_name_of_an_option_is_a_key_of_the_matrix() -> None:
    names = flagkernels_cli.matrix_names()
    keys = {f"kernels.{field.name}" for field in fields(KernelSettings)}
    keys |= {"serve.devices"} | {f"serve.parallel.{field.name}" for field in fields(Parallel)}
    assert {name for name in names.values() if not name.startswith("serve.args.")} <= keys
    assert keys - set(names.values()) == {"kernels.limit"}, "a limit of the stage, not an option of flagkernels"
