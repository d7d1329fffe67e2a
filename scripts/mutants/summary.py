"""The table of results, by module."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from mutations import Mutant

ALIVE = ("survived", "unreached", "trouble")
DEAD = ("killed", "timeout", "died")
_BEGIN, _END = "<!-- the table of make mutants -->", "<!-- its end -->"


def table(
    everything: Sequence[Mutant],
    planned: Sequence[Mutant],
    known: Mapping[str, Mapping[str, object]],
    given: argparse.Namespace,
) -> str:
    """Markdown: module, mutants that exist, run, killed, survived, timeouts, score."""
    rows = ["| module | mutants | run | killed | timeout | survived | score |", "|---|---:|---:|---:|---:|---:|---:|"]
    total: Counter[str] = Counter()
    for module in dict.fromkeys(one.module for one in everything):
        count = Counter(str(known[one.id]["state"]) for one in planned if one.module == module and one.id in known)
        count["mutants"] = sum(one.module == module for one in everything)
        rows.append(_row(f"`{module}`", count))
        total += count
    rows.append(_row("all", total))
    asked = [f"--module {name}" for name in given.module or ()]
    asked += [f"--sample {given.sample} --seed {given.seed}"] if given.sample else []
    arguments = f' ARGS="{" ".join(asked)}"' if asked else ""
    return f"`make mutants{arguments}`:\n\n" + "\n".join(rows) + "\n"


def _row(name: str, count: Counter[str]) -> str:
    killed, timeout = count["killed"] + count["died"], count["timeout"]
    alive = sum(count[state] for state in ALIVE)
    ran = killed + timeout + alive
    score = f"{100 * (killed + timeout) / ran:.1f} %" if ran else "–"
    return f"| {name} | {count['mutants']} | {ran} | {killed} | {timeout} | {alive} | {score} |"


def write(path: Path, text: str) -> None:
    """Put the table between the marks of a document."""
    before, _, rest = path.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    path.write_text(f"{before}{_BEGIN}\n{text}{_END}{after}")
