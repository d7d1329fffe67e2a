"""Publishing to a registry with TLS, a private authority and a robot account, and to a folder."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import support.finished_cell as given
from flagrelease.cli import app
from flagrelease.config.targets import Target
from flagrelease.contract import results
from flagrelease.errors import ConfigError, GateFailed, RegistryDenied, UpstreamRefused
from flagrelease.ports import registry as port
from flagrelease.ports.clock import SystemClock
from flagrelease.ports.credentials import Credentials
from flagrelease.ports.meter import Meter
from flagrelease.ports.registry import OciRegistry, referrers, transfer
from flagrelease.stages.card import record
from flagrelease.stages.publish import deliver, index
from flagrelease.stages.publish import stage as publish
from flagrelease.stages.publish.attach import RELEASE
from flagrelease.stages.publish.publisher import Shipment
from flagrelease.stages.publish.targets.registry import PUBLISHER
from support import released
from support.authority import Certificates, certificates
from support.canaries import Canaries
from support.contexts import Dying, Shown
from support.login_registry import login_registry
from support.pushed import finished, job, push
from support.registry_stand_in import Store, standing_in
from support.writable_hub import OWNER, TOKEN, WritableHub

pytestmark = pytest.mark.integration

ROBOT, SECRET = "robot$release", "a-secret-of-the-robot"
NAME = "flagrelease_cpu_smollm2_135m"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("tls") / "files")


@pytest.fixture(scope="module")
def registry_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry") / "files"


@pytest.fixture(scope="module")
def host(tls: Certificates, registry_data: Path) -> Iterator[str]:
    with login_registry(registry_data, ROBOT, SECRET, tls) as running:
        yield running


@pytest.fixture
def source() -> Iterator[str]:
    with standing_in(Store()) as running:
        yield f"{running}/staging/model-cpu"


@pytest.fixture
def robot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGRELEASE_TARGET_HARBOR_USER", ROBOT)
    monkeypatch.setenv("FLAGRELEASE_TARGET_HARBOR_PASSWORD", SECRET)


@pytest.fixture
def targets(host: str, tls: Certificates, tmp_path: Path) -> dict[str, Target]:
    """A registry and a folder, with private places."""
    prefix = f"{host}/{tmp_path.name.replace('_', '-').lower()}"
    return {
        "harbor": Target(kind="registry", to=f"{prefix}/public", private=f"{prefix}/private", ca=str(tls.authority)),
        "share": Target(kind="folder", to=str(tmp_path / "share"), private=str(tmp_path / "drafts-of-all")),
    }


@pytest.fixture
def reader(host: str, tls: Certificates) -> OciRegistry:
    """A user of the registry."""
    return OciRegistry(known=lambda _host: Credentials(ROBOT, SECRET), authorities={host: tls.authority})


@pytest.mark.usefixtures("robot")
def test_a_release_is_in_all_targets_with_the_digest_that_was_evaluated(
    tmp_path: Path, source: str, targets: dict[str, Target], reader: OciRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (port, transfer):  # the layer takes several requests
        monkeypatch.setattr(module, "PIECE", 100_000)
    own = OciRegistry()
    context = finished(tmp_path / "workspace", own, source)
    made = publish.run(job(targets), context)
    tag = made.tags[0].rpartition(":")[2]
    repository = f"{targets['harbor'].to}/{NAME}"
    assert {one.target: one.place for one in made.targets} == {
        "harbor": f"{repository}:{tag}",
        "share": str(tmp_path / "share/cpu/smollm2-135m" / tag),
    }
    assert reader.digest(repository, tag) == reader.digest(repository, "latest") == made.digest
    attached = referrers.attached(reader, repository, made.digest)
    assert attached
    assert attached == referrers.attached(own, source, made.digest)
    (files,) = [one for one in attached if one.kind == "application/vnd.flagrelease.release.v1"]
    read = {file.name: file.data for file in referrers.files(reader, repository, files, most_bytes=1 << 20)}
    folder = context.workspace.root / made.folder
    assert read == {name: (folder / name).read_bytes() for name in read}
    shared = Path(made.targets[1].place)
    assert names(shared) == names(folder)
    assert (shared.parent / "latest").resolve() == shared
    (listed,) = index.load(context.workspace).releases
    assert listed.targets == {one.target: one.place for one in made.targets}
    moved = context.meter.moved
    assert moved > 240_000
    assert publish.run(job(targets), context) == made
    assert context.meter.moved == moved


@pytest.mark.slow  # two releases to four targets each; each kind has its own tests
@pytest.mark.usefixtures("robot")
def test_a_release_is_on_registry_folder_and_hubs_and_no_credential_is_anywhere(
    tmp_path: Path, source: str, targets: dict[str, Target], registry_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = finished(tmp_path / "workspace", OciRegistry(), source)
    shown, canaries = Shown(), Canaries({"robot": SECRET, "hub": TOKEN})
    context = replace(context, progress=shown)
    with WritableHub().running() as hub:
        assert isinstance(hub, WritableHub)
        for name, value in {"HF_ENDPOINT": hub.url, "MODELSCOPE_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}.items():
            monkeypatch.setenv(name, value)
        hubs = {kind: Target(kind=kind, to=OWNER, name=f"{{Model}}-{kind}") for kind in ("huggingface", "modelscope")}
        with pytest.raises(ConfigError) as caught:
            publish.run(job({**targets, **hubs}), context)
        assert caught.value.what == "cpu/smollm2-135m is not published to modelscope"
        assert caught.value.why == "ModelScope needs MODELSCOPE_API_TOKEN: it is not set"
        assert [line.split(":")[0] for line in caught.value.detail.splitlines()] == ["harbor", "share", "huggingface"]
        monkeypatch.setenv("MODELSCOPE_API_TOKEN", TOKEN)
        made = publish.run(job({**targets, **hubs}), context)
        folder = names(context.workspace.root / made.folder)
        for kind in hubs:
            repository = hub.repositories[f"{OWNER}/SmolLM2-135M-Instruct-{kind}"]
            (tagged,) = repository.tags.values()
            assert {path: repository.commits[tagged][path] for path in folder} == folder
            assert len(repository.messages) == 1
            for path, data in repository.commits[tagged].items():
                canaries.search(f"{kind}: {path}", data)
    for path in [*tmp_path.rglob("*"), *registry_data.rglob("*")]:
        if path.is_file():
            canaries.search_file(path)
    canaries.search("what was shown", "\n".join([*shown.texts, *shown.notes]).encode())
    assert canaries.searched > 50
    assert not canaries.seen
    (listed,) = index.load(context.workspace).releases
    assert set(listed.targets) == {"harbor", "share", "huggingface", "modelscope"}


@pytest.mark.usefixtures("robot")
def test_what_did_not_pass_goes_to_the_private_places_with_a_report(
    tmp_path: Path, source: str, targets: dict[str, Target], reader: OciRegistry
) -> None:
    accuracy = given.accuracy(given.score(verdict="FAIL", reason="it may be worse"), verdict="FAIL", reason="worse")
    context = finished(tmp_path / "workspace", OciRegistry(), source, accuracy=accuracy)
    with pytest.raises(GateFailed) as caught:
        publish.run(job(targets), context)
    digest = context.result(results.IMAGE).digest
    public, private = (f"{at}/{NAME}" for at in (targets["harbor"].to, targets["harbor"].private))
    assert reader.digest(public, digest) is None
    assert not (tmp_path / "share").exists()
    (shared,) = (tmp_path / "drafts-of-all/cpu/smollm2-135m").iterdir()
    assert reader.digest(private, shared.name) == digest
    assert reader.digest(private, "latest") is None
    (attached,) = (one for one in referrers.attached(reader, private, digest) if one.kind == RELEASE)
    read = {file.name: file.data for file in referrers.files(reader, private, attached, most_bytes=1 << 20)}
    report = (shared / "ISSUE.md").read_text()
    assert read["ISSUE.md"].decode() == report
    assert "evidence/accuracy/mmlu-sample.flagos.samples.jsonl" in report
    assert f"harbor: kept privately, {private}:{shared.name}" in caught.value.detail


@pytest.mark.slow  # two releases; ports/test_registry.py has the rule itself
@pytest.mark.usefixtures("robot")
def test_a_tag_that_somebody_else_moved_is_left_alone_and_the_folder_is_published(
    tmp_path: Path, source: str, targets: dict[str, Target], reader: OciRegistry
) -> None:
    context = finished(tmp_path / "workspace", OciRegistry(), source)
    made = publish.run(job(targets), context)
    repository, _, tag = made.targets[0].place.rpartition(":")
    theirs = reader.manifest(repository, push(reader, repository, b"theirs"))
    reader.put_manifest(repository, tag, theirs.body, theirs.media_type)
    with pytest.raises(UpstreamRefused) as caught:
        publish.run(job(targets), context)
    assert caught.value.exit_code == 7
    assert caught.value.what == "cpu/smollm2-135m is not published to harbor"
    assert caught.value.why.startswith(f"{repository}:{tag} is taken: it names {theirs.digest}, not {made.digest}")
    assert caught.value.detail == f"share: published, {made.targets[1].place}"
    assert reader.digest(repository, tag) == theirs.digest


def test_credentials_are_checked_first_and_sent_to_their_own_host_only(
    host: str, targets: dict[str, Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, _ = deliver.places(targets, private=False)
    with pytest.raises(RegistryDenied):
        PUBLISHER.check(place)
    monkeypatch.setenv("FLAGRELEASE_TARGET_HARBOR_USER", ROBOT)
    with pytest.raises(ConfigError, match="credentials of targets"):
        PUBLISHER.configured(place)
    monkeypatch.setenv("FLAGRELEASE_TARGET_HARBOR_PASSWORD", SECRET)
    PUBLISHER.check(place)
    store = Store(login=(ROBOT, SECRET))
    with standing_in(store) as other:
        moved = Target(kind="registry", to=targets["harbor"].to, private=f"{other}/private")
        (elsewhere,) = deliver.places({"harbor": moved}, private=True)
        with pytest.raises(RegistryDenied):
            PUBLISHER.check(elsewhere)
    assert store.calls
    assert not store.authorizations


def test_a_certificate_of_a_private_authority_is_refused_until_it_is_named(
    targets: dict[str, Target], tmp_path: Path
) -> None:
    unsigned = certificates(tmp_path / "other")
    other = Target(kind="registry", to=targets["harbor"].to, ca=str(unsigned.authority))
    (place,) = deliver.places({"harbor": other}, private=False)
    with pytest.raises(UpstreamRefused, match=r"is not trusted") as caught:
        PUBLISHER.check(place)
    assert "`ca` of the target in matrix.yaml" in caught.value.hint
    unsigned.authority.write_text("no certificate")
    with pytest.raises(ConfigError, match="is not a certificate of an authority"):
        PUBLISHER.check(place)


def test_a_layer_moves_between_repositories_of_a_registry_without_being_sent(
    targets: dict[str, Target], reader: OciRegistry
) -> None:
    sent: list[int] = []
    first, second = (f"{targets['harbor'].to}/{name}" for name in ("first", "second"))
    digest = push(reader, first)
    transfer.Transfer(
        source=reader,
        source_repository=first,
        target=reader,
        target_repository=second,
        clock=SystemClock(),
        moved=sent.append,
    ).image(digest)
    assert reader.digest(second, digest) == digest
    assert not sent


@pytest.mark.slow  # a release with answers, and all of them judged again
@pytest.mark.usefixtures("robot")
def test_a_copy_is_verified_from_its_registry_alone(
    tmp_path: Path,
    targets: dict[str, Target],
    host: str,
    tls: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with standing_in(Store()) as first:
        own, repository = OciRegistry(), f"{first}/staging/model-cpu"
        digest = push(own, repository)
        config = json.loads(own.manifest(repository, digest).body)["config"]["digest"]
        image = given.image(repository=repository, digest=digest, image_id=config, labels={})
        folder = released.release(tmp_path / "workspace", registry=own, image=image)
        release = record.loads((folder / "release.json").read_bytes())
        clock = SystemClock()
        shipment = Shipment(release=release, tag=release.tag, files={}, registry=own, clock=clock, meter=Meter(clock))
        to = deliver.places({"harbor": targets["harbor"]}, private=False)
        (done,), failed = deliver.send(shipment, to, Shown())
        assert not failed
    login = base64.b64encode(f"{ROBOT}:{SECRET}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {host: {"auth": login}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert app.main(["verify", done.place, "--ca", str(tls.authority), "--json"]) == 0
    checked = json.loads(capsys.readouterr().out)["checks"]
    assert done.place in [one["subject"] for one in checked if one["check"] == "image"]


@pytest.mark.slow  # five releases, published twice each
@pytest.mark.faults
@pytest.mark.usefixtures("robot")
@pytest.mark.parametrize("at", range(1, 6))
def test_killed_before_any_step_the_next_run_finishes(
    tmp_path: Path, source: str, targets: dict[str, Target], reader: OciRegistry, at: int
) -> None:
    context = finished(tmp_path / "workspace", OciRegistry(), source)
    child = os.fork()
    if child == 0:
        publish.run(job(targets), replace(context, progress=Dying(at)))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    made = publish.run(job(targets), context)
    repository, _, tag = made.targets[0].place.rpartition(":")
    assert reader.digest(repository, tag) == made.digest
    assert names(Path(made.targets[1].place)) == names(context.workspace.root / made.folder)


def names(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
