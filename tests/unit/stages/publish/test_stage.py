"""What publish refuses before it touches anything, and how it keeps the release folder."""

import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import support.finished_cell as given
from flagrelease.contract import results
from flagrelease.contract.context import Look
from flagrelease.contract.results import CARD, Check
from flagrelease.errors import ConfigError, EnvironmentFault, GateFailed, Inconclusive
from flagrelease.stages.card import record
from flagrelease.stages.card import stage as card
from flagrelease.stages.card.files import published
from flagrelease.stages.publish import index, release_folder
from flagrelease.stages.publish import stage as publish
from support.contexts import after


def finished(tmp_path: Path, **results: Any) -> Any:
    """A context in which `card` has run on a finished cell; any registry access would fail."""
    context = given.context(tmp_path, registry=None, **results)
    made = card.run(given.job(), context)
    return after(context, card=made)


def refused(tmp_path: Path, verdict: Any, **changes: Any) -> Any:
    row = given.score(verdict=verdict, reason="it may be worse", **changes)
    context = finished(tmp_path, accuracy=given.accuracy(row, verdict=verdict, reason="it may be worse"))
    with pytest.raises((GateFailed, Inconclusive)) as caught:
        publish.run(given.job(), context)
    return caught.value


def test_a_failed_gate_is_reported_with_its_numbers(tmp_path: Path) -> None:
    error = refused(tmp_path, "FAIL", candidate=0.185, difference=-0.1, interval90=(-0.15, -0.052))
    assert (error.exit_code, error.what) == (
        4,
        "cpu/smollm2-135m is not published: its answers are worse than those of native on cpu",
    )
    assert error.why == (
        "mmlu-sample: 0.185 versus 0.285 over 200 questions, difference -0.100 [-0.150, -0.052], margin 0.050; "
        "it may be worse"
    )


def test_an_undecided_gate_says_what_would_decide_it(tmp_path: Path) -> None:
    error = refused(tmp_path, "INCONCLUSIVE", interval90=(-0.07, 0.08))
    assert error.exit_code == 5
    assert error.hint.startswith("ask more questions: raise `limit` or `repeats` of profile embedded")


def test_a_cell_without_a_sensitive_benchmark_says_what_it_needs(tmp_path: Path) -> None:
    error = refused(tmp_path, "INCONCLUSIVE", sensitive=False)
    assert error.exit_code == 5
    assert error.hint.startswith("give profile embedded a benchmark on which the baseline scores more than twice")


def test_no_baseline_is_not_a_pass(tmp_path: Path) -> None:
    error = refused(tmp_path, "INCONCLUSIVE", baseline=None, difference=None, interval90=None)
    assert (error.exit_code, error.why) == (5, "mmlu-sample: it may be worse")


def test_the_card_of_a_refused_cell_stays_readable(tmp_path: Path) -> None:
    error = refused(tmp_path, "FAIL")
    draft = tmp_path / "drafts/cpu/smollm2-135m"
    assert str(draft / "README.md") in error.hint
    assert "Private draft, not published" in (draft / "README.md").read_text()
    assert sorted(path.name for path in draft.iterdir()) == [
        "ISSUE.md",
        "README.md",
        "README_zh.md",
        "every-eval-ever.json",
        "release.json",
        "scores.png",
    ]
    assert not (tmp_path / "releases").exists()


def test_what_processes_served_is_judged_and_kept_as_a_draft(tmp_path: Path) -> None:
    context = finished(tmp_path, image=given.image(runner="process"))
    result = publish.run(given.job(), context)
    draft = tmp_path / "drafts/cpu/smollm2-135m"
    assert result.tags == ()
    assert result.summary == f"served by processes, so there is no image to publish; the card is in {draft}"
    assert (draft / "README.md").is_file()
    assert not (tmp_path / "releases").exists()
    look = Look(workspace=context.workspace, evidence=context.evidence)
    assert publish.intact(result, look) == ""
    (draft / "README.md").unlink()
    assert publish.intact(result, look) == "its draft is missing"


def test_processes_pass_no_gate_that_an_image_would_not(tmp_path: Path) -> None:
    row = given.score(verdict="FAIL", reason="it may be worse")
    accuracy = given.accuracy(row, verdict="FAIL", reason="it may be worse")
    context = finished(tmp_path, image=given.image(runner="process"), accuracy=accuracy)
    with pytest.raises(GateFailed, match="its answers are worse"):
        publish.run(given.job(), context)


def test_a_failed_smoke_check_is_refused(tmp_path: Path) -> None:
    smoke = given.smoke(given.image().reference)
    failed = replace(
        smoke, checks=(*smoke.checks, Check(name="long prompt", passed=False, detail="HTTP 500", seconds=1))
    )
    with pytest.raises(GateFailed) as caught:
        publish.run(given.job(), finished(tmp_path, smoke=failed))
    assert caught.value.why == "long prompt: HTTP 500"


@pytest.mark.parametrize("name", ["localhost:5000/Flag", "localhost:5000/a b", "localhost:5000/../x", "localhost:5000"])
def test_an_invalid_image_name_is_a_configuration_error(tmp_path: Path, name: str) -> None:
    pushed = given.image(repository=name)
    context = finished(tmp_path)
    release = given.record(image=pushed, smoke=given.smoke(pushed.reference))
    kept = context.evidence.put("release.json", record.dumps(release))
    made = replace(context.result(CARD), evidence=(kept,))
    with pytest.raises(ConfigError, match="is not a valid image name"):
        publish.run(given.job(), after(context, card=made))


class TestFolder:
    def files(self, tmp_path: Path) -> dict[str, Path]:
        found = {}
        for name in ("README.md", "evidence/smoke/log"):
            source = tmp_path / "store" / hashlib.sha256(name.encode()).hexdigest()
            source.parent.mkdir(exist_ok=True)
            source.write_text(name)
            found[name] = source
        return found

    def test_it_is_complete_and_has_its_sums(self, tmp_path: Path) -> None:
        folder = tmp_path / "releases" / "tag"
        release_folder.write(folder, self.files(tmp_path))
        lines = (folder / "SHA256SUMS").read_text().splitlines()
        assert [line.split("  ")[1] for line in lines] == ["README.md", "evidence/smoke/log"]
        for line in lines:
            digest, name = line.split("  ")
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        assert [path.name for path in folder.parent.iterdir()] == ["tag"]

    def test_writing_it_again_changes_nothing(self, tmp_path: Path) -> None:
        folder = tmp_path / "tag"
        release_folder.write(folder, self.files(tmp_path))
        before = folder.stat().st_mtime_ns
        release_folder.write(folder, self.files(tmp_path))
        assert folder.stat().st_mtime_ns == before

    @pytest.mark.parametrize("change", ["edit", "remove", "add"])
    def test_what_was_changed_by_hand_is_not_published_again(self, tmp_path: Path, change: str) -> None:
        folder = tmp_path / "tag"
        release_folder.write(folder, self.files(tmp_path))
        match change:
            case "edit":
                (folder / "README.md").write_text("better numbers")
            case "remove":
                (folder / "README.md").unlink()
            case _:
                (folder / "more").write_text("")
        with pytest.raises(EnvironmentFault, match="was changed after it was written"):
            release_folder.write(folder, self.files(tmp_path))

    def test_leftovers_of_dead_writers_are_removed(self, tmp_path: Path) -> None:
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        (tmp_path / f".unfinished.{child}.abc").mkdir()
        release_folder.write(tmp_path / "tag", self.files(tmp_path))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "tag"]


class TestIndex:
    def release(self, tag: str) -> index.Release:
        return index.Release(
            cell="cpu/m", tag=tag, image="r@sha256:0", verdict="PASS", record_sha256="0" * 64, folder=f"cpu/m/{tag}"
        )

    def add(self, tmp_path: Path, tag: str) -> list[str]:
        workspace = given.workspace(tmp_path)
        index.add(workspace, self.release(tag), "run", lambda _seconds: None)
        return [release.tag for release in index.load(workspace).releases]

    def test_the_newest_is_last_and_adding_again_changes_nothing(self, tmp_path: Path) -> None:
        assert self.add(tmp_path, "a") == ["a"]
        assert self.add(tmp_path, "b") == ["a", "b"]
        assert self.add(tmp_path, "b") == ["a", "b"]
        assert self.add(tmp_path, "a") == ["b", "a"]

    def test_targets_that_have_a_release_stay_listed(self, tmp_path: Path) -> None:
        self.add(tmp_path, "a")
        workspace = given.workspace(tmp_path)
        for name in ("harbor", "share"):
            index.add(workspace, replace(self.release("a"), targets={name: "there"}), "run", lambda _seconds: None)
        (listed,) = index.load(workspace).releases
        assert listed.targets == {"harbor": "there", "share": "there"}

    def test_runs_write_it_one_after_the_other(self, tmp_path: Path) -> None:
        """Without the lock, each of them would write what it has read, and its own release."""
        workspace = given.workspace(tmp_path)
        ready, names = threading.Barrier(8), [f"run-{n}" for n in range(8)]

        def publish(name: str) -> None:
            ready.wait()
            for n in range(5):
                index.add(workspace, self.release(f"{name}-{n}"), name, lambda _seconds: time.sleep(0.001))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(publish, names))
        tags = [release.tag for release in index.load(workspace).releases]
        assert sorted(tags) == sorted(f"{name}-{n}" for name in names for n in range(5))

    @pytest.mark.parametrize(("text", "error"), [('{"version":2}', "version 2"), ('{"rel', "damaged")])
    def test_what_cannot_be_read_is_not_overwritten(self, tmp_path: Path, text: str, error: str) -> None:
        index = tmp_path / "releases/index.json"
        index.parent.mkdir()
        index.write_text(text)
        with pytest.raises(ConfigError, match=error):
            self.add(tmp_path, "a")
        assert index.read_text() == text


def test_a_missing_release_folder_is_published_again(tmp_path: Path) -> None:
    result = results.Publish(digest="sha256:0", tags=("r:t",), folder="releases/cpu/m/t", record=given.ANSWERS)
    look = Look(workspace=given.workspace(tmp_path), evidence=given.context(tmp_path, registry=None).evidence)
    assert publish.intact(result, look) == "its release folder is missing"


def test_a_secret_in_a_stage_reaches_neither_record_nor_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGRELEASE_REGISTRY_PASSWORD", "canary-5f1e2d")
    context = finished(tmp_path, image=given.image(remarks=("pushed with canary-5f1e2d",)))
    for file in published(context.result(CARD)).values():
        assert b"canary-5f1e2d" not in context.evidence.read(file)
    text = context.evidence.read(context.result(CARD).readme)
    assert b"pushed with $FLAGRELEASE" in text.replace(b"\\", b"")


def test_a_card_with_a_defect_is_refused_and_kept_for_reading(tmp_path: Path) -> None:
    with pytest.raises(GateFailed) as caught:
        finished(tmp_path, accuracy=given.accuracy(given.score(metric="MMLU")))
    left = tmp_path / "work/cpu--smollm2-135m/card/README.md"
    assert caught.value.detail.startswith(f"{left}:")
    assert "| `MMLU` |" in left.read_text()
