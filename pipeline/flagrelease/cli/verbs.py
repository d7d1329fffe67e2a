"""The verbs with their flags, and the exit codes."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flagrelease import __version__
from flagrelease.cli.shared import PLAN_STATES
from flagrelease.errors import ConfigError, did_you_mean
from flagrelease.releases.states import STATES

__all__ = ["VERBS", "WITH_STAGES", "parser"]

_EXIT_CODES = """\
exit codes:
  0    done; `diff`: whether or not the two differ
  1    unexpected: a bug in flagrelease
  2    usage or configuration
  3    nothing selected
  4    a gate failed; `verify`: the release differs from its record; `card --lint`: the card has errors;
       `watch`: something is no longer as published
  5    inconclusive: the evidence does not decide; `verify`: what decides is missing; `watch`: a place did not answer
  6    environment: docker, registry, disk, chip
  7    upstream: a hub or registry refused
  75   busy: another run holds the cell
  130  interrupted

environment:
  FLAGRELEASE_REGISTRY, FLAGRELEASE_ENGINE   defaults of --registry and --engine
  FLAGRELEASE_OFFLINE                        set on a host without access to a hub; the card's download is not tested
  credentials of registries and hubs, and all others: docs/operating.md
"""

_MATRIX_HELP = "default: matrix.yaml"
_PROFILE_HELP = "a profile of the matrix: which benchmarks to run, and how many questions of each"

VERBS = (
    ("run", "release all cells, or the selected ones"),
    (
        "night",
        "release what has changed in the whole matrix, a first cell of each chip before the others; for a schedule",
    ),
    ("plan", "show what `run` would do, and why"),
    ("rehearse", "rehearse cells without their chips: everything else is real, and nothing is published"),
    ("tune", "qualify and tune a chip's operators for a model, without the rest of a release"),
    ("fetch", "download everything that cells need, for a host without network access"),
    ("status", "show the state of every cell"),
    ("explain", "explain the state of a cell, stage by stage"),
    ("history", "show every attempt at a cell's stages, oldest first"),
    ("keep", "declare that changed code cannot change a stage's result, so that the stage is not run again"),
    ("yank", "say that a published release is not to be used, and why; of what is published, only `latest` is moved"),
    ("watch", "check whether published releases are still there as published: images, tags, copies, weights"),
    ("verify", "check a published release again, without inference: files, card, grades, verdicts, image"),
    ("bundle", "write a published release to one folder, for a machine without network"),
    ("compare", "compare two answer sets without running anything"),
    ("diff", "show what changed between two releases, or between two states of the whole matrix"),
    ("index", "write a static site that shows all cells, their releases and the evidence of each verdict"),
    ("baseline", "list the stored baseline evaluations, or import one"),
    ("card", "print a cell's model card, or list the defects of any card"),
    ("lock", "pin everything that can change upstream, and show the difference"),
    ("doctor", "check whether this machine can run a release, and say what to fix"),
    ("add", "write the stanza of a chip or a model into matrix.yaml"),
    ("init", "write an initial matrix.yaml and the Dockerfile of its base image"),
    ("completion", "print a completion script for a shell"),
)
_WITHOUT_PROJECT = ("init", "compare", "completion", "verify", "diff", "add")
WITH_STAGES = ("run", "night", "tune", "fetch")
"""Verbs whose finished stages are kept when they are interrupted."""
_WITHOUT_JSON = ("init", "completion")


class _Parser(argparse.ArgumentParser):
    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """Report an unknown argument from the verb's own parser, so that the hint names one of the verb's flags."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return namespace, unknown

    def error(self, message: str) -> None:  # type: ignore[override]
        hint = f"`{self.prog} --help` lists all arguments"
        if message.startswith("argument VERB: invalid choice: "):
            word = message.split("invalid choice: ")[1].split("'")[1]
            names = [name for name, _ in VERBS]
            hint = "`flagrelease --help` describes the verbs, `flagrelease VERB --help` one of them"
            raise ConfigError(f"unknown verb {word!r}", hint=hint if word == "help" else did_you_mean(word, names))
        if message.startswith("unrecognized arguments: -"):
            flag = message.split()[2].partition("=")[0]
            hint = did_you_mean(flag, [name for name in self._option_string_actions if name.startswith("--")])
        raise ConfigError(message, hint=hint)


def parser() -> argparse.ArgumentParser:
    """The parser of the complete command line."""
    top = _Parser(
        prog="flagrelease",
        description="Turn a chip × model matrix into published, provably equivalent LLM serving images.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"flagrelease {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Parser)
    made = {name: verbs.add_parser(name, help=text, description=text, allow_abbrev=False) for name, text in VERBS}
    for name, verb in made.items():
        if name not in _WITHOUT_PROJECT:
            _common(verb)
        if name not in _WITHOUT_JSON:
            verb.add_argument("--json", action="store_true", help="print JSON on stdout")
    for name in ("run", "night", "plan", "tune", "fetch", "status", "lock", "rehearse"):
        _selection(made[name])
    for name in ("run", "plan"):
        _choice(made[name])
    for name, states in (("status", STATES), ("plan", PLAN_STATES)):
        made[name].add_argument(
            "--state",
            action="append",
            choices=states,
            default=[],
            metavar="STATE",
            help=f"only cells in this state: {', '.join(states)}; repeatable",
        )
    _releasing(made)
    made["rehearse"].add_argument(
        "--keep", action="store_true", help="keep weights, answers and logs, not only card and report"
    )
    _tuning(made["tune"])
    _answers(made["compare"], made["baseline"])
    _verification(made["verify"])
    _watch(made["watch"])
    for name, text in (("a", "a release (folder, release.json or image) or a matrix"), ("b", "the same, later")):
        made["diff"].add_argument(name, metavar=name.upper(), help=text)
    for name in ("explain", "history", "bundle"):
        made[name].add_argument("cell", metavar="CHIP/MODEL")
    _history(made["history"])
    made["index"].add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="the site's folder, replaced; default: index in the workspace"
    )
    made["index"].add_argument(
        "--url", default="", metavar="URL", help="where the site will be, for absolute links in its feed"
    )
    _keep(made["keep"])
    _yank(made["yank"])
    _card(made["card"])
    made["bundle"].add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="the folder to write; default: CHIP-MODEL-TAG.bundle"
    )
    made["bundle"].add_argument("--weights", action="store_true", help="add the files of the weights")
    _add(made["add"])
    for name in ("add", "init", "completion"):
        made[name].add_argument("--matrix", type=Path, default=Path("matrix.yaml"), metavar="FILE", help=_MATRIX_HELP)
    made["completion"].add_argument(
        "shell",
        choices=("bash", "zsh", "fish", "cells"),
        help="the shell; `cells` prints the cells of the matrix, which the scripts complete",
    )
    made["completion"].set_defaults(parser=top)
    return top


def _common(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--matrix", type=Path, default=Path("matrix.yaml"), metavar="FILE", help=_MATRIX_HELP)
    verb.add_argument("--workspace", type=Path, metavar="DIR", help="default: .flagrelease next to the matrix")
    verb.add_argument(
        "--registry",
        metavar="HOST/PREFIX",
        default=os.environ.get("FLAGRELEASE_REGISTRY"),
        help="overrides the matrix",
    )
    verb.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with your own benchmark data")


def _selection(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("cells", nargs="*", metavar="CHIP/MODEL", help="cells, or globs that match cells; default: all")
    verb.add_argument(
        "--chip", action="append", default=[], metavar="GLOB", help="only cells of these chips; repeatable"
    )
    verb.add_argument(
        "--model", action="append", default=[], metavar="GLOB", help="only cells of these models; repeatable"
    )
    verb.add_argument("--profile", metavar="NAME", help=_PROFILE_HELP)


def _choice(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--only", action="append", default=[], metavar="STAGE", help="run only this stage; repeatable")
    verb.add_argument(
        "--force",
        action="append",
        default=[],
        metavar="STAGE",
        help="run this stage even if it is up to date; repeatable",
    )


def _releasing(made: Mapping[str, argparse.ArgumentParser]) -> None:
    """The flags of the verbs that take cells through stages, or show how that would be."""
    for name in ("run", "night", "plan", "tune", "doctor"):
        made[name].add_argument(
            "--runner",
            choices=("docker", "process"),
            default="docker",
            help="process: serve without containers, for a host without Docker; nothing is published",
        )
    for name, default in (("run", "prefect"), ("night", "prefect"), ("tune", "inline")):
        made[name].add_argument(
            "--engine",
            type=_engine,
            default=os.environ.get("FLAGRELEASE_ENGINE") or default,
            metavar="{prefect,inline}",
            help=f"the executor that runs the stages; default: {default}",
        )
    made["plan"].add_argument(
        "--power", action="store_true", help="forecast the cost and the statistical power of the evaluation instead"
    )
    made["plan"].add_argument(
        "--github", action="store_true", help="print outputs of a GitHub Actions step: one job for each chip with work"
    )
    made["run"].add_argument("--dry-run", action="store_true", help="the same as `plan`")
    for name in ("run", "night"):
        made[name].add_argument(
            "--reason", default="", metavar="TEXT", help="why a new release is made; for its record and card"
        )
        made[name].add_argument(
            "--rounds",
            type=int,
            metavar="N",
            help="after a failed gate, find the operators at fault and go on without them, at most N times; 0: never",
        )
    made["night"].add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="folder of its page; default: night in the workspace"
    )


def _tuning(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--policy", choices=("express", "coverage"), help="overrides the matrix")
    verb.add_argument("--budget", metavar="TIME", help="time limit for tuning (90s, 10m, 2h); overrides the matrix")
    verb.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="tune for the model of this config.json with random weights, without downloading any",
    )
    verb.add_argument("--again", action="store_true", help="tune again even if nothing has changed")


def _card(verb: argparse.ArgumentParser) -> None:
    subject = verb.add_mutually_exclusive_group(required=True)
    subject.add_argument("cell", nargs="?", metavar="CHIP/MODEL")
    subject.add_argument(
        "--lint",
        type=Path,
        metavar="FILE",
        help="list the defects of a card from anywhere; exit code 4 if it has errors",
    )
    verb.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="write README.md, release.json and the chart to DIR"
    )


def _add(verb: argparse.ArgumentParser) -> None:
    kinds = verb.add_subparsers(dest="kind", metavar="chip|model", required=True, parser_class=type(verb))
    parsers = {kind: kinds.add_parser(kind, help=f"add a {kind}", allow_abbrev=False) for kind in ("chip", "model")}
    for kind, flags in (
        ("chip", "vendor device-name code base python flagscale flaggems gpus shm ipc"),
        ("model", "source title upstream license"),
    ):
        parsers[kind].add_argument("name", metavar="NAME", help=f"the {kind}'s name in the matrix")
        for flag in flags.split():
            parsers[kind].add_argument(f"--{flag}", metavar="TEXT", help="its key in matrix.yaml: docs/matrix.md")
        parsers[kind].add_argument("--dry-run", action="store_true", help="print the stanza and write nothing")
        later: dict[str, Any] = {"default": argparse.SUPPRESS}  # keep what was given before the kind
        parsers[kind].add_argument("--matrix", type=Path, metavar="FILE", help=_MATRIX_HELP, **later)
        parsers[kind].add_argument("--json", action="store_true", help="print JSON on stdout", **later)
    parsers["chip"].add_argument("--host-devices", type=_number, metavar="N", help="devices of its machine")
    parsers["chip"].add_argument("--memory", type=float, metavar="GIB", help="memory of a device")
    model = parsers["model"]
    model.add_argument("--engine", default="vllm", metavar="NAME", help="the serving engine; default: vllm")
    for flag in ("max-model-len", "devices", "max-tokens", "top-k"):
        model.add_argument(f"--{flag}", type=_number, metavar="N", help="its key in matrix.yaml: docs/matrix.md")
    for flag in ("temperature", "top-p"):
        model.add_argument(f"--{flag}", type=float, metavar="X", help="instead of the model's own")
    model.add_argument("--thinking", action="store_true", help="the model reasons before it answers")
    model.add_argument("--languages", nargs="+", metavar="CODE", help="ISO 639 codes, instead of those of its card")
    model.add_argument("--offline", action="store_true", help="do not read the model's hub")


def _history(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--stage", action="append", default=[], metavar="STAGE", help="only this stage; repeatable")
    verb.add_argument("--last", type=_number, metavar="N", help="only the newest N attempts")


def _number(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def _keep(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("cell", metavar="CHIP/MODEL")
    verb.add_argument("stage", metavar="STAGE", help="a stage that has a result and would run again")
    verb.add_argument(
        "--reason", required=True, metavar="TEXT", help="why; written to the ledger, the record and the card"
    )
    verb.add_argument("--profile", metavar="NAME", help=_PROFILE_HELP)


def _yank(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("cell", metavar="CHIP/MODEL")
    verb.add_argument("--reason", required=True, metavar="TEXT", help="why; shown by `status`, the index and the card")
    verb.add_argument("--tag", metavar="TAG", help="the release; default: the cell's newest")
    verb.add_argument("--undo", action="store_true", help="take the yank of the release back")


def _watch(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "cells", nargs="*", metavar="CHIP/MODEL", help="cells, or globs that match cells; default: all published ones"
    )
    verb.add_argument("--all", action="store_true", help="every release; default: the newest that is not yanked")
    verb.add_argument("--deep", action="store_true", help="read and hash all bytes of images, copies and weights")
    verb.add_argument("--key", type=Path, metavar="FILE", help="public key (PEM) that has to have signed the releases")
    verb.add_argument("--seconds", type=_number, metavar="N", help="time for each place; default: 60, with --deep 3600")


def _answers(compare: argparse.ArgumentParser, baseline: argparse.ArgumentParser) -> None:
    compare.add_argument("baseline", metavar="A", type=Path, help="samples.jsonl, its folder, or release.json")
    compare.add_argument("candidate", metavar="B", type=Path, help="the same for the candidate; A is the baseline")
    compare.add_argument(
        "--margin",
        action="append",
        default=[],
        metavar="[BENCHMARK=]FRACTION",
        help="non-inferiority margin, such as mmlu=0.01 for 1 percentage point; repeatable; default: the one recorded "
        "with the answers, else the usual one of the benchmark",
    )
    baseline.add_argument("action", choices=("list", "import"))
    baseline.add_argument(
        "path", nargs="?", type=Path, metavar="PATH", help="answers with conditions.json, or a release"
    )
    baseline.add_argument("cell", nargs="?", metavar="CHIP/MODEL", help="the cell that uses this baseline")
    baseline.add_argument("--profile", metavar="NAME", help=_PROFILE_HELP)


def _verification(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "subject",
        metavar="FOLDER|IMAGE|BUNDLE",
        help="the folder of a release, HOST/NAME:TAG of its image, or the folder that `bundle` wrote",
    )
    verb.add_argument(
        "--folder", type=Path, metavar="DIR", help="with an image: its release; default: as attached to it"
    )
    verb.add_argument(
        "--data-dir",
        action="append",
        type=Path,
        default=[],
        metavar="DIR",
        help="folder with the questions, to grade the answers again; repeatable; not needed for generated ones",
    )
    verb.add_argument(
        "--programs", action="store_true", help="also run the programs in answers, in a sandbox, to grade them again"
    )
    verb.add_argument("--templates", type=Path, metavar="DIR", help="the card's template; default: the installed one")
    verb.add_argument("--key", type=Path, metavar="FILE", help="public key (PEM) that has to have signed the release")
    verb.add_argument("--ca", type=Path, metavar="FILE", help="PEM file of a private authority of the registry")
    verb.add_argument("--receipt", type=Path, metavar="FILE", help="write what was checked, by which version and when")


def _engine(text: str) -> str:
    """The value of --engine. Not `choices`: argparse does not check defaults against them, and this default comes from
    the environment."""
    if text not in ("prefect", "inline"):
        raise argparse.ArgumentTypeError(
            f"invalid choice: {text!r} (choose from prefect, inline; FLAGRELEASE_ENGINE is the default)"
        )
    return text
