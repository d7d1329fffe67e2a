"""Find the operators that degrade a model's answers, in minutes instead of rounds of full benchmarks.

Compares the teacher-forced log-probabilities of a fixed text under each set of operators with those of the native
kernels. The yardstick is measured: the native model in its own dtype already deviates from the native model in
float32, and an operator is a suspect only if its deviation is significantly larger."""

from __future__ import annotations

import argparse
import itertools
import math
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from flagkernels.arguments import add_option, at_least
from flagkernels.attribute.worker import BEGUN, CHIP_LOST, supervise
from flagkernels.bundle import bundle
from flagkernels.errors import Refused, UsageError
from flagkernels.files import append_line, read_json, read_lines, write_json, write_text
from flagkernels.operators import catalogue, listing
from flagkernels.operators.listing import Operators
from flagkernels.progress import Progress

__all__ = [
    "Answers",
    "Attribution",
    "Lost",
    "Measurement",
    "Round",
    "add_arguments",
    "attribute",
    "judge",
    "main",
    "read_record",
]

EXCESS = 1.25  # multiple of the native distance from float32; rounding explains differences up to this
SIGMAS = 4.0  # standard errors by which the squared errors must differ
PAIRED = 6  # suspects tried in pairs if no single operator explains the difference


class Answers(Protocol):
    """Computes the log-probability of each token of a fixed text."""

    def native(self) -> Sequence[float]:
        """With the native kernels, in the model's dtype."""

    def reference(self) -> Sequence[float]:
        """With the native kernels, in float32."""

    def with_operators(self, names: frozenset[str]) -> Sequence[float]:
        """With exactly these operators. May raise: an operator that fails is a culprit as well."""

    def alive(self) -> bool:
        """False if the chip no longer responds."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A set of operators compared with the native kernels. The figures are None if the answers could not be used."""

    operators: tuple[str, ...]
    excess: float | None
    """Root mean square distance from float32, as a multiple of the native one."""
    shift: float | None
    """Mean difference in log-probability from native, nats per token."""
    sigmas: float | None
    """Mean difference of the squared errors from native, in standard errors."""
    guilty: bool
    note: str = ""
    """Why there are no figures."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        figures = (
            self.note if self.excess is None else f"excess {self.excess:.3f}, shift {self.shift:+.5f} nats a token"
        )
        names = ", ".join(self.operators) if len(self.operators) <= 3 else f"{len(self.operators)} operators"
        return f"{names}: {figures}" + ("  ← guilty" if self.guilty else "")


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round of the search."""

    together: Measurement
    """The set that the round starts from."""
    measurements: tuple[Measurement, ...]
    """Of single operators, then of pairs."""
    culprit: str | None
    partner: str | None = None
    """The other operator, if only a pair is guilty."""


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """The result of the search."""

    together: Measurement | None
    """All operators together; None if there are none."""
    rounds: tuple[Round, ...]
    culprits: tuple[str, ...]
    remaining: tuple[str, ...]
    clean: bool
    """True if the remaining operators are as near to float32 as the native kernels."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def judge(
    names: Sequence[str], answers: Sequence[float], native: Sequence[float], reference: Sequence[float]
) -> Measurement:
    """Compare one set of operators with native, token by token. Raises ValueError if the lengths differ."""
    named = tuple(sorted(names))
    if not all(map(math.isfinite, answers)):
        lost = sum(not math.isfinite(x) for x in answers)
        return Measurement(
            operators=named,
            excess=None,
            shift=None,
            sigmas=None,
            guilty=True,
            note=f"{lost} tokens are NaN or infinite",
        )
    theirs = [(a - r) ** 2 for a, r in zip(answers, reference, strict=True)]
    ours = [(n - r) ** 2 for n, r in zip(native, reference, strict=True)]
    # A float32 model has no native distance; use the resolution of float32 sums instead.
    noise = max(math.sqrt(statistics.fmean(ours)), 1e-6)
    excess = math.sqrt(statistics.fmean(theirs)) / noise
    differences = [t - o for t, o in zip(theirs, ours, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    mean = statistics.fmean(differences)
    sigmas = mean / error if error > 0 else (math.copysign(1e9, mean) if mean else 0.0)
    return Measurement(
        operators=named,
        excess=excess,
        shift=statistics.fmean(a - n for a, n in zip(answers, native, strict=True)),
        sigmas=sigmas,
        guilty=(excess > EXCESS and sigmas > SIGMAS) or excess > 2 * EXCESS,
    )


class Lost(Exception):
    """The chip no longer responds; the measurements continue in a new process."""


def read_record(path: Path) -> dict[tuple[str, ...], Measurement]:
    """The measurements in the record, by their operators."""
    measurements = {}
    for data in read_lines(path):
        if BEGUN not in data:
            measurement = Measurement(**{**data, "operators": tuple(data["operators"])})
            measurements[measurement.operators] = measurement
    return measurements


class _Measurements:
    """Measures each set once and records it in a file, which is read back after a kill."""

    def __init__(self, answers: Answers, record: Path | None) -> None:
        self.answers, self.record = answers, record
        self.native, self.reference = list(answers.native()), list(answers.reference())
        self.known = read_record(record) if record else {}

    def __call__(self, names: Sequence[str]) -> Measurement:
        key = tuple(sorted(names))
        if key not in self.known:
            if self.record:
                append_line(self.record, {BEGUN: key})
            self.known[key] = self._measure(key)
            if self.record:
                append_line(self.record, self.known[key].to_json())
            if self.known[key].excess is None and not self.answers.alive():
                raise Lost
        return self.known[key]

    def _measure(self, key: tuple[str, ...]) -> Measurement:
        try:
            return judge(key, self.answers.with_operators(frozenset(key)), self.native, self.reference)
        except Exception as error:  # any exception of a kernel makes it guilty
            line = str(error).splitlines()[0] if str(error) else ""
            note = f"{type(error).__name__}: {line}"
            return Measurement(operators=key, excess=None, shift=None, sigmas=None, guilty=True, note=note)


def attribute(
    answers: Answers,
    operators: Sequence[str],
    *,
    rounds: int = 4,
    record: Path | None = None,
    progress: Progress | None = None,
) -> Attribution:
    """Remove one culprit per round until the rest is clean, no culprit is found, or `rounds` is reached."""
    measure = _Measurements(answers, record)
    remaining, culprits, done = sorted(operators), list[str](), list[Round]()
    first = together = measure(remaining) if remaining else None
    while together is not None and together.guilty and len(done) < rounds:
        latest = _round(measure, remaining, together, progress)
        done.append(latest)
        if latest.culprit is None:
            break
        culprits.append(latest.culprit)
        remaining.remove(latest.culprit)
        together = measure(remaining) if remaining else None
    return Attribution(
        together=first,
        rounds=tuple(done),
        culprits=tuple(culprits),
        remaining=tuple(remaining),
        clean=together is None or not together.guilty,
    )


def _round(measure: _Measurements, remaining: Sequence[str], together: Measurement, progress: Progress | None) -> Round:
    singles = []
    for name in remaining:
        singles.append(measure([name]))
        if progress:
            progress.step(str(singles[-1]))
    worst = max(singles, key=_badness)
    if worst.guilty:
        return Round(together=together, measurements=tuple(singles), culprit=worst.operators[0])
    # No single operator is guilty. Two may be harmful only together: one's rounding is a bad input of the other.
    suspects = sorted(singles, key=_badness, reverse=True)[:PAIRED]
    pairs = []
    for first, second in itertools.combinations(suspects, 2):
        pairs.append(measure([first.operators[0], second.operators[0]]))
        if progress:
            progress.step(str(pairs[-1]))
    measurements = (*singles, *pairs)
    guilty = [pair for pair in pairs if pair.guilty]
    if not guilty:
        return Round(together=together, measurements=measurements, culprit=None)
    pair = max(guilty, key=_badness)
    culprit, partner = sorted(pair.operators, key=lambda name: _badness(measure([name])), reverse=True)
    return Round(together=together, measurements=measurements, culprit=culprit, partner=partner)


def _badness(measurement: Measurement) -> float:
    return math.inf if measurement.excess is None else measurement.excess


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_option(parser, "--operators", type=Path, help="operators.yaml to examine")
    add_option(parser, "--bundle", help="the bundle to examine, instead of --operators; with its tuned kernels")
    add_option(parser, "--out", help="the report, JSON; measurements are recorded in a .jsonl file of the same name")
    parser.add_argument("--clean", type=Path, help="write an operators.yaml without the culprits")
    parser.add_argument("--weights", type=Path, help="folder of the model's weights and tokenizer")
    add_option(parser, "--config", help="config.json instead of --weights, for random weights in the same shapes")
    parser.add_argument("--text", type=Path, help="the fixed text; default: seeded random tokens")
    parser.add_argument("--tokens", type=at_least(1), default=512, help="length of the text, in tokens")
    add_option(parser, "--seconds", default=600.0, help="time limit of one set of operators")
    add_option(parser, "--layers", help="with --config: cut the model to its first layers")
    parser.add_argument("--rounds", type=at_least(1), default=4, help="maximum rounds; each removes one operator")
    add_option(parser, "--tuned")
    add_option(parser, "--device")
    add_option(parser, "--source")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)


def main(args: argparse.Namespace) -> int:
    """Supervise a worker: a set of operators that kills or hangs it is guilty, and a new worker continues."""
    chosen = _chosen(args)
    if (args.weights is None) == (args.config is None):
        raise UsageError("exactly one of --weights and --config is required", hint="--weights is the model's folder")
    if args.worker:
        return _work(args, chosen)
    if args.source == "flag_gems":
        catalogue.load().require(chosen.include)  # reject unknown names before measuring
    args.out.unlink(missing_ok=True)
    code = supervise(_worker(args), args.out.with_suffix(".jsonl"), seconds=args.seconds)
    return code or _conclude(args, chosen)


def _worker(args: argparse.Namespace) -> list[str]:
    """The command line of a worker with the same options."""
    argv = [sys.executable, "-m", "flagkernels", "attribute", "--worker"]
    for name, value in vars(args).items():
        if name not in ("worker", "clean") and value is not None:
            argv += [f"--{name}", str(value)]
    return argv


def _chosen(args: argparse.Namespace) -> Operators:
    if (args.operators is None) == (args.bundle is None):
        hint = "--bundle includes operators, database and kernels"
        raise UsageError("exactly one of --operators and --bundle is required", hint=hint)
    return bundle.load(args.bundle).operators if args.bundle else listing.read_operators(args.operators)


def _work(args: argparse.Namespace, chosen: Operators) -> int:
    """Measure, and write the report. Environment variables must be set before FlagGems is imported."""
    if args.tuned:
        from flagkernels.tuning.folder import Layout

        os.environ.update(Layout(args.tuned).environment())
    if args.bundle:
        from flagkernels.bundle.overlay import prepare

        os.environ.update(prepare(bundle.load(args.bundle)).environment)
    from flagkernels.model.logprobs import ModelAnswers

    answers = ModelAnswers.open(args, chosen)
    try:
        with Progress("attribute", total=len(chosen.include)) as progress:
            result = attribute(
                answers,
                chosen.include,
                rounds=args.rounds,
                record=args.out.with_suffix(".jsonl"),
                progress=progress,
            )
    except Lost:
        sys.stderr.flush()
        os._exit(CHIP_LOST)  # a regular exit would wait for the chip
    write_json(args.out, result.to_json())
    return 0


def _conclude(args: argparse.Namespace, chosen: Operators) -> int:
    """Print the result and write the remaining operators. Raises Refused if they are still worse than native."""
    report = read_json(args.out)
    for number, each in enumerate(report["rounds"], 1):
        together = Measurement(**each["together"])
        partner = f" together with {each['partner']}" if each["partner"] else ""
        print(f"round {number}: {together} → {each['culprit'] or 'no culprit found'}{partner}")  # noqa: T201
    culprits = report["culprits"]
    if not report["clean"]:
        raise Refused(
            "the remaining operators are still farther from float32 than the native kernels",
            why=f"removed: {', '.join(culprits) or 'none'}; rounds: {len(report['rounds'])} of {args.rounds}",
            hint="raise --rounds, or release this cell on its native stack",
        )
    if args.clean:
        write_text(args.clean, without(chosen, culprits).to_yaml())
    print(f"culprits: {', '.join(culprits) or 'none'}; clean with {len(report['remaining'])} operators")  # noqa: T201
    return 0


def without(chosen: Operators, culprits: Sequence[str]) -> Operators:
    """The same choice without the culprits."""
    return chosen.only(set(chosen.include) - set(culprits))
