"""Importing a baseline: accepted only if everything that its answers depend on is equal."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flagrelease.cli import app
from flagrelease.config import lockfile as locks
from flagrelease.config.lockfile import Lock, LockedModel
from flagrelease.config.matrix import Baseline, Share
from flagrelease.contract import results
from flagrelease.contract.context import Look
from flagrelease.contract.job import Job
from flagrelease.errors import ComparisonRefused
from flagrelease.evaluation import baselines, import_baseline
from flagrelease.evaluation.datasets import load, write_manifest
from flagrelease.evaluation.spec import EvalSpec, build_spec
from flagrelease.evaluation.tasks import task_named
from flagrelease.run.project import Options, open_project
from flagrelease.stages.accuracy import stage as accuracy
from flagrelease.stages.accuracy.run import build_specs
from flagrelease.store.ledger import Entry, Ledger
from flagrelease.verdict.samples import Conditions, Sample, write_samples
from support.evaluated import QUESTIONS, World, answering, world_of

H100 = Baseline(chip="nvidia-h100")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """The evidence folder of a baseline that was evaluated on another machine."""
    (tmp_path / "there").mkdir()
    world = world_of(tmp_path / "there")
    result = world.evaluate(replace_profile(world.job(), sequential=False))
    folder = tmp_path / "evidence"
    folder.mkdir()
    names = {"accuracy/baseline.samples.jsonl": "samples.jsonl", "accuracy/conditions.json": "conditions.json"}
    for one in result.evidence:
        if one.name in names:
            (folder / names[one.name]).write_bytes(world.context().evidence.read(one))
    return folder


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "here").mkdir()
    return world_of(tmp_path / "here")


def replace_profile(job: Job, **changes: Any) -> Job:
    return replace(job, cell=replace(job.cell, profile=replace(job.cell.profile, **changes)))


def compared(world: World) -> Job:
    """A cell whose baseline is on another machine's chip."""
    job = world.job()
    return replace(job, cell=replace(job.cell, baseline=H100))


def specs(world: World, job: Job) -> list[EvalSpec]:
    return build_specs(job, world.context())


def take_over(world: World, job: Job, path: Path) -> list[import_baseline.Fitting]:
    """Import into the world's ledger, as the command does."""
    weights = world.context().result(results.WEIGHTS)
    fitting = import_baseline.fit(import_baseline.answers_of(path, job.cell), weights.digest, specs(world, job))
    for one in fitting:
        lines = "".join(json.dumps(msgspec.to_builtins(s)) + "\n" for s in one.samples).encode()
        evidence = world.context().evidence.put("x", lines)
        baselines.keep(world.context(), job.cell, weights, one.spec, one.samples, evidence)
    return fitting


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_an_imported_baseline_is_compared_with_and_nothing_is_evaluated_again(world: World, elsewhere: Path) -> None:
    job = compared(world)
    (before,) = world.evaluate(job).benchmarks
    assert before.reason.startswith("no baseline")
    (one,) = take_over(world, job, elsewhere)
    assert len(one.samples) == QUESTIONS
    world.endpoints.clear()
    result = world.evaluate(job)
    (row,) = result.benchmarks
    assert (row.verdict, row.baseline) == ("PASS", 2 / 3)
    assert "native" not in world.endpoints
    assert result.questions_asked == 0  # neither side is asked what it answered before
    assert world.evaluate(job).questions_asked == QUESTIONS  # judged once; another evaluation gets new answers


def test_every_chip_of_the_model_uses_it(world: World, elsewhere: Path) -> None:
    take_over(world, compared(world), elsewhere)
    job = compared(world)
    other = replace(job, cell=replace(job.cell, chip_name="metax", chip=replace(job.cell.chip, vendor="metax")))
    world.stacks["flagos"] = answering(lambda n: n % 6 == 1)
    assert world.evaluate(other).verdict == "FAIL"
    assert world.started == ["flagos"]


def test_a_score_without_a_baseline_is_judged_again_once_there_is_one(world: World, elsewhere: Path) -> None:
    job, context = compared(world), world.context()
    result = world.evaluate(job)
    look = Look(workspace=context.workspace, evidence=context.evidence)
    assert accuracy.intact(result, look) == ""
    take_over(world, job, elsewhere)
    key, stored = next((key, one) for key, one in world.ledger.items() if one and "benchmark" in one)
    entry = Entry(at="", run="r", cell="c", stage="baseline", state="done", key=key, process="1@x", result=stored)
    Ledger(context.workspace.ledger).append(entry)
    assert accuracy.intact(result, look) == "its baseline is available now"
    assert accuracy.intact(world.evaluate(job), look) == ""


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda c: c.update(model="sha256:" + "0" * 64), "the model differs"),
        (lambda c: c["data"].update({"mmlu-sample": "0" * 64}), "the data of mmlu-sample differs"),
        (lambda c: c["sampling"]["mmlu-sample"].update(temperature=0.7), "the sampling of mmlu-sample differs"),
        (lambda c: c.update(harness={"mmlu-sample": "evalscope"}), "the harness of mmlu-sample differs"),
        (lambda c: c["sampling"].clear(), "the sampling of mmlu-sample differs"),
    ],
)
def test_other_conditions_are_refused(
    change: Callable[[dict[str, Any]], None], what: str, world: World, elsewhere: Path
) -> None:
    edit(elsewhere / "conditions.json", change)
    with pytest.raises(ComparisonRefused, match=what) as refused:
        take_over(world, compared(world), elsewhere)
    assert " in the file, " in refused.value.why
    assert world.ledger == {}


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def failed(line: dict[str, Any]) -> dict[str, Any]:
    return {**line, "correct": False, "answer": None, "error": "HTTP 500"}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda lines: [{**lines[0], "prompt_sha256": "0" * 64}, *lines[1:]], "the prompt of mmlu-sample/mmlu/"),
        (lambda lines: lines[:-1], "is incomplete for mmlu-sample"),
        (lambda lines: [*lines, lines[0]], "duplicate answer"),
        (lambda lines: [{**lines[0], "correct": float("nan")}, *lines[1:]], "not a valid answer"),
        (lambda lines: [failed(line) for line in lines], "has too many failures for a score of mmlu-sample"),
        (
            lambda lines: [{**line, "benchmark": "sums"} for line in lines],
            "has no answers to the benchmarks of this cell",
        ),
        (lambda _lines: [], "has no answers to the benchmarks of this cell"),
    ],
)
def test_incomplete_or_invalid_answers_are_refused(
    change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], what: str, world: World, elsewhere: Path
) -> None:
    lines = change(lines_of(elsewhere))
    (elsewhere / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ComparisonRefused, match=what):
        take_over(world, compared(world), elsewhere)
    assert world.ledger == {}


def test_a_truncated_file_and_one_without_conditions_are_refused(world: World, elsewhere: Path) -> None:
    path = elsewhere / "samples.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ComparisonRefused, match="the last line is truncated"):
        take_over(world, compared(world), path)
    (elsewhere / "conditions.json").unlink()
    path.write_bytes(path.read_bytes().rpartition(b"\n")[0] + b"\n")
    with pytest.raises(ComparisonRefused, match="has no conditions"):
        take_over(world, compared(world), path)


def record(folder: Path, samples: Path, *, chip: str, baseline: str) -> Path:
    """A release folder with the files that are read."""
    (folder / "evidence" / "accuracy").mkdir(parents=True)
    named = []
    for source, name in (("samples.jsonl", "baseline.samples.jsonl"), ("conditions.json", "conditions.json")):
        content = (samples / source).read_bytes()
        (folder / "evidence" / "accuracy" / name).write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        named.append({"name": f"accuracy/{name}", "sha256": sha256, "size": len(content)})
    told = {"chip_name": chip, "stack": "flagos", "baseline": {"chip": baseline, "stack": "native"}}
    (folder / "release.json").write_text(json.dumps({**told, "accuracy": {"evidence": named}}))
    return folder


def test_of_a_record_the_answers_of_the_right_stack_are_read(world: World, elsewhere: Path, tmp_path: Path) -> None:
    folder = record(tmp_path / "release", elsewhere, chip="nvidia-h100", baseline="nvidia-h100")
    (one,) = take_over(world, compared(world), folder)
    assert len(one.samples) == QUESTIONS
    assert take_over(world, compared(world), folder / "release.json")[0].samples == one.samples


def test_a_record_of_another_chip_is_refused(world: World, elsewhere: Path, tmp_path: Path) -> None:
    folder = record(tmp_path / "release", elsewhere, chip="metax", baseline="metax")
    with pytest.raises(ComparisonRefused, match="has no answers of native on nvidia-h100") as refused:
        take_over(world, compared(world), folder)
    assert "native on metax" in refused.value.why
    shutil.rmtree(folder / "evidence")
    edit(folder / "release.json", lambda content: content.update(baseline={"chip": "nvidia-h100", "stack": "native"}))
    with pytest.raises(ComparisonRefused, match="are missing"):
        take_over(world, compared(world), folder)


MATRIX = """\
version: 1
registry: localhost:5000/x
defaults: {baseline: {chip: far}, profile: quick}
chips:
  cpu:
    vendor: cpu
    device: {name: CPU, code: cpu, query: lscpu}
    base: "base:1"
    components: {flagscale: "0.8", flaggems: none}
  far:
    vendor: nvidia
    device: {name: Far, code: far, query: lscpu}
    base: "base:1"
    components: {flagscale: "0.8", flaggems: none}
models:
  tiny:
    title: Tiny
    source: file:///tmp/tiny
    upstream: me/tiny
    license: mit
    serve: {name: tiny, engine: llama_cpp}
benchmarks:
  sums: {title: Sums, task: integer, data: "data://sums.jsonl", license: MIT}
profiles:
  quick: {benchmarks: {sums: {}}}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a data folder, and in `answers/` a baseline of its only benchmark."""
    monkeypatch.chdir(tmp_path)
    Path("matrix.yaml").write_text(MATRIX)
    model = LockedModel(source="file:///tmp/tiny", revision="1", files=(), digest="sha256:" + "5" * 64)
    locks.save(Path("matrix.lock"), Lock(models={"tiny": model}))
    Path("data").mkdir()
    rows = [{"question": f"{n} + 1?", "answer": n + 1} for n in range(30)]
    Path("data/sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_manifest(Path("data"))
    made = open_project(Options(data_dir=Path("data")))
    benchmark, cell = made.matrix.benchmarks["sums"], made.cells[0]
    data = load("sums", benchmark, made.lock, Path("data"), lambda _locked: Path())
    spec = build_spec("sums", benchmark, task_named(benchmark.task, "sums"), Share(), data, cell.model)
    Path("answers").mkdir()
    samples = [
        Sample(
            benchmark="sums",
            subset=one.subset,
            question_id=one.id,
            prompt_sha256=one.prompt_sha256,
            repeat=0,
            correct=at < 21,
            answer="1",
            finish_reason="stop",
            completion_tokens=1,
            latency_s=0.1,
            error=None,
        )
        for at, one in enumerate(spec.questions)
    ]
    write_samples(Path("answers/samples.jsonl"), samples)
    sampling = {"sums": dict(spec.evaluation.parameters)}
    conditions = Conditions(model=model.digest, data={"sums": data.digest}, sampling=sampling)
    Path("answers/conditions.json").write_text(conditions.dump())
    return tmp_path


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = app.main(["baseline", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_verb_imports_and_lists(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "list")[1].startswith("no baseline is stored")
    code, out, _ = call(capsys, "import", "answers", "cpu/tiny", "--data-dir", "data", "--json")
    (told,) = json.loads(out)["baselines"]
    assert code == 0
    assert (told["benchmark"], told["n"], told["score"], told["source"]) == ("sums", 30, 0.7, "answers")
    listed = json.loads(call(capsys, "list", "--json")[1])["baselines"]
    assert listed == [told]
    assert "native on far" in call(capsys, "list")[1]
    assert call(capsys, "import", "answers/samples.jsonl", "cpu/tiny", "--data-dir", "data")[0] == 0
    assert len(json.loads(call(capsys, "list", "--json")[1])["baselines"]) == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["import"], 2, "needs PATH and CHIP/MODEL"),
        (["import", "nowhere", "cpu/tiny"], 2, "nowhere does not exist"),
        (["import", "answers", "cpu/tin"], 2, "did you mean 'cpu/tiny'?"),
        (["import", "answers", "cpu/tiny"], 2, "--data-dir"),
        (["improt"], 2, "invalid choice: 'improt'"),
        (["import", "matrix.lock", "cpu/tiny"], 2, "not a valid answer"),
    ],
)
def test_the_verb_refuses(
    words: list[str], code: int, said: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    got, _, err = call(capsys, *words)
    assert got == code
    assert said in err
    assert "Traceback" not in err
