"""Dispatch `python -m flagkernels STEP …` to a step: a module with `add_arguments` and `main`."""

from __future__ import annotations

import argparse
import importlib
import sys
import warnings
from collections.abc import Sequence
from typing import Protocol, cast

from flagkernels.errors import ChipFault, KernelsError
from flagkernels.progress import report_failure

__all__ = ["STEPS", "main"]

STEPS: dict[str, tuple[str, str]] = {
    "prepare": ("flagkernels.prepare", "run all steps from trace to bundle; resumes where it stopped"),
    "trace": ("flagkernels.model.trace", "list the operators and shapes of a model, from its config.json alone"),
    "qualify": ("flagkernels.qualify.qualify", "compare each operator with float64, each in a separate process"),
    "tune": ("flagkernels.tuning.tune", "find the fastest candidate of every kernel, compiling ahead in parallel"),
    "bench": (
        "flagkernels.measure.bench",
        "time each operator and shape class against the native kernel and the chip's limits",
    ),
    "select": ("flagkernels.measure.select", "choose the operators to ship: coverage, or express by shape class"),
    "bundle": ("flagkernels.bundle.bundle", "pack operators, database and kernels for one chip into a folder"),
    "activate": ("flagkernels.engine.activate", "check that a bundle fits this machine, or show what is in effect"),
    "run": ("flagkernels.engine.plugin", "start an engine with a bundle in effect in all its processes"),
    "record": ("flagkernels.engine.record", "count an engine's calls on native kernels, and compare them with a trace"),
    "attribute": ("flagkernels.attribute.attribute", "find the operators that made the answers worse"),
}


CODES = "exit codes: 0 done, 1 unexpected, 2 usage or input, 3 nothing to do, 4 refused, 6 machine, 130 interrupted"


class Step(Protocol):
    """The interface of a subcommand's module."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...
    def main(self, args: argparse.Namespace) -> int: ...


def _load(name: str) -> Step:
    return cast(Step, importlib.import_module(STEPS[name][0]))


def _overview() -> argparse.ArgumentParser:
    steps = "\n".join(f"  {name:<10} {text}" for name, (_, text) in STEPS.items())
    return argparse.ArgumentParser(
        prog="python -m flagkernels",
        usage="python -m flagkernels STEP [options]",
        description=f"{__import__('flagkernels').__doc__}\nsteps:\n{steps}\n\n`STEP --help` lists its options.",
        epilog=CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a step and return its exit code. Only that step is imported, so that `--help` needs no torch."""
    argv = list(sys.argv[1:] if argv is None else argv)
    overview = _overview()
    if not argv or argv[0] in {"-h", "--help"}:
        overview.print_help()
        return 0 if argv else 2
    overview.add_argument("step", choices=sorted(STEPS), metavar="STEP")
    name = overview.parse_args(argv[:1]).step
    try:
        step = _load(name)
        parser = argparse.ArgumentParser(prog=f"python -m flagkernels {name}", description=STEPS[name][1])
        step.add_arguments(parser)
        args = parser.parse_args(argv[1:])
        with warnings.catch_warnings():
            if not sys.warnoptions:  # libraries' warnings to developers would bury the steps' own output
                warnings.simplefilter("ignore")
            return step.main(args)
    except KernelsError as error:
        report_failure(name, error)
        return error.exit_code
    except ModuleNotFoundError as error:
        hint = "run in the chip's base image, or `pip install 'flagrelease[kernels]'`"
        missing = ChipFault(f"{error.name or error} is not installed", hint=hint)
        report_failure(name, missing)
        return missing.exit_code
    except KeyboardInterrupt:
        print(f"flagkernels {name}: interrupted; finished work is kept, run again to resume", file=sys.stderr)  # noqa: T201
        return 130
