"""Print the tables of docs/evaluation.md from recorded rates:

    python benchmarks/rates.py docs/proofs/verdict/rates.jsonl [TABLE …]

Each line of the file was written by `verdict_audit.py --out FILE` and has its seed; lines that differ only in the seed
are independent simulations, and their counts are added.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from simulated import HOW
from tables import Tally, head

COUNTS = ("runs", "passed", "failed", "answers")
Row = Mapping[str, Any]


def merged(lines: Iterable[str]) -> dict[str, list[tuple[Row, Tally]]]:
    """By table, what was simulated, and the counts over all seeds."""
    found: dict[str, list[Row]] = {}
    for line in lines:
        row = json.loads(line)
        what = {key: value for key, value in row.items() if key not in (*COUNTS, "seed")}
        found.setdefault(json.dumps(what, sort_keys=True), []).append(row)
    tables: dict[str, list[tuple[Row, Tally]]] = {}
    for what, rows in found.items():
        if len({row["seed"] for row in rows}) < len(rows):
            raise ValueError(f"the same seed twice: {what}")
        tally = Tally.of({name: row[name] for name in COUNTS} for row in rows)
        tables.setdefault(rows[0]["table"], []).append((json.loads(what), tally))
    return tables


def at_margin(rows: list[tuple[Row, Tally]]) -> list[str]:
    settings: dict[tuple[str, str], dict[str, Tally]] = {}
    for row, tally in rows:
        settings.setdefault((row["setting"], row["kind"]), {})[row["how"]] = tally
    lines = []
    for (setting, kind), found in settings.items():
        cells = [found[how].rate() if how in found else "" for how in HOW]
        runs = sorted({tally.runs for tally in found.values()})
        lines.append(f"| {setting} | {kind} | {' | '.join(cells)} | {' to '.join(f'{n:,}' for n in runs)} |")
    return [*head("setting", "difficulty", *HOW, "runs"), *lines]


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


def costs(rows: list[tuple[Row, Tally]]) -> list[str]:
    lines = []
    for row, tally in rows:
        way = ", ".join(f"{key} {row[key]}" for key in ("looks", "exponent", "power") if key in row)
        design = f"ebb556b, power {row['power']}" if row.get("reserve") == 0 else f"ours{way and ', '}{way}"
        lines.append(
            f"| {row['setting']} | {design} | {tally.rate()} | {tally.answers / tally.runs:,.0f} | {tally.runs:,} |"
        )
    return [*head("benchmark", "design", "PASS", "answers", "runs"), *lines]


TABLES = {
    "margin": at_margin,
    "single": at_margin,
    "identical": identical,
    "equal": identical,
    "skill": skill,
    "costs": costs,
}


def main() -> None:
    path, *chosen = sys.argv[1:]
    tables = merged(Path(path).read_text(encoding="utf-8").splitlines())
    for name in chosen or TABLES:
        if name in tables:
            print(f"\n{name}\n")
            print("\n".join(TABLES[name](tables[name])))


if __name__ == "__main__":
    main()
