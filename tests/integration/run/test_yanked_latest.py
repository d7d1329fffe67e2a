"""`latest` never leads to a yanked release if there is another one, and is never taken from somebody else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from flagrelease.cli import app
from flagrelease.config.targets import Target
from flagrelease.ports.registry import OciRegistry
from flagrelease.releases.lineage import Previous
from flagrelease.stages.publish import stage as publish
from support.pushed import job, push
from support.watched import CELL, Watched, project
from support.writable_hub import WritableHub

pytestmark = pytest.mark.integration


@pytest.fixture
def two(tmp_path: Path, own_registry: str, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """A cell with two releases, in a registry, in another repository of it, and in a folder."""
    monkeypatch.chdir(tmp_path)
    prefix = f"{own_registry}/{tmp_path.name.replace('_', '-').lower()}"
    targets = {
        "public": Target(kind="registry", to=f"{prefix}/public"),
        "share": Target(kind="folder", to=str(tmp_path / "share")),
    }
    made = project(tmp_path, WritableHub(), prefix, targets)
    made.publish("two", layer=b"another layer")
    return made


def named(given: Watched) -> list[int]:
    """The numbers of the releases that `latest` names, at each place; 9 for something else."""
    registry = OciRegistry()
    repositories = [given.repository, given.place("public").rpartition(":")[0]]
    folders = [Path(given.place("share")), given.root / ".flagrelease" / given.results[-1].folder]
    digests = [result.digest for result in given.results]
    tags = [result.tags[0].rpartition(":")[2] for result in given.results]
    found = [registry.digest(each, "latest") for each in repositories]
    numbers = [digests.index(each) if each in digests else 9 for each in found]  # type: ignore[arg-type]
    return [*numbers, *(tags.index((each.parent / "latest").readlink().name) for each in folders)]


def test_a_yank_points_latest_at_the_release_before_until_it_is_undone(
    two: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (result.tags[0].rpartition(":")[2] for result in two.results)
    assert named(two) == [1, 1, 1, 1]
    assert app.main(["yank", CELL, "--reason", "garbage", "--json"]) == 0
    moved = json.loads(capsys.readouterr().out)["latest"]
    assert [(each["tag"], each["moved"]) for each in moved] == [(first, True)] * 4
    assert moved[0]["place"] == f"{two.repository}:latest"
    assert named(two) == [0, 0, 0, 0]
    assert OciRegistry().digest(two.repository, second) == two.digest  # its own tag stays
    assert two.context is not None
    previous = Previous(tag=second, image="", yanked="garbage")
    again = publish.run(replace(job(two.targets), previous=previous), two.context)
    assert again.tags == (f"{two.repository}:{second}",)
    assert named(two) == [0, 0, 0, 0]
    assert app.main(["yank", CELL, "--tag", first, "--reason", "garbage, too"]) == 0
    assert "latest stays where it is: the cell has no other release" in capsys.readouterr().out
    assert named(two) == [0, 0, 0, 0]
    assert app.main(["yank", CELL, "--tag", second, "--reason", "the probe was broken", "--undo"]) == 0
    assert f"{two.repository}:latest names {second} now" in capsys.readouterr().out
    assert named(two) == [1, 1, 1, 1]


def test_latest_of_somebody_else_is_left_alone_and_a_registry_that_is_down_is_named(
    two: Watched, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, public = OciRegistry(), two.place("public").rpartition(":")[0]
    other = registry.manifest(public, push(registry, public, b"of somebody else"))
    registry.put_manifest(public, "latest", other.body, other.media_type)
    assert app.main(["yank", CELL, "--reason", "garbage"]) == 0
    assert named(two) == [0, 9, 0, 0]
    capsys.readouterr()
    with monkeypatch.context() as dead:
        dead.setattr(OciRegistry, "_base", lambda _self, _host: "http://127.0.0.1:9")
        assert app.main(["yank", CELL, "--reason", "the probe was broken", "--tag", two.tag, "--undo"]) == 0
    said = capsys.readouterr().out
    assert f"{two.repository}:latest was not moved: no registry answers" in said
    assert f"`oras tag {two.repository}@{two.digest} latest`" in said
    assert named(two) == [0, 9, 1, 1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://{public.partition('/')[0]}")  # a hub that knows nothing
    assert app.main(["watch", "--json"]) == 4
    (release,) = json.loads(capsys.readouterr().out)["releases"]
    assert {(each["check"], each["place"]) for each in release["findings"]} >= {
        ("latest", two.repository),
        ("latest", public),
    }
