"""Print the tables of docs/evaluation.md from recorded rates:

    python benchmarks/rates.py docs/proofs/verdict/rates.jsonl [TABLE …]

Each line of the file was written by `verdict_audit.py --out FILE` and has its seed; lines that differ only in the seed
are independent simulations, and their counts are added. Equal lines are one simulation.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from simulated import FULL, HOW
from tables import Tally, head

COUNTS = ("runs", "passed", "failed", "answers")
KEPT = "kept"
Row = Mapping[str, Any]


def merged(lines: Iterable[str]) -> dict[str, list[tuple[Row, Tally]]]:
    """By table, what was simulated, and the counts over all seeds."""
    found: dict[str, list[Row]] = {}
    for row in map(json.loads, dict.fromkeys(lines)):
        if row["table"] == KEPT:
            continue  # it has shares of candidates by baseline, which `kept` pools
        what = {key: value for key, value in row.items() if key not in (*COUNTS, "seed")}
        found.setdefault(json.dumps(what, sort_keys=True), []).append(row)
    tables: dict[str, list[tuple[Row, Tally]]] = {}
    for what, rows in found.items():
        if len({row["seed"] for row in rows}) < len(rows):
            raise ValueError(f"the same seed twice: {what}")
        tally = Tally.of({name: row[name] for name in COUNTS} for row in rows)
        tables.setdefault(rows[0]["table"], []).append((json.loads(what), tally))
    return tables


AUDIT = {
    ("AIME 30×16", "ushape"): "5.4 / 15.6",
    ("AIME 30×16", "bimodal"): "6.0 / 17.8",
    ("AIME 30×16", "strong"): "9.1 / 19.7",
    ("AIME 30×16", "binary"): "– / 25.8",
    ("AIME 30×16, both asked", "strong"): "– / 19.6",
    ("GPQA-diamond 198×8", "ushape"): "4.2 / 2.2",
    ("GPQA-diamond 198×8", "flat"): "4.3 / –",
    ("GPQA-diamond 198×8", "strong"): "7.7 / 10.0",
    ("GPQA-diamond 198×8", "bimodal"): "5.8 / 11.9",
    ("GPQA, nested sets 1192×2", "ushape"): "6.2 / –",
    ("GPQA, nested sets 1192×2", "strong"): "– / 9.6",
    ("GPQA, nested sets 1192×2, 50 % of draws shared", "ushape"): "6.5 / –",
    ("IFEval 541×2", "strong"): "6.5 / 8.3",
    ("LiveBench 1000×2", "ushape"): "5.8 / 5.3",
    ("MuSR, stories 756×2", "ushape"): "5.8 / 6.3",
    ("MuSR, stories 756×2, 50 % of draws shared", "ushape"): "6.4 / –",
    ("MMLU 14042×1", "strong"): "3.8 / 3.3",
}
"""What the outside audit measured: its uniform loss, and its worst loss in a part of the questions."""
ORDER = ("AIME", "GPQA-diamond 1", "GPQA, nested", "IFEval", "LiveBench", "MuSR", "MMLU", "GPQA-diamond, 50", "400 of")


def at_margin(rows: list[tuple[Row, Tally]]) -> list[str]:
    settings: dict[tuple[str, str], dict[str, Tally]] = {}
    for row, tally in rows:
        settings.setdefault((row["setting"], row["kind"]), {})[row["how"]] = tally
    lines = []
    for (setting, kind), found in sorted(settings.items(), key=lambda item: _place(item[0][0])):
        cells = [found[how].rate() if how in found else "" for how in HOW]
        runs = " to ".join(f"{n:,}" for n in sorted({tally.runs for tally in found.values()}))
        lines.append(f"| {setting} | {kind} | {' | '.join(cells)} | {AUDIT.get((setting, kind), '')} | {runs} |")
    return [*head("setting", "difficulty", *HOW, "audit", "runs"), *lines]


def _place(setting: str) -> int:
    return next(number for number, name in enumerate(ORDER) if setting.startswith(name))


def identical(rows: list[tuple[Row, Tally]]) -> list[str]:
    lines = [
        f"| {row['setting']} | {row.get('kind', '')} | {tally.rate()} | {tally.rate('failed')} "
        f"| {tally.answers / tally.runs:,.0f} | {tally.runs:,} |"
        for row, tally in rows
    ]
    return [*head("setting", "difficulty", "PASS", "false FAIL", "answers", "runs"), *lines]


def skill(rows: list[tuple[Row, Tally]]) -> list[str]:
    found: dict[tuple[Any, ...], dict[str, Tally]] = {}
    for row, tally in rows:
        key = (row["setting"], row["score"], row["chance"], row["who"])
        found.setdefault(key, {})[row["design"]] = tally
    lines = [
        f"| {who} | {setting} | {score} | {chance} "
        f"| {' | '.join(f'{by[design].passed} of {by[design].runs:,}' for design in ('sequential', 'compare'))} |"
        for (setting, score, chance, who), by in found.items()
    ]
    return [*head("candidate", "benchmark", "baseline", "chance", "PASS", "PASS by `compare`"), *lines]


def floor(rows: list[tuple[Row, Tally]]) -> list[str]:
    lines = [
        f"| {row['setting']} | {row['score']} | {row['chance']} | {tally.passed} of {tally.runs:,} |"
        for row, tally in rows
    ]
    return [*head("benchmark", "baseline", "chance", "sensitive"), *lines]


def costs(rows: list[tuple[Row, Tally]]) -> list[str]:
    """PASS / answers of identical stacks, by design and benchmark."""
    names = [setting.name for setting in FULL]
    ours = {f"{setting.name} {setting.n}×{setting.repeats}" for setting in FULL}
    found: dict[str, dict[str, str]] = {}
    for row, tally in rows:
        setting = row["setting"].removesuffix(", 90 % of draws shared")
        name = next(each for each in names if setting.startswith(f"{each} "))
        cell = f"{tally.passed / tally.runs:.2f} / {tally.answers / tally.runs:,.0f}"
        if row.get("reserve") == 0:
            titles = [f"ebb556b, power {row['power']}, our baselines"] if setting in ours else []
            titles += [f"ebb556b, power {row['power']}"] if setting not in ours or name == "MMLU" else []
        else:
            titles = ["ours" + "".join(f", {key} {row[key]}" for key in ("looks", "exponent", "power") if key in row)]
        for title in titles:
            found.setdefault(title, {})[name] = cell
    lines = [f"| {title} | {' | '.join(by.get(name, '') for name in names)} |" for title, by in found.items()]
    return [*head("design", *names), *lines]


def worse(rows: list[tuple[Row, Tally]]) -> list[str]:
    found: dict[str, dict[float, Tally]] = {}
    for row, tally in rows:
        found.setdefault(row["setting"], {})[row["margins"]] = tally
    lines = [
        f"| {setting} | {by[1.0].rate()} | {by[1.0].rate('failed')} "
        f"| {by[2.0].rate()} | {by[2.0].rate('failed')} | {by[1.0].runs:,} |"
        for setting, by in found.items()
    ]
    names = ("PASS at the margin", "FAIL", "PASS at twice the margin", "FAIL", "runs")
    return [*head("benchmark that loses", *names), *lines]


def failed(rows: list[tuple[Row, Tally]]) -> list[str]:
    lines = [
        f"| {row['setting']} | {row['who']} | {row['which']} | {'at the margin' if row['loss'] else 'identical'} "
        f"| {tally.rate('failed' if row['who'] == 'candidate' else 'passed')} | {tally.runs:,} |"
        for row, tally in rows
    ]
    return [*head("setting", "failed answers of the", "which", "candidate", "wrong verdict", "runs"), *lines]


def kept(lines: Iterable[str]) -> list[str]:
    found: dict[tuple[str, str, str], list[float]] = {}
    for row in map(json.loads, dict.fromkeys(lines)):
        if row["table"] == KEPT:
            found.setdefault((row["setting"], row["kind"], row["rule"]), []).extend(row["passed"])
    rows = [
        f"| {' | '.join(what)} | {100 * np.mean(passed):.1f} | {100 * np.quantile(passed, 0.9):.1f} | {len(passed):,} |"
        for what, passed in found.items()
    ]
    return [*head("benchmark", "difficulty", "rule", "mean", "nine of ten below", "baselines"), *rows]


TABLES = {
    "margin": at_margin,
    "single": at_margin,
    "identical": identical,
    "equal": identical,
    "skill": skill,
    "floor": floor,
    "costs": costs,
    "worse": worse,
    "failed": failed,
}


def main() -> None:
    path, *chosen = sys.argv[1:]
    recorded = Path(path).read_text(encoding="utf-8").splitlines()
    tables = {name: TABLES[name](rows) for name, rows in merged(recorded).items()} | {KEPT: kept(recorded)}
    for name in chosen or tables:
        print(f"\n{name}\n")
        print("\n".join(tables[name]))


if __name__ == "__main__":
    main()
