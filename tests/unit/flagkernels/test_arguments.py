"""The options of the steps come from one table."""

from __future__ import annotations

import argparse
import importlib

import pytest

pytest.importorskip("torch", reason="the chip side needs torch")
pytest.importorskip("transformers", reason="tracing builds the model with transformers")

from flagkernels import cli
from flagkernels.arguments import add_option, options

Steps = dict[str, dict[str, argparse.Action]]


@pytest.fixture(scope="module")
def steps() -> Steps:
    """Step → option → action."""
    found = {}
    for step, (module, _) in cli.STEPS.items():
        parser = argparse.ArgumentParser(add_help=False)
        importlib.import_module(module).add_arguments(parser)
        found[step] = {(action.option_strings or [action.dest])[0]: action for action in parser._actions}
    return found


def test_every_option_of_the_table_belongs_to_a_step(steps: Steps) -> None:
    assert set(options()) <= {name for added in steps.values() for name in added}


def test_an_option_that_two_steps_have_is_in_the_table(steps: Steps) -> None:
    own = {"--effective", "--report", "--worker"}  # different meanings, or hidden
    names = [name for added in steps.values() for name in added if name.startswith("--")]
    assert {name for name in names if names.count(name) > 1} - own <= set(options())


def test_every_option_has_a_help_text(steps: Steps) -> None:
    assert [
        f"{step} {name}" for step, added in steps.items() for name, action in added.items() if not action.help
    ] == []


def test_a_step_can_differ_from_the_table() -> None:
    parser = argparse.ArgumentParser()
    add_option(parser, "--seconds", default=5.0)
    add_option(parser, "--max-len")
    assert vars(parser.parse_args([])) == {"seconds": 5.0, "max_len": 4096}
    with pytest.raises(SystemExit):
        parser.parse_args(["--max-len", "0"])
    with pytest.raises(KeyError):
        add_option(parser, "--nosuch")
