"""What earlier builds left on the host is removed, and nothing that somebody needs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import docker
import msgspec
import pytest

import support.served_cell as given
from flagrelease.ports.docker.engine import Engine
from flagrelease.stages.image import old_images
from flagrelease.store.ledger import Entry, Ledger
from support.archives import packed

pytestmark = pytest.mark.integration

REPOSITORY = "localhost:1/old-images/x"


def built(engine: Engine, text: str, tag: str = "building") -> str:
    """An image of a release, in two stages, with its names."""
    lines = (
        "FROM scratch AS packages", f"LABEL io.flagos.part=packages test.old={text}", "COPY Dockerfile /lib",
        "FROM scratch", "COPY --from=packages /lib /lib", f"LABEL io.flagos.stack=flagos test.old={text}",
    )  # fmt: skip
    context = packed({"Dockerfile": "\n".join((*lines, ""))})
    image = engine.build(context, tag=f"{REPOSITORY}:{tag}", args={}, line=lambda _text: None)
    engine.tag(image, REPOSITORY, old_images.build_tag(image))
    return image


def entry(image: str, cell: str, repository: str = REPOSITORY, digest: str = "") -> Entry:
    result = replace(given.image(repository, digest or image), image_id=image)
    return Entry(
        at="2026-01-01T00:00:00+00:00", run="r", cell=cell, stage="image", state="done", key="k", process="1@boot",
        result=msgspec.to_builtins(result),
    )  # fmt: skip


@pytest.fixture
def ledger(tmp_path: Path, engine: Engine) -> Iterator[Ledger]:
    yield Ledger(tmp_path / "ledger.jsonl")
    client = docker.from_env()
    for image in client.images.list(all=True, filters={"label": "test.old"}):
        for name in image.tags:
            client.images.remove(name)
    engine.remove_untagged(["test.old"], before=time.time() + 60)


def test_only_what_the_ledger_has_replaced_and_what_has_no_name_goes(engine: Engine, ledger: Ledger) -> None:
    first, second, other = built(engine, "1"), built(engine, "2"), built(engine, "other", "other")
    # What one cell has replaced, another one may need.
    for image, cell in ((first, "cpu/a"), (second, "cpu/b"), (other, "cpu/b"), (second, "cpu/a")):
        ledger.append(entry(image, cell))
    told: list[str] = []
    old_images.remove(engine, ledger, told.append)
    assert engine.image(first) is None
    left = ("building", "other", old_images.build_tag(second), old_images.build_tag(other))
    assert sorted(engine.tags(REPOSITORY)) == sorted(f"{REPOSITORY}:{tag}" for tag in left)
    assert told == [], "what has no name is kept for a day"
    untagged = {"dangling": True, "label": "test.old"}
    assert len(docker.from_env().images.list(filters=untagged)) == 3
    assert engine.remove_untagged(["test.old"], before=time.time() + 60) == 3
    assert engine.image(second) is not None
    assert engine.image(other) is not None


@pytest.mark.slow
def test_an_image_that_is_known_by_its_digest_only_is_left(engine: Engine, ledger: Ledger, own_registry: str) -> None:
    image = built(engine, "pushed")
    engine.tag(image, f"{own_registry}/old", "1")
    digest = engine.push(f"{own_registry}/old", "1", lambda _done, _total: None).digest
    for name in (*engine.tags(REPOSITORY), f"{own_registry}/old:1"):
        engine.untag(name)
    engine.pull(f"{own_registry}/old", digest, lambda _done, _total: None)
    engine.remove_untagged(["test.old"], before=time.time() + 60)
    assert engine.image(f"{own_registry}/old@{digest}") is not None
    engine.untag(f"{own_registry}/old@{digest}")


@pytest.mark.slow  # builds, pushes and pulls two images
def test_what_was_pulled_by_digest_goes_when_the_ledger_has_replaced_it(
    engine: Engine, ledger: Ledger, own_registry: str
) -> None:
    repository = f"{own_registry}/replaced"
    images = [built(engine, f"pulled-{number}", f"pulled-{number}") for number in (1, 2)]
    digests = []
    for image in images:
        engine.tag(image, repository, "1")
        digests.append(engine.push(repository, "1", lambda _done, _total: None).digest)
        ledger.append(entry(image, "cpu/a", repository, digests[-1]))
    engine.untag(f"{repository}:1")
    for name in engine.tags(REPOSITORY):
        engine.untag(name)
    for digest in digests:
        engine.pull(repository, digest, lambda _done, _total: None)
    assert sorted(engine.digests(repository)) == sorted(f"{repository}@{digest}" for digest in digests)
    old_images.remove(engine, ledger, lambda _text: None)
    assert engine.digests(repository) == (f"{repository}@{digests[1]}",)
    assert engine.image(images[0]) is None
    engine.untag(f"{repository}@{digests[1]}")
