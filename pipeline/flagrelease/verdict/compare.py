"""`flagrelease compare A B`: judge two recorded sets of answers."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flagrelease.errors import ComparisonRefused, ConfigError
from flagrelease.store.digests import file_sha256
from flagrelease.verdict import rule, wording
from flagrelease.verdict.fixed_sample import compare
from flagrelease.verdict.recorded import margins_of, recorded_with
from flagrelease.verdict.samples import CONDITIONS, SAMPLES, Conditions, Sample, read_conditions, read_samples
from flagrelease.verdict.types import BenchmarkVerdict, Comparison, Verdict

__all__ = [
    "ANY",
    "Answers",
    "compare_main",
    "default_chance",
    "default_margin",
    "in_record",
    "load",
    "parse_margins",
    "render_json",
    "render_table",
]

ANY = "*"  # the key of the default margin

EXIT_CODES = {Verdict.PASS: 0, Verdict.FAIL: 4, Verdict.INCONCLUSIVE: 5}

# By prefix of the benchmark's name: margins that a benchmark of this size can decide at its usual repeats.
_MARGINS = {"mmlu": 0.01, "livebench": 0.03, "musr": 0.03, "gpqa": 0.05, "aime": 0.05}
_OTHER_MARGIN = 0.03
# By prefix of the benchmark's name: chance levels, where they are above 0.
_CHANCES = {"mmlu-pro": 0.1, "mmlu_pro": 0.1, "mmlu": 0.25, "gpqa": 0.25, "arc": 0.25, "musr": 0.34}


@dataclass(frozen=True)
class Answers:
    """The answers of one side."""

    path: Path
    """The file of answers."""
    samples: Sequence[Sample]
    """The answers."""
    conditions: Conditions | None
    """The conditions under which they were given; None if not recorded."""
    margins: Mapping[str, float] = field(default_factory=dict)
    """The non-inferiority margins recorded with them, by benchmark."""


def compare_main(a: Path, b: Path, margins: Mapping[str, float], as_json: bool) -> tuple[str, int]:
    """The text to print and the exit code: 0 PASS, 4 FAIL, 5 INCONCLUSIVE. Raises ComparisonRefused.

    A is the baseline. `margins` are by benchmark, with the default under "*"; a benchmark without one is judged by the
    margin recorded with the answers.
    """
    # Hundreds of thousands of objects without reference cycles; the process exits right after.
    gc.disable()
    try:
        baseline, candidate = load(a), load(b)
        _require_order(a, b)
        _require_same_conditions(baseline, candidate)
        names = dict.fromkeys(sample.benchmark for sample in baseline.samples)
        _require_known(margins, names)
        result = _judge(baseline, candidate, names, margins)
    finally:
        gc.enable()
    if as_json:
        return render_json(result), EXIT_CODES[result.verdict]
    assumed = [name for name in names if _assumed(name, margins, baseline, candidate)]
    text = render_table(result, unknown_conditions=_unrecorded(baseline, candidate), assumed_margins=assumed)
    return text, EXIT_CODES[result.verdict]


def _assumed(benchmark: str, margins: Mapping[str, float], *sides: Answers) -> bool:
    """Whether the benchmark's margin is neither given nor recorded."""
    recorded = any(benchmark in side.margins or benchmark in _designs(side) for side in sides)
    return not recorded and not margins.keys() & {benchmark, ANY}


def _judge(baseline: Answers, candidate: Answers, names: Iterable[str], margins: Mapping[str, float]) -> Comparison:
    """Judge sequential benchmarks by their recorded design, all others by the fixed-sample design."""
    designs = {**_designs(baseline), **_designs(candidate)}
    given = {name: margins.get(name, margins.get(ANY)) for name in names}
    sides = [{name: list[Sample]() for name in designs} for _ in range(2)]
    fixed: list[list[Sample]] = [[], []]
    for side, answers in enumerate((baseline, candidate)):
        for sample in answers.samples:
            sides[side].get(sample.benchmark, fixed[side]).append(sample)
    sequential = {}
    if designs:
        from flagrelease.verdict import group_sequential

        for name, record in designs.items():
            before, after = sides[0][name], sides[1][name]
            if before and after:
                planned = group_sequential.read(record, name)
                sequential[name] = group_sequential.judge(planned, name, before, after, margin=given[name])
            else:  # one side has no answers, which `compare` refuses
                fixed[0] += before
                fixed[1] += after
    judged: Mapping[str, BenchmarkVerdict] = {}
    if any(fixed) or not sequential:
        known = {**baseline.margins, **candidate.margins}
        chosen = {name: known.get(name, default_margin(name)) if m is None else m for name, m in given.items()}
        judged = compare(
            *fixed,
            margins=chosen,
            chances=_chances(names, baseline, candidate),
            populations=_populations(baseline) | _populations(candidate),
        ).benchmarks
    verdicts = {name: (sequential | dict(judged))[name] for name in given}
    return Comparison(verdict=rule.decide_cell(verdicts.values()), benchmarks=verdicts)


def _chances(names: Iterable[str], *sides: Answers) -> dict[str, float]:
    """The recorded chance levels; the usual one of the benchmark where none is recorded."""
    chances = {name: default_chance(name) for name in names}
    for side in sides:
        chances |= {} if side.conditions is None else side.conditions.chance
    return chances


def _populations(side: Answers) -> dict[str, int]:
    return {} if side.conditions is None else dict(side.conditions.population)


def _designs(side: Answers) -> Mapping[str, Mapping[str, Any]]:
    return {} if side.conditions is None else side.conditions.design


def default_margin(benchmark: str) -> float:
    """The non-inferiority margin (a fraction) of a benchmark for which none was given."""
    return next((margin for start, margin in _MARGINS.items() if benchmark.lower().startswith(start)), _OTHER_MARGIN)


def default_chance(benchmark: str) -> float:
    """The chance level of a benchmark for which none was recorded."""
    return next((level for start, level in _CHANCES.items() if benchmark.lower().startswith(start)), 0.0)


def parse_margins(values: Iterable[str]) -> dict[str, float]:
    """Parse margins of the command line: `0.03` for all benchmarks, `mmlu=0.01` for one. Raises ConfigError."""
    margins: dict[str, float] = {}
    for value in values:
        name, _, number = value.rpartition("=")
        try:
            margins[name or ANY] = float(number)
        except ValueError:
            raise ConfigError(
                f"--margin {value}", why="not a number", hint="write 0.03, or mmlu=0.01 for one benchmark"
            ) from None
    return margins


def load(path: Path) -> Answers:
    """Load the answers of a samples.jsonl, of a folder that contains one, or of a release record with its evidence.

    Raises ComparisonRefused.
    """
    if not path.exists():
        raise ComparisonRefused(f"{path} does not exist", hint=f"give a {SAMPLES}, its folder or a release.json")
    if not path.is_dir():
        return in_record(path) if path.suffix == ".json" else _in_file(path)
    for inside in (path / SAMPLES, path / "evidence" / SAMPLES):
        if inside.is_file():
            return _in_file(inside)
    if (path / "release.json").is_file():
        return in_record(path / "release.json")
    raise ComparisonRefused(f"no answers in {path}", why=f"it contains neither {SAMPLES} nor release.json")


def _in_file(samples: Path) -> Answers:
    recorded = recorded_with(samples)
    return Answers(samples, read_samples(samples), recorded.conditions, recorded.margins)


def in_record(record: Path, name: str = SAMPLES) -> Answers:
    """The answers that a record lists as `name`, found by digest in the evidence folder next to it.

    Raises ComparisonRefused.
    """
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        named = list(_evidence(content))
    except (OSError, ValueError, RecursionError) as error:
        raise ComparisonRefused(f"{record} is not a release record", why=str(error)) from None
    digests = {Path(str(file["name"])).name: str(file["sha256"]) for file in named}
    if name not in digests:
        raise ComparisonRefused(f"{record} does not list {name}", hint="check that its accuracy stage was run")
    folder = record.parent / "evidence"
    samples = _by_digest(folder, name, digests[name])
    if samples is None:
        raise ComparisonRefused(
            f"the answers listed in {record} are missing",
            why=f"no file in {folder} has sha256 {digests[name]}",
            hint="copy the complete release folder, not only the record",
        )
    conditions = _by_digest(folder, CONDITIONS, digests.get(CONDITIONS, ""))
    recorded = read_conditions(conditions) if conditions else None
    return Answers(samples, read_samples(samples), recorded, margins_of(content))


def _evidence(content: Any) -> Iterable[dict[str, Any]]:
    """All {name, sha256} objects anywhere in a record."""
    if isinstance(content, dict):
        if "name" in content and "sha256" in content:
            yield content
        content = list(content.values())
    if isinstance(content, list):
        for value in content:
            yield from _evidence(value)


def _by_digest(folder: Path, name: str, sha256: str) -> Path | None:
    """The file with this content. A release folder names it by stage, an evidence store by digest."""
    for path in sorted(folder.rglob("*")):
        if path.name.endswith((name, sha256 or name)) and path.is_file() and file_sha256(path) == sha256:
            return path
    return None


def _require_same_conditions(baseline: Answers, candidate: Answers) -> None:
    a, b = baseline.conditions, candidate.conditions
    if a is None or b is None:
        return
    for what in ("model", "data", "sampling", "harness"):
        mine, other = getattr(a, what), getattr(b, what)
        if mine != other:
            raise ComparisonRefused(
                f"the two sides differ in their {what}",
                why=f"{mine} in {baseline.path.parent}, {other} in {candidate.path.parent}",
                hint="evaluate both sides under the same conditions",
            )


def _require_order(a: Path, b: Path) -> None:
    """Refuse sides that are swapped, by the names under which a release stores them."""
    if f"baseline.{SAMPLES}" in b.name and f"baseline.{SAMPLES}" not in a.name:
        raise ComparisonRefused(
            f"the second side is a baseline: {b}",
            why="A is the baseline, B the candidate; swapped, a loss would be a gain",
            hint=f"flagrelease compare {b} {a}",
        )


def _unrecorded(*sides: Answers) -> tuple[Path, ...]:
    return tuple(side.path for side in sides if side.conditions is None)


def _require_known(margins: Mapping[str, float], names: Iterable[str]) -> None:
    if unknown := sorted(margins.keys() - set(names) - {ANY}):
        raise ComparisonRefused(
            f"a margin is given for {unknown[0]}, which has no answers", hint=f"answered: {', '.join(names)}"
        )


def render_json(result: Comparison) -> str:
    """The comparison as JSON."""
    benchmarks = {
        name: {
            "n": judged.n,
            "repeats": judged.repeats,
            "difference": judged.difference,
            "interval90": list(judged.interval90),
            "margin": judged.margin,
            "p_regression": judged.p_regression,
            "verdict": str(judged.verdict),
            "sensitive": judged.sensitive,
            "reason": judged.reason,
        }
        for name, judged in result.benchmarks.items()
    }
    return json.dumps({"verdict": str(result.verdict), "benchmarks": benchmarks}, indent=2, allow_nan=False)


def render_table(
    result: Comparison, *, unknown_conditions: Sequence[Path] = (), assumed_margins: Sequence[str] = ()
) -> str:
    """The comparison as an aligned table, followed by reasons, remarks and the verdict."""
    head = (
        "benchmark",
        "n",
        "repeats",
        "baseline",
        "candidate",
        "difference",
        "90 % interval",
        "margin",
        "p",
        "verdict",
    )
    rows = [head, *map(_row, result.benchmarks.values())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(map(str.rjust, row, widths)) for row in ((row[0].ljust(widths[0]), *row[1:]) for row in rows)]
    lines.append("")
    for judged in result.benchmarks.values():
        lines += [f"{judged.benchmark}: {text}" for text in (judged.reason, *judged.remarks)]
    lines += [f"{path}: data and sampling are not verified, {CONDITIONS} is missing" for path in unknown_conditions]
    lines += [f"{name}: the margin is the usual one; --margin {name}=FRACTION sets another" for name in assumed_margins]
    return "\n".join((*lines, "", str(result.verdict)))


def _row(judged: BenchmarkVerdict) -> tuple[str, ...]:
    low, high = judged.interval90
    return (
        judged.benchmark,
        str(judged.n),
        f"{judged.repeats:g}",
        f"{judged.baseline_score:.3f}",
        f"{judged.candidate_score:.3f}",
        f"{judged.difference:+.3f}",
        f"{low:+.3f} {high:+.3f}",
        f"{judged.margin:.3f}",
        f"{judged.p_regression:.3f}",
        wording.verdict_label(judged),
    )
