"""The rates in docs/evaluation.md are those of the recorded simulations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.benchmark_programs import opened

DOCS = Path(__file__).resolve().parents[3] / "docs"
RECORDED = (DOCS / "proofs/verdict/rates.jsonl").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("table", ["margin", "single", "floor", "skill", "equal", "costs", "failed", "worse"])
def test_the_document_has_the_recorded_tables(table: str) -> None:
    rates = opened("rates")
    page = (DOCS / "evaluation.md").read_text(encoding="utf-8").splitlines()
    rows = rates.TABLES[table](rates.merged(RECORDED)[table])
    assert len(rows) > 2
    assert [row for row in rows[2:] if row not in page] == []


def test_the_document_has_the_recorded_table_of_kept_baselines() -> None:
    rows = opened("rates").kept(RECORDED)
    page = (DOCS / "evaluation.md").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 12
    assert [row for row in rows if row not in page] == []


def test_no_candidate_without_the_skill_passed_in_a_thousand() -> None:
    for row, tally in opened("rates").merged(RECORDED)["skill"]:
        assert (tally.passed, tally.runs >= 1000) == (0, True), row


def test_no_recorded_rate_of_false_pass_is_above_its_nominal_level() -> None:
    for row, tally in opened("rates").merged(RECORDED)["margin"]:
        error = (0.05 * 0.95 / tally.runs) ** 0.5
        assert tally.passed / tally.runs <= 0.05 + 2 * error, row


def test_the_counts_of_other_seeds_are_added_and_those_of_the_same_are_refused() -> None:
    rates, row = opened("rates"), {"table": "margin", "runs": 10, "passed": 1, "failed": 2, "answers": 30.0}
    one, two = (json.dumps({**row, "seed": seed}) for seed in (1, 2))
    ((_, tally),) = rates.merged([one, two, one])["margin"]
    assert (tally.runs, tally.passed, tally.failed, tally.answers) == (20, 2, 4, 60.0)
    with pytest.raises(ValueError, match="same seed"):
        rates.merged([one, json.dumps({**row, "seed": 1, "passed": 3})])
