"""The page of a scheduled run, as Markdown: what is new, what is red and why, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

from flagrelease.cli.display import spell
from flagrelease.cli.summary import CellResult, as_error
from flagrelease.cli.text_table import counts
from flagrelease.stages.card.markdown import code, escape, fenced, sentence, table

STATES = ("red", "inconclusive", "interrupted", "blocked", "busy", "waiting", "released", "partial", "unchanged")
"""The states of a cell's result; the first ones need somebody."""


def page(results: Sequence[CellResult], day: str) -> str:
    """A heading with the number of cells by state, one row a cell, and a section for each cell that needs somebody."""
    if not results:
        return f"# Night of {day}\n\nNo cell was selected.\n"
    ordered = sorted(results, key=lambda result: STATES.index(result.state))
    parts = [f"# Night of {day}: {counts([result.state for result in ordered], STATES)}"]
    rows = [
        [code(one.cell), one.state, one.verdict, spell(one.seconds) if one.seconds else "", one.reason]
        for one in ordered
    ]
    parts.append(table(["Cell", "State", "Verdict", "Time", "Result"], rows))
    parts += [_section(result) for result in ordered if result.code and result.state != "waiting"]
    return "\n\n".join(parts) + "\n"


def _section(result: CellResult) -> str:
    error = as_error(result)
    lines = [f"## {escape(result.cell)}: {result.state}{f' at {result.stage}' if result.stage else ''}"]
    lines.append(escape(sentence(error.line())))
    if error.hint:
        lines.append(f"What to do: {escape(sentence(error.hint))}")
    lines.append(f"All details: {code(f'flagrelease explain {result.cell}')}")
    if error.detail:
        lines.append(f"<details><summary>Evidence</summary>\n\n{fenced(error.detail, 'text')}\n\n</details>")
    return "\n\n".join(lines)
