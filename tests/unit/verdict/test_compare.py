import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flagrelease.errors import ComparisonRefused, ConfigError
from flagrelease.verdict.compare import compare_main, default_margin, load, parse_margins
from flagrelease.verdict.samples import Conditions, Sample, write_samples
from support.answer_sets import answers, drawn, flipped


def stored(folder: Path, samples: list[Sample], conditions: Conditions | None = None) -> Path:
    folder.mkdir(parents=True)
    write_samples(folder / "samples.jsonl", samples)
    if conditions:
        (folder / "conditions.json").write_text(conditions.dump(), encoding="utf-8")
    return folder


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    a, b = flipped(30, 21, 22, 7, "aime")
    c, d = flipped(14042, 9815, 9815, 2000, "mmlu")
    return stored(tmp_path / "a", a + c), stored(tmp_path / "b", b + d)


def test_json_has_exactly_the_agreed_keys(sides: tuple[Path, Path]) -> None:
    text, code = compare_main(*sides, {}, True)
    result = json.loads(text)
    assert (result.keys(), code) == ({"verdict", "benchmarks"}, 5)
    assert result["verdict"] == "INCONCLUSIVE"
    assert list(result["benchmarks"]) == ["aime", "mmlu"]
    for one in result["benchmarks"].values():
        keys = ["n", "repeats", "difference", "interval90", "margin", "p_regression", "verdict", "sensitive", "reason"]
        assert list(one) == keys
        assert one["interval90"][0] < one["difference"] < one["interval90"][1]
    assert result["benchmarks"]["mmlu"]["verdict"] == "PASS"


def test_the_table_is_aligned_and_explains_itself(sides: tuple[Path, Path]) -> None:
    text, _ = compare_main(*sides, {}, False)
    head, aime, mmlu, *rest = text.splitlines()
    assert len(head) == len(aime) == len(mmlu)
    assert aime.split()[:6] == ["aime", "30", "1", "0.700", "0.733", "+0.033"]
    assert aime.endswith("INCONCLUSIVE")
    assert mmlu.endswith("PASS")
    assert any("more answers on each side would decide it" in line for line in rest)
    assert rest[-1] == "INCONCLUSIVE"


def test_margins_for_one_and_for_all_decide(sides: tuple[Path, Path]) -> None:
    assert compare_main(*sides, parse_margins(["0.2"]), True)[1] == 0
    assert compare_main(*sides, parse_margins(["0.001", "aime=0.2"]), True)[1] == 5
    assert json.loads(compare_main(*sides, {"mmlu": 0.02}, True)[0])["benchmarks"]["aime"]["margin"] == 0.05
    with pytest.raises(ComparisonRefused, match="a margin is given for gpqa"):
        compare_main(*sides, {"gpqa": 0.1}, True)
    with pytest.raises(ConfigError, match="--margin mmlu=much"):
        parse_margins(["mmlu=much"])


def test_a_loss_ends_with_the_code_of_a_failed_gate(tmp_path: Path) -> None:
    a, b = flipped(500, 400, 300, 120, "mmlu")
    assert compare_main(stored(tmp_path / "a", a), stored(tmp_path / "b", b), {}, True)[1] == 4


def test_a_side_is_a_file_a_folder_or_a_record(tmp_path: Path) -> None:
    samples = answers([[True], [False]])
    folder = stored(tmp_path / "a", samples)
    assert load(folder).samples == load(folder / "samples.jsonl").samples == samples

    kept = [("accuracy/samples.jsonl", "accuracy/accuracy_samples.jsonl", (folder / "samples.jsonl").read_bytes())]
    conditions = Conditions(model="m", data={"mmlu": "1"}, sampling={})
    kept.append(("accuracy/conditions.json", "accuracy/accuracy_conditions.json", conditions.dump().encode()))
    release, evidence = tmp_path / "release", []
    for name, place, data in kept:
        path = release / "evidence" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        evidence.append({"name": name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)})
    (release / "release.json").write_text(json.dumps({"version": 1, "accuracy": {"evidence": evidence}}))
    assert load(release).samples == load(release / "release.json").samples == samples
    assert load(release).conditions == conditions
    path = release / "evidence" / "accuracy" / "accuracy_samples.jsonl"
    path.write_bytes(path.read_bytes().replace(b"true", b"false"))
    with pytest.raises(ComparisonRefused, match="are missing"):
        load(release)


def test_a_record_cannot_point_outside_its_evidence(tmp_path: Path) -> None:
    elsewhere = stored(tmp_path / "elsewhere", answers([[True]])) / "samples.jsonl"
    release = tmp_path / "release"
    (release / "evidence").mkdir(parents=True)
    sha256 = hashlib.sha256(elsewhere.read_bytes()).hexdigest()
    evidence = [{"name": "../../elsewhere/samples.jsonl", "sha256": sha256}]
    (release / "release.json").write_text(json.dumps({"evidence": evidence}))
    with pytest.raises(ComparisonRefused, match="are missing"):
        load(release)


@pytest.mark.parametrize(
    ("content", "what"),
    [("{", "not a release record"), ('{"version": 1}', "does not list samples"), (None, "no answers in")],
)
def test_a_folder_without_answers_is_told(tmp_path: Path, content: str | None, what: str) -> None:
    if content is not None:
        (tmp_path / "release.json").write_text(content)
    with pytest.raises(ComparisonRefused, match=what):
        load(tmp_path)
    with pytest.raises(ComparisonRefused, match="does not exist"):
        load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (Conditions(model="other", data={"mmlu": "1"}, sampling={}), "model"),
        (Conditions(model="m", data={"mmlu": "2"}, sampling={}), "data"),
        (Conditions(model="m", data={"mmlu": "1"}, sampling={"mmlu": {"temperature": 1.0}}), "sampling"),
    ],
)
def test_other_conditions_are_refused(tmp_path: Path, other: Conditions, what: str) -> None:
    same = Conditions(model="m", data={"mmlu": "1"}, sampling={})
    samples = answers([[True], [False], [True]])
    a, b = stored(tmp_path / "a", samples, same), stored(tmp_path / "b", samples, other)
    with pytest.raises(ComparisonRefused, match=f"differ in their {what}"):
        compare_main(a, b, {}, False)
    c = stored(tmp_path / "c", samples, same)
    assert "not verified" not in compare_main(a, c, {"mmlu": 0.9}, False)[0]
    assert "not verified" in compare_main(a, stored(tmp_path / "d", samples), {"mmlu": 0.9}, False)[0]


def test_default_margins_go_by_the_name() -> None:
    assert [default_margin(name) for name in ("mmlu_pro", "MMLU", "aime24", "gpqa_diamond", "ifeval")] == [
        0.01,
        0.01,
        0.05,
        0.05,
        0.03,
    ]


def test_swapped_sides_are_refused_where_their_names_show_it(tmp_path: Path) -> None:
    a, b = flipped(500, 400, 300, 120, "mmlu")
    first, then = tmp_path / "accuracy_baseline.samples.jsonl", tmp_path / "accuracy_samples.jsonl"
    write_samples(first, a)
    write_samples(then, b)
    assert compare_main(first, then, {}, True)[1] == 4
    with pytest.raises(ComparisonRefused, match="the second side is a baseline") as refused:
        compare_main(then, first, {}, True)
    assert refused.value.hint == f"flagrelease compare {first} {then}"
    assert compare_main(first, first, {}, True)[1] == 0


@pytest.mark.parametrize(("chance", "code"), [({}, 5), ({"mmlu": 0.0}, 0)])
def test_a_benchmark_near_its_chance_level_never_passes(tmp_path: Path, chance: dict[str, float], code: int) -> None:
    """By the recorded level, or by the usual one of a benchmark of this name."""
    same = answers([[n % 4 == 0] for n in range(2000)])
    recorded = Conditions(model="m", data={}, sampling={}, chance=chance)
    a, b = (stored(tmp_path / name, same, recorded) for name in "ab")
    text, ended = compare_main(a, b, {}, False)
    assert ended == code
    assert ("not sensitive" in text.splitlines()[1]) is (code == 5)
    assert json.loads(compare_main(a, b, {}, True)[0])["benchmarks"]["mmlu"]["sensitive"] is (code == 0)


def test_a_dead_candidate_of_a_weak_model_does_not_pass(tmp_path: Path) -> None:
    """4 of 880 right on one side and none on the other: no loss beyond a margin of 2 points is possible."""
    a, b = flipped(880, 4, 0, 4, "gsm8k")
    text, code = compare_main(stored(tmp_path / "a", a), stored(tmp_path / "b", b), {"gsm8k": 0.02}, False)
    assert code == 5
    assert "not sensitive" in text


LARGE = """
import json, sys, time
from pathlib import Path
from flagrelease.verdict.compare import compare_main

paths = [Path(word) for word in sys.argv[1:]]
began = time.process_time()
for path in paths:
    for line in (path / "samples.jsonl").read_bytes().splitlines():
        json.loads(line)
parsed = time.process_time()
compare_main(*paths, {}, True)
print(parsed - began, time.process_time() - parsed)
"""


@pytest.mark.slow  # 224,672 answers
def test_large_files_are_compared_in_seconds(tmp_path: Path) -> None:
    """14,042 × 8 answers on each side, in about twice the time that reading both as JSON takes (some 1.5 s). So neither
    a slow machine decides nor, by processor time, a busy one."""
    p = np.random.default_rng(1).beta(0.9, 0.2, 14042)
    a = stored(tmp_path / "a", answers(drawn(1, p, 8)))
    b = stored(tmp_path / "b", answers(drawn(2, p, 8)))
    command = [sys.executable, "-c", LARGE, str(a), str(b)]
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=paths)
    parsing, comparing = map(float, result.stdout.split())
    assert comparing < 4 * parsing, result.stdout


def test_the_module_stays_light() -> None:
    """`flagrelease --help` and `plan` may import these; numpy comes when something is judged."""
    names = "compare, fixed_sample, flips, group_sequential, lengths, noise, rule, samples, sensitivity, speed, types"
    names += ", wording"
    code = f"import sys; from flagrelease.verdict import {names}"
    code += "; assert not {'numpy', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": os.pathsep.join(sys.path)})
