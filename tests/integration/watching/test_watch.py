"""Watching a release in a real registry and on a hub: what has rotted is named, and silence is never taken for it."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from flagrelease.cli import app
from flagrelease.cli.commands import watch as command
from flagrelease.config.targets import Target
from flagrelease.ports.registry import OciRegistry, referrers
from flagrelease.stages.publish.attach import RELEASE
from flagrelease.watching.subject import Look
from support.hub_stand_in import Fault
from support.pushed import LAYER, push
from support.registry_stand_in import Store, standing_in
from support.signing_keys import keys
from support.watched import CELL, SOURCE, UPSTREAM, Watched, found, open_checks, project
from support.writable_hub import OWNER, TOKEN, WritableHub

pytestmark = pytest.mark.integration

LAYER_DIGEST = f"sha256:{hashlib.sha256(LAYER).hexdigest()}"
NAME = f"{OWNER}/SmolLM2-135M-Instruct-Cpu-FlagOS"


@pytest.fixture(scope="module")
def published(own_registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A release in the registry, in another repository of it, on a hub and in a folder."""
    root = tmp_path_factory.mktemp("project")
    prefix = f"{own_registry}/watched"
    targets = {
        "public": Target(kind="registry", to=f"{prefix}/public"),
        "hub": Target(kind="huggingface", to=OWNER),
        "share": Target(kind="folder", to=str(root / "share")),
    }
    with WritableHub().running() as hub, pytest.MonkeyPatch.context() as patch:
        assert isinstance(hub, WritableHub)
        for name, value in {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HOME": str(root)}.items():
            patch.setenv(name, value)
        yield project(root, hub, prefix, targets)


@pytest.fixture
def watched(published: Watched, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """The release, and its project as the current folder. Hub, ledger and folder are as before after each test."""
    monkeypatch.chdir(published.root)
    ledger, share = published.root / ".flagrelease/ledger.jsonl", published.root / "share"
    known, repositories = ledger.read_bytes(), copy.deepcopy(published.hub.repositories)
    kept = shutil.copytree(share, published.root / "share.kept", symlinks=True)
    yield published
    ledger.write_bytes(known)
    published.hub.repositories, published.hub.faults = repositories, []
    shutil.rmtree(share, ignore_errors=True)
    kept.rename(share)


def delete(repository: str, what: str) -> None:
    host, _, name = repository.partition("/")
    httpx.delete(f"http://{host}/v2/{name}/{what}", trust_env=False).raise_for_status()


def lose_blob(given: Watched) -> Callable[[], object]:
    delete(given.repository, f"blobs/{LAYER_DIGEST}")
    return lambda: OciRegistry().push_blob(given.repository, LAYER)


def lose_image(given: Watched) -> Callable[[], object]:
    registry = OciRegistry()
    image = registry.manifest(given.repository, given.digest)
    delete(given.repository, f"manifests/{given.digest}")

    def repair() -> None:
        for name in (given.tag, "latest"):
            registry.put_manifest(given.repository, name, image.body, image.media_type)

    return repair


def move_tags(given: Watched) -> Callable[[], object]:
    registry = OciRegistry()
    image = registry.manifest(given.repository, given.digest)
    other = registry.manifest(given.repository, push(registry, given.repository, b"another layer"))
    for name in (given.tag, "latest"):
        registry.put_manifest(given.repository, name, other.body, other.media_type)

    def repair() -> None:
        for name in (given.tag, "latest"):
            registry.put_manifest(given.repository, name, image.body, image.media_type)

    return repair


def lose_evidence(given: Watched) -> Callable[[], object]:
    registry = OciRegistry()
    attached = referrers.attached(registry, given.repository, given.digest)
    (release,) = [each for each in attached if each.kind == RELEASE]
    body = json.loads(registry.manifest(given.repository, release.digest).body)
    (card,) = [each for each in body["layers"] if each["annotations"][referrers.TITLE] == "README.md"]
    data = registry.blob(given.repository, card["digest"])
    delete(given.repository, f"blobs/{card['digest']}")
    return lambda: registry.push_blob(given.repository, data)


def nothing() -> None:
    """The fixture repairs it."""


def change_weights(given: Watched) -> Callable[[], object]:
    given.hub.repositories[SOURCE].commits[0]["model.safetensors"] = b"weights of another model"
    return nothing


def lose_weights(given: Watched) -> Callable[[], object]:
    del given.hub.repositories[SOURCE]
    return nothing


def lose_page(given: Watched) -> Callable[[], object]:
    del given.hub.repositories[UPSTREAM]
    return nothing


def lose_hub_repository(given: Watched) -> Callable[[], object]:
    del given.hub.repositories[NAME]
    return nothing


def hide_hub_repository(given: Watched) -> Callable[[], object]:
    given.hub.repositories[NAME].private = True
    return nothing


def move_hub_tag(given: Watched) -> Callable[[], object]:
    repository = given.hub.repositories[NAME]
    repository.commits.append({**repository.commits[-1], "release.json": b"{}"})
    repository.tags[given.tag] = len(repository.commits) - 1
    return nothing


def edit_hub_card(given: Watched) -> Callable[[], object]:
    repository = given.hub.repositories[NAME]
    repository.commits.append({**repository.commits[-1], "README.md": b"# Buy my model"})
    return nothing


def lose_copy(given: Watched) -> Callable[[], object]:
    (Path(given.place("share")) / "release.json").unlink()
    return nothing


def test_a_release_that_is_as_published(watched: Watched, capsys: pytest.CaptureFixture[str]) -> None:
    code, releases = watched.watch(capsys)
    assert code == 0
    (release,) = releases
    assert (release["state"], release["findings"]) == ("holds", [])
    made = [(each["check"], each["state"]) for each in release["checks"]]
    image = [("image", "holds"), ("layers", "holds"), ("tag", "holds"), ("latest", "holds"), ("attached", "holds")]
    image += [("signature", "not checked")]
    assert made == [
        *image,
        *image,
        ("copy", "holds"),
        ("card", "holds"),
        ("copy", "holds"),
        ("weights", "holds"),
        ("link", "holds"),
    ]
    before = (watched.root / ".flagrelease/ledger.jsonl").read_bytes()
    assert app.main(["watch", "--deep"]) == 0
    assert "1 release: 1 as published, 0 not as published" in capsys.readouterr().out
    assert (watched.root / ".flagrelease/ledger.jsonl").read_bytes() == before


LOST = "the registry does not have its manifest"


@pytest.mark.parametrize(
    "changes",
    [
        {
            lose_blob: ("layers", f"1 of 2 blobs of the image are missing: {LAYER_DIGEST[:19]}"),
            lose_evidence: ("attached", f"a file that is attached to the image is missing: README.md, {RELEASE}"),
            lose_hub_repository: ("copy", f"{NAME} no longer exists: the hub does not know it"),
            change_weights: ("weights", "1 of 2 files are not those of the release: model.safetensors has another sha"),
            lose_page: ("link", f"the card names a page that does not exist: hf://{UPSTREAM}@main does not exist"),
        },
        {
            lose_image: ("image", LOST),
            move_hub_tag: ("copy", "the tag names other files: release.json"),
            lose_weights: ("weights", "the weights are no longer there: hf://org/weights@"),
        },
        {
            move_tags: ("tag", "was moved: it names sha256:"),
            hide_hub_repository: ("copy", f"{NAME} is private: nobody"),
        },
        {edit_hub_card: ("card", "the card on the hub is another: README.md")},
        {lose_copy: ("copy", "files are missing: release.json")},
    ],
    ids=lambda changes: " ".join(change.__name__ for change in changes),
)
def test_what_has_rotted_is_named(
    watched: Watched,
    capsys: pytest.CaptureFixture[str],
    changes: dict[Callable[[Watched], Callable[[], object]], tuple[str, str]],
) -> None:
    repairs = [change(watched) for change in changes]
    code, releases = watched.watch(capsys)
    for repair in repairs:
        repair()
    assert code == 4
    named = found(releases)
    for check, said in changes.values():
        assert said in named[check]
    moved = {"latest"} if move_tags in changes else set()
    assert set(named) == {check for check, _ in changes.values()} | moved
    assert all(each["hint"] for each in releases[0]["findings"])
    assert releases[0]["new"] == releases[0]["findings"]


def test_a_finding_is_shown_until_a_watch_finds_that_it_holds_again(
    watched: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    repair = lose_blob(watched)
    _, (release,) = watched.watch(capsys)
    assert app.main(["status", "--json", CELL]) == 0
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    assert (cell["state"], cell["hint"]) == ("rotten", release["findings"][0]["hint"])
    assert cell["reason"].startswith("1 of 2 blobs of the image are missing")
    _, (release,) = watched.watch(capsys)
    assert release["findings"]
    assert release["new"] == []
    repair()
    assert app.main(["watch"]) == 0
    assert "1 as published" in capsys.readouterr().out
    assert app.main(["history", CELL, "--stage", "watch"]) == 0
    shown = capsys.readouterr().out.splitlines()[1:]
    assert ["1 of 2 blobs" in line for line in shown] == [True, False]
    assert "everything holds again" in shown[1]


def test_a_signature_of_another_key_is_rotten(
    watched: Watched, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, own = keys(tmp_path)
    _, other = keys(tmp_path, "other")
    monkeypatch.setenv("FLAGRELEASE_SIGNING_KEY", str(private))
    watched.publish("signed")
    code, releases = watched.watch(capsys, "--key", str(own))
    assert code == 0
    assert "signature" not in open_checks(releases)
    code, releases = watched.watch(capsys, "--key", str(other))
    assert code == 4
    assert found(releases)["signature"].startswith("the signature does not hold: other.pub: no signature of this key")


def test_a_registry_that_is_down_is_neither_rotten_nor_fine(
    watched: Watched, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    repair = lose_blob(watched)
    watched.watch(capsys)
    repair()
    with monkeypatch.context() as dead:
        dead.setattr(OciRegistry, "_base", lambda _self, _host: "http://127.0.0.1:9")
        dead.setattr(command, "Look", functools.partial(Look, patience=0.1))
        watched.hub.faults = [Fault(where="", status=503, times=1000)]
        code, releases = watched.watch(capsys)
    assert code == 4  # what was found before stands
    assert list(found(releases)) == ["layers"]
    silent = [each["check"] for each in releases[0]["checks"] if each["silent"]]
    image = ["image", "layers", "tag", "latest", "attached", "signature"]
    assert silent == [*image, *image, "copy", "card", "weights", "link"]
    assert "no registry answers" in open_checks(releases)["image"]


def test_a_404_of_something_else_than_a_registry_and_a_refusal_mean_nothing(
    watched: Watched, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def portal(_method: str, _path: str) -> tuple[int, dict[str, str]]:
        return 404, {"Content-Type": "text/html"}

    with standing_in(Store(trouble=portal)) as host:
        monkeypatch.setattr(OciRegistry, "_base", lambda _self, _host: f"http://{host}")
        watched.hub.faults = [Fault(where="", status=401, times=1000)]
        code, releases = watched.watch(capsys)
    assert code == 5
    assert (releases[0]["state"], found(releases)) == ("not checked", {})
    assert "HTTP 404" in open_checks(releases)["image"]
    for check in ("copy", "weights", "link"):
        assert "access denied" in open_checks(releases)[check]


def test_what_cannot_be_watched(
    watched: Watched, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert app.main(["watch", "cpu/smollm2-135n"]) == 2
    assert f"did you mean '{CELL}'?" in capsys.readouterr().err
    assert app.main(["watch", "gpu/*"]) == 3
    assert app.main(["watch", "--key", "nothing.pub"]) == 2
    shutil.rmtree(watched.root / "share")
    code, releases = watched.watch(capsys)
    assert (code, found(releases)) == (5, {})
    assert "may not be mounted" in open_checks(releases)["copy"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "matrix.yaml").write_bytes((watched.root / "matrix.yaml").read_bytes())
    assert app.main(["watch"]) == 3
    assert "no cell has a published release" in capsys.readouterr().err
