"""Publishing into a real registry: order, idempotence, and being killed anywhere."""

import hashlib
import json
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import support.finished_cell as given
from flagrelease.contract import results
from flagrelease.contract.context import Context, Look
from flagrelease.errors import UpstreamRefused
from flagrelease.ports.command import Completed, run
from flagrelease.ports.registry import OciRegistry
from flagrelease.ports.retry import Backoff
from flagrelease.stages.card import record
from flagrelease.stages.card import stage as card
from flagrelease.stages.publish import index, release_folder
from flagrelease.stages.publish import stage as publish
from support.contexts import after
from support.registry_blobs import upload

pytestmark = pytest.mark.integration

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
HOST = f"localhost:{os.environ.get('FLAGRELEASE_REGISTRY_PORT', '5000')}"


@pytest.fixture(scope="session", autouse=True)
def registry_answers() -> None:
    try:
        httpx.get(f"http://{HOST}/v2/", trust_env=False).raise_for_status()
    except httpx.HTTPError as error:
        pytest.skip(f"no registry at {HOST}: {error}")


@pytest.fixture
def registry() -> OciRegistry:
    return OciRegistry(backoff=Backoff(budget=5.0))


@pytest.fixture
def repository() -> Iterator[str]:
    name = f"{HOST}/flagrelease-test/{uuid.uuid4().hex[:12]}"
    yield name
    client = httpx.Client(base_url=f"http://{HOST}/v2/{name.partition('/')[2]}", trust_env=False)
    for tag in client.get("/tags/list").json().get("tags") or ():
        answer = client.head(f"/manifests/{tag}", headers={"Accept": MANIFEST})
        client.delete(f"/manifests/{answer.headers.get('Docker-Content-Digest', '')}")


def push(registry: OciRegistry, repository: str, comment: str = "first") -> str:
    """A small real image, by digest and without a tag; its digest."""
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers"}, "comment": comment}
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "size": len(config),
            "digest": upload(repository, config),
        },
        "layers": [],
    }
    body = json.dumps(manifest).encode()
    return registry.put_manifest(repository, "sha256:" + hashlib.sha256(body).hexdigest(), body, MANIFEST)


@pytest.fixture
def ready(tmp_path: Path, registry: OciRegistry, repository: str) -> Context:
    """A cell whose image is in the registry and whose card is written."""
    pushed = given.image(repository=repository, digest=push(registry, repository))
    context = given.context(tmp_path, registry, image=pushed, smoke=given.smoke(pushed.reference))
    return after(context, card=card.run(given.job(), context))


def published(context: Context) -> results.Publish:
    return publish.run(given.job(), context)


def whole(context: Context, registry: OciRegistry) -> None:
    """The registry and the folder hold exactly one complete release."""
    made = published(context)
    image = context.result(results.IMAGE)
    for tag in made.tags:
        assert registry.digest(*tag.rsplit(":", 1)) == image.digest
    folder = context.workspace.root / made.folder
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    evidence = {name for name in names if name.startswith("evidence/")}
    assert names - evidence == {
        "README.md",
        "README_zh.md",
        "every-eval-ever.json",
        "release.json",
        "scores.png",
        "SHA256SUMS",
    }
    assert evidence == {"evidence/accuracy/mmlu-sample.flagos.samples.jsonl"}
    assert sorted(path.name for path in folder.parent.iterdir()) == sorted([folder.name, "latest"])
    assert (folder.parent / "latest").resolve() == folder.resolve()
    assert [one.tag for one in index.load(context.workspace).releases] == [folder.name]
    look = Look(workspace=context.workspace, evidence=context.evidence, registry=registry)
    assert publish.intact(made, look) == ""


def test_a_release_is_published_once(ready: Context, registry: OciRegistry) -> None:
    whole(ready, registry)
    first = (ready.workspace.releases / "index.json").read_bytes()
    whole(ready, registry)
    assert (ready.workspace.releases / "index.json").read_bytes() == first


def test_the_folder_names_the_record_by_its_tag(ready: Context) -> None:
    folder = ready.workspace.root / published(ready).folder
    digest = hashlib.sha256((folder / "release.json").read_bytes()).hexdigest()
    assert folder.name.endswith(f"-{digest[:12]}")


def test_latest_moves_to_the_next_release_and_the_first_tag_stays(
    ready: Context, registry: OciRegistry, repository: str
) -> None:
    first = published(ready)
    digest = push(registry, repository, "second")
    pushed = given.image(repository=repository, digest=digest)
    context = given.context(ready.workspace.root, registry, image=pushed, smoke=given.smoke(pushed.reference))
    second = published(after(context, card=card.run(given.job(), context)))
    assert registry.digest(repository, "latest") == digest
    assert registry.digest(*first.tags[0].rsplit(":", 1)) == first.digest
    assert [one.tag for one in index.load(ready.workspace).releases] == [
        made.tags[0].rpartition(":")[2] for made in (first, second)
    ]


def test_a_tag_that_someone_else_pushed_is_not_moved(ready: Context, registry: OciRegistry, repository: str) -> None:
    tag = given_tag(ready)
    theirs = push(registry, repository, "theirs")
    registry.tag(repository, theirs, tag)
    with pytest.raises(UpstreamRefused, match="is taken"):
        published(ready)
    assert registry.digest(repository, tag) == theirs
    assert registry.digest(repository, "latest") is None
    assert index.load(ready.workspace).releases == ()


def test_a_tag_that_was_moved_after_publishing_is_noticed(
    ready: Context, registry: OciRegistry, repository: str
) -> None:
    made = published(ready)
    theirs = registry.manifest(repository, push(registry, repository, "theirs"))
    registry.put_manifest(repository, given_tag(ready), theirs.body, theirs.media_type)
    look = Look(workspace=ready.workspace, evidence=ready.evidence, registry=registry)
    assert publish.intact(made, look) == f"the tag {given_tag(ready)} was moved"


def test_an_image_that_the_registry_has_lost_is_not_published(
    ready: Context, registry: OciRegistry, repository: str
) -> None:
    image = ready.result(results.IMAGE)
    name = repository.partition("/")[2]
    httpx.delete(f"http://{HOST}/v2/{name}/manifests/{image.digest}", trust_env=False).raise_for_status()
    with pytest.raises(UpstreamRefused, match="the registry no longer has"):
        published(ready)
    assert not ready.workspace.releases.exists()


def given_tag(context: Context) -> str:
    made = context.result(results.CARD)
    return record.loads(context.evidence.read(made.evidence[0])).tag


def dying(after: bool, inner: Callable[..., Any], at: int) -> Callable[..., Any]:
    """`inner`, but its call number `at` (from 1) kills this process, before or after it has done its work."""
    calls = iter(range(1, 1000))

    def call(*words: Any, **names: Any) -> Any:
        number = next(calls)
        if number == at and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = inner(*words, **names)
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


@pytest.mark.faults
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("where", "at"),
    [("write_atomic", 1), ("write_atomic", 3), ("tag", 1), ("tag", 2), ("point_latest", 1), ("add", 1)],
    ids=["first file", "third file", "own tag", "latest", "link", "index"],
)
def test_killed_anywhere_the_next_run_ends_with_the_same_release(
    ready: Context, registry: OciRegistry, where: str, at: int, after: bool
) -> None:
    place: Any = {"tag": registry, "add": index}.get(where, release_folder)
    child = os.fork()
    if child == 0:
        setattr(place, where, dying(after, getattr(place, where), at))
        published(ready)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    whole(ready, registry)


def example(context: Context, output: Path) -> Completed:
    script = Path(__file__).parents[4] / "scripts" / "example.py"
    words = [sys.executable, script, "--workspace", context.workspace.root, "--output", output]
    return run(words, seconds=60, check=False)


def test_the_example_is_the_newest_release(ready: Context, tmp_path: Path) -> None:
    folder = ready.workspace.root / published(ready).folder
    assert example(ready, tmp_path / "example").code == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "example").iterdir()} == {
        name: (folder / name).read_bytes()
        for name in ("README.md", "README_zh.md", "every-eval-ever.json", "release.json", "scores.png")
    }


def test_a_release_that_was_changed_is_no_example(ready: Context, tmp_path: Path) -> None:
    folder = ready.workspace.root / published(ready).folder
    (folder / "README.md").write_text("better numbers")
    ended = example(ready, tmp_path / "example")
    assert (ended.code, "was changed after it was published" in ended.stderr) == (1, True)
    assert not (tmp_path / "example").exists()
