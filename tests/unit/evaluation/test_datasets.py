"""Benchmark data by manifest: present, missing, changed and encrypted files."""

from __future__ import annotations

import json
import shlex
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import pytest

from flagrelease.config.lockfile import Lock, LockedData, LockedFile
from flagrelease.config.matrix import Benchmark
from flagrelease.errors import ConfigError, Corrupt
from flagrelease.evaluation.__main__ import main
from flagrelease.evaluation.__main__ import main as program
from flagrelease.evaluation.datasets import (
    DataFile,
    DataSet,
    digest_of,
    load,
    promised_digest,
    read_manifest,
    write_manifest,
)
from flagrelease.evaluation.tasks import TASKS

ROW = '{"question": "Which?", "choices": ["one", "two"], "answer": 1}\n'


def benchmark(data: str) -> Benchmark:
    return Benchmark(title="MMLU", task="multiple-choice", data=data, license="MIT")


def never(_locked: LockedData) -> Path:
    raise AssertionError("nothing is to be fetched")


def loaded(data: str, folder: Path | None) -> DataSet:
    return load("mmlu", benchmark(data), Lock(), folder, never)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, rows in (("mmlu/test.jsonl", 3), ("mmlu/dev.jsonl", 2), ("other.jsonl", 1)):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(ROW * rows)
    write_manifest(tmp_path / "data", {"mmlu/": "MIT"})
    return tmp_path / "data"


def test_a_manifest_has_digest_bytes_rows_and_licence(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert set(manifest.files) == {"mmlu/test.jsonl", "mmlu/dev.jsonl", "other.jsonl"}
    one = manifest.files["mmlu/test.jsonl"]
    assert (one.size, one.rows, one.license, len(one.sha256)) == (3 * len(ROW), 3, "MIT", 64)


def test_a_licence_is_kept_by_a_new_manifest(folder: Path) -> None:
    assert program([str(folder)]) == 0
    assert read_manifest(folder).files["mmlu/test.jsonl"].license == "MIT"
    assert program([str(folder), "mmlu=CC-BY-4.0", "other=MIT"]) == 0
    assert read_manifest(folder).files["other.jsonl"].license == "MIT"
    with pytest.raises(ConfigError, match="benchmark mmlu has two licences") as caught:
        loaded("data://mmlu", folder)
    assert "CC-BY-4.0 for mmlu/dev.jsonl" in caught.value.why
    assert program([str(folder), "mmlu"]) == program([]) == 2


def test_a_file_and_a_folder_are_found(folder: Path) -> None:
    one, whole = loaded("data://mmlu/test.jsonl", folder), loaded("data://mmlu", folder)
    assert [file.name for file in one.files] == ["mmlu/test.jsonl"]
    assert [file.name for file in whole.files] == ["mmlu/dev.jsonl", "mmlu/test.jsonl"]
    assert one.digest == read_manifest(folder).files["mmlu/test.jsonl"].sha256
    assert whole.digest not in (one.digest, "")


def test_the_digest_is_known_without_opening_the_data(folder: Path) -> None:
    what = benchmark("data://mmlu")
    assert digest_of("mmlu", what, Lock(), folder) == loaded("data://mmlu", folder).digest
    assert digest_of("mmlu", what, Lock(), None) == "absent"
    assert digest_of("mmlu", benchmark("data://nothing"), Lock(), folder) == "absent"


def test_a_changed_file_is_refused(folder: Path) -> None:
    path = folder / "mmlu" / "test.jsonl"
    path.write_text(path.read_text().replace("one", "0ne", 1))
    with pytest.raises(Corrupt, match=r"test\.jsonl differs from its entry in manifest\.json"):
        loaded("data://mmlu", folder)


def test_a_file_cut_in_half_is_refused(folder: Path) -> None:
    path = folder / "mmlu" / "test.jsonl"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(Corrupt):
        loaded("data://mmlu", folder)


def test_a_missing_file_of_the_manifest_is_named(folder: Path) -> None:
    (folder / "mmlu" / "dev.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"dev\.jsonl is missing"):
        loaded("data://mmlu", folder)


def test_missing_data_is_an_error_with_where_to_put_it(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded("data://gpqa/dataset.zip", folder)
    assert "benchmark mmlu has no data" in caught.value.what
    assert str(folder / "gpqa/dataset.zip") in caught.value.hint


def test_data_missing_from_the_manifest_can_be_added(folder: Path) -> None:
    (folder / "late.jsonl").write_text(ROW)
    with pytest.raises(ConfigError) as caught:
        loaded("data://late.jsonl", folder)
    assert "adds it" in caught.value.hint


def test_a_missing_manifest_is_an_error_with_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.jsonl").write_text(ROW)
    with pytest.raises(ConfigError) as caught:
        loaded("data://x.jsonl", tmp_path)
    assert f"python -m flagrelease.evaluation {tmp_path}" in caught.value.hint
    argv = shlex.split(caught.value.hint.partition("`")[2].partition(" [")[0])
    assert Path(argv[0]).absolute() == Path(sys.executable), "any other Python may lack flagrelease"
    assert main([str(tmp_path)]) == 0
    assert ": 1 file\n" in capsys.readouterr().out
    assert len(loaded("data://x.jsonl", tmp_path).files) == 1


def test_the_manifest_program_refuses_a_missing_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 2
    assert "the data folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        ('{"version": 2, "files": {}}', "has version 2"),
        ('{"version": 1, "files": {"../x": {"sha256": "a", "size": 1}}}', "names '../x'"),
        ('{"version": 1, "files": {"/etc/x": {"sha256": "a", "size": 1}}}', "names '/etc/x'"),
    ],
)
def test_a_bad_manifest_is_refused(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ConfigError, match=said):
        read_manifest(tmp_path)


def test_locked_data_is_fetched(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text(ROW)
    locked = LockedData(
        source="pypi://x==1/test.jsonl", rows=1, file=LockedFile(path="test.jsonl", size=1, sha256="ab" * 32)
    )
    lock = Lock(benchmarks={"mmlu": locked})
    data = load("mmlu", benchmark("pypi://x==1/test.jsonl"), lock, None, lambda _locked: path)
    assert data.digest == "ab" * 32
    assert len(TASKS["multiple-choice"].read(data, 0)) == 1


def test_data_that_is_locked_for_another_source_is_an_error() -> None:
    file = LockedFile(path="test.jsonl", size=1, sha256="ab" * 32)
    lock = Lock(benchmarks={"mmlu": LockedData(source="pypi://x==1/test.jsonl", rows=1, file=file)})
    changed = benchmark("pypi://x==2/test.jsonl")
    with pytest.raises(ConfigError) as promised:
        promised_digest("mmlu", changed, lock, None)
    with pytest.raises(ConfigError) as loading:
        load("mmlu", changed, lock, None, never)
    for error in (promised.value, loading.value):
        assert error.what == "benchmarks.mmlu is locked for other data"
        assert error.why == "matrix.yaml says pypi://x==2/test.jsonl, matrix.lock pypi://x==1/test.jsonl"
        assert "flagrelease lock" in error.hint


def test_data_that_is_not_locked_is_an_error() -> None:
    with pytest.raises(ConfigError) as caught:
        load("mmlu", benchmark("pypi://x==1/test.jsonl"), Lock(), None, never)
    assert "flagrelease lock" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "content"), [("x.jsonl", "{\n"), ("x.jsonl", "[1]\n"), ("x.json", "{}"), ("x.json", "[")]
)
def test_invalid_rows_are_named(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=name):
        DataFile(name=name, path=tmp_path / name).rows()


GPQA = (
    b"Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3\r\n"
    b'rec1,"A question, of two\nlines?",right,wrong one,wrong two,wrong three\r\n'
)


def encrypted_zip(path: Path, member: str, content: bytes, password: bytes) -> None:
    """A zip in the traditional PKWARE encryption (APPNOTE 6.1), which the standard library reads and cannot write."""
    table = []
    for index in range(256):
        value = index
        for _ in range(8):
            value = (value >> 1) ^ 0xEDB88320 if value & 1 else value >> 1
        table.append(value)
    one, two, three = 0x12345678, 0x23456789, 0x34567890

    def update(byte: int) -> None:
        nonlocal one, two, three
        one = table[(one ^ byte) & 0xFF] ^ (one >> 8)
        two = ((two + (one & 0xFF)) * 134775813 + 1) & 0xFFFFFFFF
        three = table[(three ^ (two >> 24)) & 0xFF] ^ (three >> 8)

    def encrypt(byte: int) -> int:
        mixed = (three | 2) & 0xFFFF
        out = byte ^ (((mixed * (mixed ^ 1)) >> 8) & 0xFF)
        update(byte)
        return out

    for byte in password:
        update(byte)
    crc = zlib.crc32(content)
    body = bytes(encrypt(byte) for byte in bytes(11) + bytes([crc >> 24]) + content)
    name = member.encode()
    common = struct.pack("<HHHHHIIIHH", 20, 1, 0, 0, 0, crc, len(body), len(content), len(name), 0)
    local = b"PK\x03\x04" + common + name + body
    central = b"PK\x01\x02\x14\x00" + common + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 1, 1, len(central), len(local), 0)
    path.write_bytes(local + central + end)


@pytest.fixture
def gpqa(tmp_path: Path) -> Path:
    encrypted_zip(tmp_path / "dataset.zip", "dataset/gpqa_diamond.csv", GPQA, b"open sesame")
    with zipfile.ZipFile(tmp_path / "dataset.zip") as archive:
        assert archive.read("dataset/gpqa_diamond.csv", pwd=b"open sesame") == GPQA
    write_manifest(tmp_path)
    return tmp_path


def test_the_encrypted_zip_is_read_in_memory_only(gpqa: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPQA_PASSWORD", "open sesame\n")
    before = sorted(gpqa.rglob("*"))
    (question,) = TASKS["multiple-choice-cot"].read(loaded("data://dataset.zip#gpqa_diamond.csv", gpqa), 0)
    assert "of two\nlines?" in question.messages[0]["content"]
    assert question.id == "rec1"
    assert question.subset == "gpqa_diamond"
    assert sorted(gpqa.rglob("*")) == before


@pytest.mark.parametrize(("password", "said"), [(None, "it is encrypted"), ("wrong", "its password is wrong")])
def test_a_missing_or_wrong_password_is_an_error_and_not_shown(
    password: str | None, said: str, gpqa: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GPQA_PASSWORD", raising=False)
    if password:
        monkeypatch.setenv("GPQA_PASSWORD", password)
    with pytest.raises(ConfigError) as caught:
        loaded("data://dataset.zip#gpqa_diamond.csv", gpqa).files[0].rows()
    assert caught.value.why == said
    assert "GPQA_PASSWORD" in caught.value.hint
    assert "sesame" not in caught.value.line()


def test_an_absent_member_is_named(gpqa: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no member 'gpqa_main\.csv'"):
        loaded("data://dataset.zip#gpqa_main.csv", gpqa).files[0].rows()


def test_several_members_are_asked_together_and_their_common_questions_are_dependent(tmp_path: Path) -> None:
    sets = {"main": [0, 1, 2], "extended": [0, 1, 2, 3], "diamond": [1]}
    columns = ["Record ID", "Question", "Correct Answer", *(f"Incorrect Answer {index}" for index in (1, 2, 3))]
    with zipfile.ZipFile(tmp_path / "dataset.zip", "w") as archive:
        for name, numbers in sets.items():
            rows = [f"rec{number},Which of {number}?,w,x,y,z" for number in numbers]
            archive.writestr(f"dataset/gpqa_{name}.csv", "\n".join([",".join(columns), *rows, ""]))
    write_manifest(tmp_path)
    members = ",".join(f"gpqa_{name}.csv" for name in sets)
    questions = TASKS["multiple-choice-cot"].read(loaded(f"data://dataset.zip#{members}", tmp_path), 0)
    assert len(questions) == len({(one.subset, one.id) for one in questions}) == 8
    assert {one.id for one in questions if one.id.startswith("rec1#")} == {f"rec1#{name}" for name in sets}
    assert {one.subset for one in questions} == {"gpqa"}
    prompts = {one.prompt_sha256 for one in questions if one.id.startswith("rec1#")}
    assert len(prompts) == 1
    (alone,) = TASKS["multiple-choice-cot"].read(loaded("data://dataset.zip#gpqa_diamond.csv", tmp_path), 0)
    assert (alone.subset, alone.id) == ("gpqa_diamond", "rec1")


def test_members_of_a_zip_have_different_digests(gpqa: Path) -> None:
    assert loaded("data://dataset.zip#a.csv", gpqa).digest != loaded("data://dataset.zip#b.csv", gpqa).digest


def test_a_manifest_is_json_that_diffs_well(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    assert list(json.loads(text)["files"]) == sorted(json.loads(text)["files"])
    assert text.count("\n") > 10
