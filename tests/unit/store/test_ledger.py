"""The ledger is append-only and survives what kills its writers."""

import multiprocessing
import os
import resource
from pathlib import Path

import pytest

from flagrelease.errors import ConfigError, Corrupt, EnvironmentFault, NoSpace
from flagrelease.store import locks
from flagrelease.store.evidence import EvidenceStore
from flagrelease.store.files import write_atomic
from flagrelease.store.ledger import Entry, Failure, Ledger, process_id, process_lives


def entry(number: int, **more: object) -> Entry:
    values = {"at": "2026-01-01T00:00:00+00:00", "run": "r", "cell": "c/m", "stage": "s", "state": "done"}
    return Entry(**{**values, "key": str(number), "process": process_id(), **more})  # type: ignore[arg-type]


def _write(path: str, first: int) -> None:
    ledger = Ledger(Path(path))
    for number in range(first, first + 50):
        ledger.append(entry(number))


def test_processes_append_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(str(path), n * 50)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    entries = Ledger(path).entries()
    assert sorted(int(one.key) for one in entries) == list(range(150))


def test_a_line_cut_by_a_kill_is_passed_over_and_the_rest_is_read(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append(entry(1))
    with ledger.path.open("ab") as stream:
        stream.write(b'{"at": "2026')
    reader = Ledger(ledger.path)
    assert [one.key for one in reader.entries()] == ["1"]
    reader.append(entry(2))
    again = Ledger(ledger.path)
    assert [one.key for one in again.entries()] == ["1", "2"]
    assert again.damaged == 1


def test_what_others_have_said_is_redacted_and_what_is_compared_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "open sesame")
    monkeypatch.setenv("RUN_KEY", "testrun")
    said = "said\nopen sesame"
    failure = Failure(kind="X", code=1, what=said, why=said, hint=said, detail=f"Authorization: Bearer a\n{said}")
    result = {"text": said, "list": [said, {"number": 1, "testrun": None}], "url": "https://me:opensesame@host"}
    ledger = Ledger(tmp_path / "ledger.jsonl")
    written = ledger.append(entry(1, run="testrun", result=result, error=failure))
    assert "sesame" not in ledger.path.read_text()
    hidden = "said\n$SOME_TOKEN"
    assert written.error == Failure(
        kind="X", code=1, what=hidden, why=hidden, hint=hidden, detail=f"Authorization: Bearer …\n{hidden}"
    )
    assert written.result == {
        "text": hidden,
        "list": [hidden, {"number": 1, "testrun": None}],
        "url": "https://…@host",
    }
    assert written.run == "testrun"
    assert ledger.entries() == [written]
    assert ledger.entries()[0].result_digest == written.result_digest


def test_new_lines_of_others_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    reader = Ledger(path)
    assert reader.entries() == []
    Ledger(path).append(entry(1))
    assert reader.last_done("c/m", "s", "1") is not None
    assert reader.last_done("c/m", "s", "2") is None
    Ledger(path).append(entry(2, state="failed"))
    last = reader.last("c/m", "s")
    assert last is not None
    assert last.state == "failed"
    assert reader.last_done("c/m", "s", "2") is None


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"version": 2}\n')
    with pytest.raises(ConfigError, match="newer"):
        Ledger(path).entries()


def test_whether_a_process_lives() -> None:
    assert process_lives(process_id())
    assert not process_lives(f"{os.getpid()}@00000000")
    assert not process_lives(process_id().replace(str(os.getpid()), "4194305"))


def test_evidence_is_checked_when_it_is_read(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path)
    kept = store.put("a.txt", b"abc")
    assert store.put("b.txt", b"abc").sha256 == kept.sha256
    assert store.read(kept) == b"abc"
    path = store.path(kept)
    path.chmod(0o644)
    path.write_bytes(b"abX")
    assert store.intact(kept), "the cheap check looks at the size only"
    with pytest.raises(Corrupt, match=r"a\.txt was changed"):
        store.read(kept)
    assert not path.exists(), "it was put aside"
    assert store.missing([kept]) == (kept,)
    with pytest.raises(Corrupt, match="missing"):
        store.read(kept)


def test_a_directory_in_place_of_the_ledger_is_the_environments(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").mkdir()
    ledger = Ledger(tmp_path / "ledger.jsonl")
    with pytest.raises(EnvironmentFault, match=r"ledger.jsonl cannot be read"):
        ledger.entries()
    with pytest.raises(EnvironmentFault, match="cannot write while writing the ledger"):
        ledger.append(entry(1))


def test_a_lock_in_a_file_is_the_environments(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(EnvironmentFault, match=r"cannot write while opening the lock cell.lock"),
        locks.hold(tmp_path / "file" / "cell.lock", "the cell", "r"),
    ):
        pass


@pytest.mark.parametrize("folder", ["/proc/none", "file"])
def test_a_path_that_cannot_be_written_is_the_environments(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault):
        write_atomic(tmp_path / folder / "x", b"1")


def test_a_line_for_which_there_is_no_room_leaves_nothing_behind(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append(entry(1))
    before = ledger.path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, hard))
    try:
        with pytest.raises(NoSpace, match="no space left while writing the ledger") as caught:
            ledger.append(entry(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.why == str(ledger.path)
    assert ledger.path.read_bytes() == before
    ledger.append(entry(3))
    assert [one.key for one in Ledger(ledger.path).entries()] == ["1", "3"]


def test_every_unreadable_line_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text('not JSON\n[]\n{"version": 1}\n')
    ledger = Ledger(path)
    assert (ledger.entries(), ledger.damaged) == ([], 3)


def test_the_digest_of_a_result_does_not_depend_on_the_order_of_its_keys() -> None:
    digests = {entry(1, result=result).result_digest for result in ({"a": 1, "b": 2}, {"b": 2, "a": 1})}
    assert len(digests) == 1


def test_a_file_that_cannot_be_replaced_leaves_no_other(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(EnvironmentFault) as caught:
        write_atomic(tmp_path / "folder", b"1")
    assert "directory" in caught.value.why
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
