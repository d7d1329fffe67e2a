"""Choose the operators to ship.

`coverage`: all correct operators. `express`: those that make the served model faster, at the shape classes where
they win."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flagkernels.arguments import add_option
from flagkernels.errors import NothingToDo, UsageError
from flagkernels.files import write_json, write_text
from flagkernels.measure.figures import Figure, figures_of
from flagkernels.measure.served import Measured, Served
from flagkernels.measure.timing import Ratio
from flagkernels.model import trace
from flagkernels.model.trace import Trace
from flagkernels.operators.listing import Operators
from flagkernels.progress import Progress
from flagkernels.qualify import qualify
from flagkernels.qualify.rows import correct_operators
from flagkernels.tuning.folder import Layout

__all__ = ["Choice", "Step", "add_arguments", "coverage", "express", "main", "winning"]

FLOOR = 0.98  # minimum of the lower confidence bound of served speed over native speed, at every load


@dataclass(frozen=True, kw_only=True)
class Step:
    """One measurement of the search, and the decision that followed."""

    operators: tuple[str, ...]
    """Operators in effect."""
    ratios: Mapping[str, Ratio]
    """Load → native time over time with the operators."""
    decision: str
    out: str = ""
    """The operator removed by the decision."""

    def to_json(self) -> dict[str, Any]:
        ratios = {load: asdict(ratio) for load, ratio in self.ratios.items()}
        return {"operators": list(self.operators), "ratios": ratios, "decision": self.decision, "out": self.out}

    def __str__(self) -> str:
        ratios = "  ".join(f"{load} {ratio}" for load, ratio in self.ratios.items())
        names = ", ".join(self.operators)
        outcome = f"{self.out} out: {self.decision}" if self.out else self.decision
        return f"{names if len(names) < 60 else f'{len(self.operators)} operators'}: {ratios}  → {outcome}"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The choice and every measurement behind it."""

    operators: Operators
    steps: tuple[Step, ...] = ()
    gains: Mapping[str, Mapping[str, float]] | None = None
    """Operator → traced point → seconds saved in one step by its winning classes; negative: the cost of the others,
    which stay native."""

    def to_json(self) -> dict[str, Any]:
        return {
            "policy": self.operators.policy,
            "operators": list(self.operators.include),
            "native": {name: list(classes) for name, classes in self.operators.native.items()},
            "steps": [step.to_json() for step in self.steps],
            "gains": {name: dict(gain) for name, gain in (self.gains or {}).items()},
        }


def coverage(found: Trace, correct: Iterable[str], served: Served | None = None) -> Choice:
    """All correct operators at every shape. With `served`, the change in speed is measured and reported only."""
    chosen = _operators(found, correct, "coverage")
    if served is None:
        return Choice(operators=chosen)
    step = Step(operators=chosen.include, ratios=served.compare(chosen).ratios, decision="reported as it is")
    return Choice(operators=chosen, steps=(step,))


def _operators(
    found: Trace, names: Iterable[str], policy: str, native: Mapping[str, tuple[str, ...]] | None = None
) -> Operators:
    return Operators(
        include=tuple(sorted(names)),
        policy=policy,
        native=native or {},
        static=tuple(sorted(found.static)),
        execution=found.execution,
    )


def winning(
    found: Trace, figures: Iterable[Figure], *, margin: float = 0.0
) -> tuple[Operators, dict[str, dict[str, float]]]:
    """The operators that are significantly faster at some shape class, and the gains as in Choice.

    A shape class stays native unless the interval of native/operator lies above 1 + margin, or if it was not
    measured."""
    wins: dict[str, set[str]] = {}
    gains: dict[str, dict[str, float]] = {}
    for figure in figures:
        won = figure.low > 1 + margin
        if won:
            wins.setdefault(figure.operator, set()).add(figure.shape_class)
        for point, count in figure.counts.items():
            saved = count * (figure.native - figure.candidate)
            key = f"{point}" if won else f"{point} (stays native)"
            per = gains.setdefault(figure.operator, {})
            per[key] = per.get(key, 0.0) + saved
    native = {operator: ("*", *(f"!{name}" for name in sorted(classes))) for operator, classes in sorted(wins.items())}
    chosen = _operators(found, wins, "express", native)
    return chosen, gains


def express(
    found: Trace, figures: Sequence[Figure], served: Served, *, floor: float = FLOOR, rounds: int = 12
) -> Choice:
    """Measure each candidate alone in the served model, then all together, removing the slowest until the rest passes.

    An operator is dropped if it is significantly slower at some load (its interval lies below one); a set is accepted
    if at every load the lower end of the interval is at least `floor`. If every operator is slower, as in a small
    model, the least slow of those that run at these loads is kept if it passes alone.
    Raises NothingToDo if no operator wins anywhere, or if none passes."""
    candidates, gains = winning(found, figures)
    if not candidates.include:
        raise nobody_wins()
    steps, kept = _alone(candidates, served)
    for _ in range(rounds):
        if not kept:
            raise NothingToDo(
                f"every operator makes the served model slower than {floor:g} of native speed",
                hint="serve it natively, or use --policy coverage or a lower --floor",
            )
        ratios = served.compare(candidates.only(kept)).ratios
        failing = [load for load, measured in ratios.items() if measured.low < floor]
        decision = f"below {floor} at {', '.join(failing)}" if failing else "accepted"
        step = Step(operators=tuple(sorted(kept)), ratios=ratios, decision=decision, out=kept[0] if failing else "")
        steps.append(step)
        if not failing:
            return Choice(operators=candidates.only(kept), steps=tuple(steps), gains=gains)
        kept = kept[1:]
    raise NothingToDo(
        f"no set of operators reaches {floor} of native speed within {rounds} rounds",
        hint="use --policy coverage, or serve it natively",
    )


def _alone(candidates: Operators, served: Served) -> tuple[list[Step], list[str]]:
    """The measurement of each operator alone, and the operators kept, slowest first."""
    steps: list[Step] = []
    ran: set[str] = set()
    for operator in candidates.include:
        measured = served.compare(candidates.only([operator]))
        ratios, ran = measured.ratios, ran | measured.ran
        slower = [load for load, ratio in ratios.items() if ratio.high < 1]
        faster = any(ratio.low > 1 for ratio in ratios.values())
        decision = "faster" if faster else "no significant difference"
        if slower:
            decision = f"slower at {', '.join(slower)}"
            if operator not in measured.ran:
                decision += ", where all its calls are left to the vendor's kernels"
        steps.append(Step(operators=(operator,), ratios=ratios, decision=decision, out=operator if slower else ""))
    steps.sort(key=lambda step: min(measured.median for measured in step.ratios.values()))
    running = [index for index, step in enumerate(steps) if step.out in ran]
    if running and all(step.out for step in steps):
        least = running[-1]
        steps[least] = replace(steps[least], decision=f"the least slow one: {steps[least].decision}", out="")
    kept = [step.operators[0] for step in steps if not step.out]
    return steps, kept


def nobody_wins() -> NothingToDo:
    return NothingToDo("no operator is certainly faster at any shape class", hint="use --policy coverage")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_option(parser, "--trace")
    add_option(parser, "--verdicts")
    add_option(parser, "--policy", default="coverage")
    add_option(parser, "--out", help="operators.yaml")
    parser.add_argument("--report", type=Path, help="every measurement behind the choice, JSON")
    add_option(
        parser, "--exclude", default="", help="comma-separated operators to leave out, e.g. the culprits of `attribute`"
    )
    parser.add_argument("--figures", type=Path, help="express: figures from `bench`")
    add_option(parser, "--config", help="the model's config.json, to serve it; with coverage only to report the speed")
    add_option(parser, "--loads")
    add_option(parser, "--layers", help="cut the served model to its first layers")
    add_option(parser, "--floor", default=FLOOR)
    add_option(parser, "--tuned")
    add_option(parser, "--device")
    add_option(parser, "--source")


def main(args: argparse.Namespace) -> int:
    found = trace.read(args.trace)
    excluded = {name for name in args.exclude.split(",") if name}
    for name in excluded:
        qualify.choose(found, name)
    wanted = [name for name in found.operators if name not in excluded]
    correct = correct_operators(args.verdicts, wanted)
    choice = _choice(args, found, correct)
    write_text(args.out, choice.operators.to_yaml())
    if args.report:
        write_json(args.report, choice.to_json())
    for step in choice.steps:
        print(step)  # noqa: T201
    for line in described(choice.gains or {}):
        print(line)  # noqa: T201
    print(f"{choice.operators.policy}: {', '.join(choice.operators.include)}")  # noqa: T201
    return 0


def described(gains: Mapping[str, Mapping[str, float]]) -> list[str]:
    """One line per operator: the gain or cost in one step of a traced point, the two largest first."""
    lines = []
    for operator, points in sorted(gains.items()):
        largest = sorted(points.items(), key=lambda item: -abs(item[1]))[:2]
        lines.append(f"{operator}: " + ", ".join(f"{1e6 * saved:+.1f} µs at {point}" for point, saved in largest))
    return lines


class _Shown:
    """A served model that reports each comparison as progress."""

    def __init__(self, served: Served, progress: Progress) -> None:
        self.served, self.progress = served, progress

    def compare(self, chosen: Operators) -> Measured:
        names = ", ".join(chosen.include)
        self.progress.doing(names)
        measured = self.served.compare(chosen)
        text = "  ".join(f"{load} {ratio}" for load, ratio in measured.ratios.items())
        self.progress.step(f"{names if len(names) < 40 else f'{len(chosen.include)} operators'}: {text}")
        return measured


def _choice(args: argparse.Namespace, found: Trace, correct: Sequence[str]) -> Choice:
    if args.policy == "coverage":
        if not args.config:
            return coverage(found, correct)
        with Progress("select", total=1) as progress:
            progress.doing(f"native, {found.execution}")
            return coverage(found, correct, _Shown(_served(args, found), progress))
    if args.figures is None or args.config is None:
        raise UsageError(
            "express needs --figures and --config", hint="run `bench` first; --config is the model's config.json"
        )
    if not args.figures.exists():
        raise UsageError(f"cannot read {args.figures}", why="the file does not exist", hint="run `bench` first")
    figures = [figure for figure in figures_of(args.figures) if figure.operator in set(correct)]
    winners, _ = winning(found, figures)
    if not winners.include:  # fail before the model is built
        raise nobody_wins()
    with Progress("select", total=len(winners.include) + 1) as progress:
        progress.doing(f"native, {found.execution}")
        return express(found, figures, _Shown(_served(args, found), progress), floor=args.floor)


def _served(args: argparse.Namespace, found: Trace) -> Served:
    """The model named on the command line, on its chip."""
    from flagkernels.measure.served import ServedModel
    from flagkernels.model import architecture
    from flagkernels.operators.registry import device_here, open_source

    if args.tuned:
        os.environ.update(Layout(args.tuned).environment())  # before FlagGems is imported
    return ServedModel(
        architecture.read_config(args.config),
        open_source(args.source),
        device_here(args.device),
        trace.parse_points(args.loads),
        execution=found.execution,
        requests=found.requests,
        layers=args.layers,
        share=found.share,
    )
