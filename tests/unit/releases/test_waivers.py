"""Waivers: what they release, what they do not, and that they expire."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import support.finished_cell as given
from flagrelease.cli import app
from flagrelease.config import strict_yaml
from flagrelease.config.cell import expand
from flagrelease.config.matrix import Matrix
from flagrelease.config.waivers import Waiver, check_days
from flagrelease.contract.handles import VerdictName
from flagrelease.errors import ConfigError
from flagrelease.releases import facts
from flagrelease.releases.lineage import Lineage
from flagrelease.releases.maturity import maturity
from flagrelease.run.plan import Choice
from flagrelease.run.project import Options, open_project
from flagrelease.stages import STAGES
from flagrelease.stages.card import record, render
from flagrelease.stages.card.record import Record

ROOT = Path(__file__).parents[3]
SCORE = Waiver(chip="cpu", model="*", gate="mmlu-sample", reason="known loss", owner="ops", until="2099-12-31")


def released(*verdicts: VerdictName, waivers: tuple[Waiver, ...] = (SCORE,), tokens: VerdictName = "PASS") -> Record:
    """A record with two benchmarks, of which the first is waived."""
    rows = [given.score(benchmark=name, verdict=v) for name, v in zip(("mmlu-sample", "gsm8k"), verdicts, strict=True)]
    accuracy = given.accuracy(*rows, verdict="FAIL", reason="mmlu-sample: worse")
    assert accuracy.token_gate is not None
    accuracy = replace(accuracy, token_gate=replace(accuracy.token_gate, verdict=tokens))
    job = given.job()
    job = replace(job, cell=replace(job.cell, waivers=waivers))
    return record.build(job, given.finished(accuracy=accuracy), "0" * 64)


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        (released("FAIL", "PASS"), "PASS"),
        (released("INCONCLUSIVE", "PASS"), "PASS"),
        (released("FAIL", "FAIL"), "FAIL"),
        (released("FAIL", "INCONCLUSIVE"), "INCONCLUSIVE"),
        (released("FAIL", "PASS", tokens="FAIL"), "FAIL"),
        (released("FAIL", "PASS", waivers=()), "FAIL"),
        (released("FAIL", "PASS", waivers=(replace(SCORE, gate="speed"),)), "FAIL"),
    ],
)
def test_a_waived_benchmark_does_not_count_and_the_others_do(made: Record, verdict: str) -> None:
    assert made.verdict == verdict
    read = facts.read(record.dumps(made))
    assert read.verdict == verdict
    assert read.accuracy.verdict == "FAIL"
    assert "worse" not in made.reason or verdict == "FAIL"


def test_a_waiver_is_in_the_record_and_the_maturity() -> None:
    made = released("FAIL", "PASS")
    assert record.loads(record.dumps(made)).waivers == (SCORE,)
    found = maturity(facts.read(record.dumps(made)))
    assert found.level == "functional"
    assert "mmlu-sample is waived until 2099-12-31" in found.missing


def test_the_card_shows_waivers_lineage_and_maturity() -> None:
    waivers = (replace(SCORE, reason="a | known <b>loss</b>"),)
    made = released("FAIL", "PASS", waivers=waivers)
    lineage = Lineage(revision=2, reason="fixed *mm*", parent="tag-1", parent_image="x/y@sha256:1", parent_yanked="bad")
    card = render.render(replace(made, lineage=lineage), given.TEMPLATES)
    assert r"> **Waived until 2099-12-31: `mmlu-sample`.**" in card
    assert r"a \| known &lt;b&gt;loss&lt;/b&gt; (owner: ops)" in card
    assert r"| Revision | 2: fixed \*mm\* |" in card
    assert "| Replaces | `tag-1`, `x/y@sha256:1`, which was yanked: bad |" in card
    assert "| Maturity | functional; mmlu-sample is waived until 2099-12-31;" in card
    assert "Waived" not in render.render(released("PASS", "PASS", waivers=()), given.TEMPLATES)


def test_unfinished_and_slow_speed_can_be_waived() -> None:
    speed = replace(SCORE, gate="speed")
    job = given.job()
    for waivers, verdict in (((), "INCONCLUSIVE"), ((speed,), "PASS")):
        cell = replace(job.cell, waivers=waivers)
        made = record.build(replace(job, cell=cell), given.finished(), "0" * 64, {"speed": "was stopped"})
        assert made.verdict == verdict
        assert facts.read(record.dumps(made)).verdict == verdict


def test_a_waiver_holds_for_the_cells_that_it_names_until_its_day() -> None:
    models = {"smollm2-135m": given.model(), "other": given.model()}
    other = replace(SCORE, model="other")
    cell, second = expand(replace(given.matrix(), models=models, waivers=(SCORE, other)))
    assert (cell.waivers, second.waivers) == ((SCORE,), (SCORE, other))
    check_days(cell.waivers, "2099-12-31")
    with pytest.raises(ConfigError, match="mmlu-sample for cpu/\\* expired on 2099-12-31") as caught:
        check_days(cell.waivers, "2100-01-01")
    assert caught.value.why == "known loss (owner: ops)"


STANZA = """
waivers:
  - {{chip: cpu, model: smollm2-*, gate: {gate}, reason: known, owner: ops, until: {until}}}
"""


def project(folder: Path, gate: str = "speed", until: str = '"2099-12-31"') -> Path:
    path = folder / "matrix.yaml"
    path.write_text((ROOT / "templates/matrix.yaml").read_text() + STANZA.format(gate=gate, until=until))
    return path


@pytest.mark.parametrize(
    ("gate", "until", "expected"),
    [
        ("sped", '"2099-12-31"', "waivers[0].gate is 'sped', not speed or a benchmark; did you mean 'speed'?"),
        ("speed", "tomorrow", "waivers[0].until: 'tomorrow' is not a date"),
    ],
)
def test_mistakes_in_a_waiver(tmp_path: Path, gate: str, until: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        strict_yaml.load(project(tmp_path, gate, until), Matrix)
    assert expected in caught.value.line()


def test_an_expired_waiver_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
    project(tmp_path, until=f'"{yesterday}"')
    (tmp_path / "matrix.lock").write_bytes((ROOT / "matrix.lock").read_bytes())
    said = f"the waiver of speed for cpu/smollm2-* expired on {yesterday}: known (owner: ops)"
    assert app.main(["run", "cpu/smollm2-135m", "--engine", "inline"]) == 2
    assert said in capsys.readouterr().err
    opened = open_project(Options())
    (planned,) = opened.plan([opened.cells[0]], STAGES, Choice())  # also if nothing has to run
    assert planned.blocked == said
    assert app.main(["plan"]) == 2
    assert said in capsys.readouterr().out
    assert app.main(["status"]) == 0
    assert said in capsys.readouterr().out
