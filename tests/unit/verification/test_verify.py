"""`verify`: an untouched release agrees, and each way to tamper with one is named in one line."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flagrelease.cli import app
from flagrelease.store.digests import file_sha256
from flagrelease.verification import card, files, scores, speed, tokens
from flagrelease.verification.findings import Check, State, agrees, differs, exit_code, not_checked
from flagrelease.verification.release import Release, open_release
from flagrelease.verification.verify import Options, accuracy, verify
from support import released
from support.finished_cell import TEMPLATES

SAMPLES = "evidence/accuracy/accuracy_samples.jsonl"
OPTIONS = Options(templates=TEMPLATES)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return released.release(tmp_path_factory.mktemp("released"))


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A copy to tamper with."""
    return Path(shutil.copytree(published, tmp_path / published.name))


def parts(release: Release) -> list[Check]:
    """All checks but those of the card, which take longest."""
    found = [*files.checks(release), *accuracy(release, OPTIONS)]
    return [*found, *tokens.checks(release), *speed.checks(release)]


def wrong(folder: Path) -> list[str]:
    return [f"{c.check} | {c.subject} | {c.detail}" for c in parts(open_release(folder)) if c.state is State.DIFFERS]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1, f"{old!r} is not in {path.name}"
    path.write_text(text.replace(old, new, 1))


def lines(path: Path, change: Callable[[dict[str, Any]], None], number: int = 0) -> None:
    """Change one line of a JSONL file."""
    rows = path.read_text().splitlines()
    row = json.loads(rows[number])
    change(row)
    rows[number] = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
    path.write_text("".join(f"{each}\n" for each in rows))


def seal(folder: Path) -> Path:
    """Record and SHA256SUMS name the changed files as they are now, and the folder is renamed to the new tag."""
    release = open_release(folder)
    raw = release.raw.decode()
    for path, file in release.evidence.items():
        if (folder / path).is_file():
            raw = raw.replace(file.sha256, file_sha256(folder / path))
    (folder / "release.json").write_text(raw)
    card_text = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card_text.replace(release.tag, open_release(folder).tag))
    sums = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    sums.pop("SHA256SUMS")
    written = "".join(f"{file_sha256(path)}  {name}\n" for name, path in sorted(sums.items()))
    (folder / "SHA256SUMS").write_text(written)
    return folder.rename(folder.parent / open_release(folder).tag)


def test_an_untouched_release_is_verified(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    receipt = tmp_path / "receipt.json"
    assert app.main(["verify", str(published), "--receipt", str(receipt)]) == 0
    out = capsys.readouterr().out
    assert "\nverified: " in out
    assert "✗" not in out
    made = json.loads(receipt.read_text())
    assert (made["result"], made["exit_code"], made["tag"]) == ("verified", 0, published.name)
    assert made["record"]["sha256"] == file_sha256(published / "release.json")
    assert made["by"].startswith("flagrelease ")
    agreed = {(check["check"], check["subject"]) for check in made["checks"] if check["state"] == "agrees"}
    assert agreed >= {
        ("files", "16 files"),
        ("record", "release.json"),
        ("card", "README.md"),
        ("card", "scores.png, speed.png"),
        ("answers", "short-tasks, native on cpu"),
        ("answers", "short-tasks, flagos on cpu"),
        ("score", "short-tasks"),
        ("score", "short-tasks, attempts"),
        ("score", "accuracy/comparison.json"),
        ("score", "accuracy/flipped.jsonl"),
        ("verdict", "accuracy"),
        ("tokens", "token gate"),
        ("speed", "16 in, 8 out, 1 at once"),
        ("verdict", "speed"),
    }
    unchecked = {check["check"] for check in made["checks"] if check["state"] == "not checked"}
    assert unchecked == {"tokens", "speed", "weights", "smoke", "image"}
    (image,) = [check["detail"] for check in made["checks"] if check["check"] == "image"]
    assert image.endswith("` asks the registry of the machine that made it"), "its address is that machine's localhost"


def flip(row: dict[str, Any]) -> None:
    row["correct"] = not row["correct"]


def test_a_flipped_answer_is_named(folder: Path) -> None:
    sample = json.loads((folder / SAMPLES).read_text().splitlines()[0])
    lines(folder / SAMPLES, flip)
    found = wrong(folder)
    name = f"{sample['subset']}/{sample['question_id']} repeat 0"
    words = ("right", "wrong") if sample["correct"] else ("wrong", "right")
    assert [line for line in found if line.startswith("answers")] == [
        f"answers | short-tasks, flagos on cpu | {name} is {words[0]}, recorded as {words[1]}: {sample['answer']!r}"
    ]
    assert any(line.startswith(f"files | {SAMPLES} | sha256 is ") for line in found)
    assert any(line.startswith("score | short-tasks | candidate is ") for line in found)


def test_a_flipped_answer_is_named_though_all_digests_fit(folder: Path) -> None:
    lines(folder / SAMPLES, flip)
    found = wrong(seal(folder))
    assert not [line for line in found if line.startswith(("files", "record"))]
    assert len([line for line in found if line.startswith("answers") and "recorded as" in line]) == 1


def test_a_grade_by_another_version_of_the_grader_is_neither_right_nor_wrong(folder: Path) -> None:
    edit(
        folder / "evidence/accuracy/accuracy_conditions.json",
        '"graders": {\n    "short-tasks": "',
        '"graders": {\n    "short-tasks": "0',
    )
    assert [c.state for c in accuracy(open_release(folder), OPTIONS) if c.check == "answers"] == [State.AGREES] * 2
    lines(folder / SAMPLES, flip)
    (changed,) = (c for c in accuracy(open_release(folder), OPTIONS) if c.check == "answers" and c.decisive)
    assert changed.state is State.NOT_CHECKED
    assert changed.detail.startswith("1 answers get another grade, by another version of the grader; such as ")


def no_reply(folder: Path) -> None:
    (folder / "evidence/accuracy/accuracy_replies.jsonl").unlink()


def other_answer(folder: Path) -> None:
    lines(folder / SAMPLES, lambda row: row.update(answer="something else"))


def other_prompt(folder: Path) -> None:
    lines(folder / SAMPLES, lambda row: row.update(prompt_sha256="0" * 64))


def unknown_question(folder: Path) -> None:
    lines(folder / SAMPLES, lambda row: row.update(question_id="made-up"))


def lost_answer(folder: Path) -> None:
    path = folder / SAMPLES
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


def other_reply(folder: Path) -> None:
    lines(folder / "evidence/accuracy/accuracy_replies.jsonl", lambda row: row.update(text="I do not know"))


def unasked_reply(folder: Path) -> None:
    lines(folder / "evidence/accuracy/accuracy_replies.jsonl", lambda row: row.update(repeat=7))


def margin(folder: Path) -> None:
    edit(folder / "evidence/accuracy/accuracy_conditions.json", '"margin": 0.2', '"margin": 0.9')


def other_design(folder: Path) -> None:
    edit(folder / "evidence/accuracy/accuracy_conditions.json", '"population": 120', '"population": 0')


def comparison(folder: Path) -> None:
    edit(folder / "evidence/accuracy/accuracy_comparison.json", '"p_regression": 0.', '"p_regression": 1.')


def request(folder: Path) -> None:
    lines(folder / "evidence/speed/speed_requests.jsonl", lambda row: row.update(output_tokens=9))


def run_time(folder: Path) -> None:
    lines(folder / "evidence/speed/speed_requests.jsonl", lambda row: row.update(run_s=0.5))


def distance(folder: Path) -> None:
    edit(folder / "evidence/accuracy/accuracy_tokens.json", '"kl": [0.', '"kl": [1.')


def other_tokens(folder: Path) -> None:
    edit(folder / "evidence/accuracy/accuracy_tokens.json", '"same_tokens": true', '"same_tokens": false')


@pytest.mark.parametrize(
    ("tamper", "line"),
    [
        (no_reply, "files | evidence/accuracy/accuracy_replies.jsonl | missing; the record names it"),
        (other_answer, "recorded as 'something else'"),
        (other_prompt, "repeat 0 was asked with another prompt than the benchmark's"),
        (unknown_question, "made-up repeat 0 answers a question that the benchmark has not"),
        (lost_answer, "a reply to "),
        (other_reply, "recorded as right: 'i do not know'"),
        (unasked_reply, "repeat 7, which has no answer"),
        (margin, "score | short-tasks | margin of the design is not that of the benchmark"),
        (other_design, "score | short-tasks, attempts | none of them is the judgement of these answers by this design"),
        (comparison, "score | accuracy/comparison.json | short-tasks.p_regression is "),
        (request, "speed | 16 in, 8 out, 1 at once | baseline.output_tokens_per_s is "),
        (run_time, "speed | speed_requests.jsonl | cannot be read: requests of round 0"),
        (distance, "tokens | token gate | candidate's mean is 0.00"),
        (other_tokens, "tokens | token gate | other_prompts is 0, computed 1"),
    ],
)
def test_tampered_evidence_is_named_though_all_digests_fit(
    folder: Path, tamper: Callable[[Path], None], line: str
) -> None:
    tamper(folder)
    found = wrong(seal(folder))
    assert [each for each in found if line in each], "\n".join(found)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ('0,\n        "verdict": "PASS"', '0,\n        "verdict": "FAIL"', "score | short-tasks | verdict is FAIL"),
        ('"candidate": 0.', '"candidate": 0.1', "score | short-tasks | candidate is 0.1"),
        ('"ratio": 1.00', '"ratio": 1.20', "speed | 16 in, 8 out, 1 at once | ratio is 1.20"),
        ('"level": 0.045', '"level": 0.25', "score | short-tasks, attempts | attempt 1 has level 0.25"),
        ('"margin": 0.2,\n        "metric"', '"margin": 0.3,\n        "metric"', "score | short-tasks | margin is 0.3"),
    ],
)  # fmt: skip
def test_an_edited_record_is_named(folder: Path, old: str, new: str, line: str) -> None:
    edit(folder / "release.json", old, new)
    release = open_release(folder)
    found = [*accuracy(release, OPTIONS), *speed.checks(release), *files.checks(release)]
    told = [f"{c.check} | {c.subject} | {c.detail}" for c in found if c.state is State.DIFFERS]
    assert [each for each in told if each.startswith(line)], "\n".join(told)
    assert [each for each in told if each.startswith("record | release.json | its sha256 is ")]


def test_a_cell_verdict_that_the_rule_does_not_give_is_named(published: Path) -> None:
    release = open_release(published)
    forged = replace(release.record.accuracy, verdict="FAIL")
    release = replace(release, record=replace(release.record, accuracy=forged))
    told = [c.detail for c in scores.checks(release, "no answers", {}) if c.state is State.DIFFERS]
    assert told == ["verdict is FAIL, computed PASS", "published, but FAIL"]


def other_score(folder: Path) -> tuple[int, str]:
    """Change the candidate's score on the card. The number of its line, and what the record has."""
    score = f"{open_release(folder).record.accuracy.benchmarks[0].candidate:.3f}"
    lines = (folder / "README.md").read_text().splitlines(keepends=True)
    at = next(at for at, line in enumerate(lines) if line.startswith("| `ShortTasks"))
    before, _, then = lines[at].rpartition(f" {score} ")
    lines[at] = f"{before} 0.999 {then}"
    (folder / "README.md").write_text("".join(lines))
    return at + 1, score


def test_a_changed_number_on_the_card_is_named_with_its_line(folder: Path) -> None:
    number, score = other_score(folder)
    (found,) = (check for check in card.checks(open_release(folder), TEMPLATES) if check.state is not State.AGREES)
    assert (found.state, found.subject) == (State.DIFFERS, f"README.md:{number}")
    assert found.detail.startswith("has '0.999 | ")
    assert f", the record gives '{score} | " in found.detail


@pytest.mark.parametrize("name", ["README_zh.md", "every-eval-ever.json"])
def test_what_is_derived_from_the_record_is_derived_again(folder: Path, name: str) -> None:
    text = (folder / name).read_text()
    assert "PASS" in text
    (folder / name).write_text(text.replace("PASS", "FAIL", 1))
    (found,) = (check for check in card.checks(open_release(folder), TEMPLATES) if check.state is not State.AGREES)
    assert found.state is State.DIFFERS
    assert found.subject.startswith(name)
    (folder / name).unlink()
    assert [check.subject for check in card.checks(open_release(folder), TEMPLATES) if check.state is State.DIFFERS][
        -1
    ].startswith(name)


def test_with_another_template_the_tables_are_still_compared(folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(TEMPLATES, tmp_path / "templates"))
    with (other / "card.md.j2").open("a") as template:
        template.write("\nOne more line.\n")
    release = open_release(folder)
    states = [(check.state, check.detail) for check in card.checks(release, other)]
    assert states[0] == (State.AGREES, "the tables of scores, speeds and operators are the record's")
    assert states[1][0] is State.NOT_CHECKED
    number, score = other_score(folder)
    with (folder / "README.md").open("a") as text:
        text.write("It is 87.654 % faster.\n")
    checks = [check for check in card.checks(release, other) if check.subject.startswith("README.md")]
    assert (checks[0].state, checks[0].subject) == (State.DIFFERS, f"README.md:{number}")
    assert f" | {score} | " in checks[0].detail
    assert "87.654 in line" in checks[-1].detail


@pytest.mark.parametrize("name", ["README.md", "scores.png", "release.json", "evidence/speed/speed_requests.jsonl"])
def test_every_changed_file_is_named(folder: Path, name: str) -> None:
    with (folder / name).open("ab") as file:
        file.write(b"\n")
    (folder / "more.txt").touch()
    told = [(c.subject, c.detail) for c in files.checks(open_release(folder)) if c.state is State.DIFFERS]
    assert [subject for subject, detail in told if detail.startswith("sha256 is ")] == [name]
    assert ("more.txt", "neither the record nor SHA256SUMS names it") in told


def test_a_link_is_named_and_nothing_is_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of this machine")
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(tmp_path / "secret")
    (found,) = verify(open_release(folder), OPTIONS)
    assert (found.subject, found.detail) == ("README.md", "is a link, not a file; nothing was read")


def test_a_list_of_sums_that_lies_is_named(folder: Path) -> None:
    edit(folder / "SHA256SUMS", file_sha256(folder / SAMPLES), "0" * 64)
    edit(folder / "SHA256SUMS", "release.json", "other.json")
    told = [(c.subject, c.detail) for c in files.checks(open_release(folder)) if c.state is State.DIFFERS]
    assert ("other.json", "missing; SHA256SUMS names it") in told
    assert ("SHA256SUMS", "release.json is not in it") in told
    assert any(
        subject == "SHA256SUMS" and detail.startswith(f"{SAMPLES} has not the digest of the record")
        for subject, detail in told
    )


def test_a_card_without_evidence_is_not_verified(published: Path, tmp_path: Path) -> None:
    for name in ("README.md", "release.json", "scores.png", "speed.png"):
        shutil.copy(published / name, tmp_path)
    checks = parts(open_release(tmp_path))
    assert exit_code(checks) == 5
    missing = {(check.check, check.subject) for check in checks if check.decisive}
    assert missing == {("files", "evidence"), ("score", "short-tasks"), ("speed", "all load points")}


def test_the_exit_code_says_what_was_found() -> None:
    fine, gone = agrees("files", "a", ""), not_checked("weights", "b", "")
    assert exit_code([fine, gone]) == 0
    assert exit_code([fine, replace(gone, decisive=True)]) == 5
    assert exit_code([fine, replace(gone, decisive=True), differs("card", "c", "")]) == 4
    assert exit_code([]) == 5


def test_a_folder_without_a_record_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["verify", str(tmp_path)]) == 2
    assert "is not a release: release.json: No such file" in capsys.readouterr().err
    assert app.main(["verify", "not/there at all"]) == 2
    assert "is neither a folder nor an image" in capsys.readouterr().err
