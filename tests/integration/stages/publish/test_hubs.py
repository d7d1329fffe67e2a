"""Publishing to model hubs: their real clients, and stand-ins that speak their protocols for writing."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import support.finished_cell as given
from flagrelease.config.targets import Target
from flagrelease.errors import ConfigError, FlagreleaseError, HubRefused, HubUnavailable
from flagrelease.ports.meter import Meter
from flagrelease.stages.publish import deliver
from flagrelease.stages.publish.publisher import Publisher, Shipment, Steps
from flagrelease.stages.publish.targets import PUBLISHERS
from support.clocks import SimulatedClock
from support.contexts import Dying, Shown
from support.hub_stand_in import Fault
from support.writable_hub import OWNER, TOKEN, Repository, WritableHub

pytestmark = pytest.mark.integration

NAME = "SmolLM2-135M-Instruct-Cpu-FlagOS"
FILES = {
    "README.md": b"---\nlicense: apache-2.0\n---\n# A card\n",
    "release.json": b'{"version": 1}\n',
    "scores.png": b"\x89PNG" + bytes(300),
    "evidence/accuracy/samples.jsonl": b'{"correct": true}\n' * 5000,
    "evidence/smoke/smoke.json": b"{}\n",
}


@dataclass
class Case:
    hub: WritableHub
    kind: str
    root: Path
    clock: SimulatedClock = field(default_factory=SimulatedClock)
    shown: Shown = field(default_factory=Shown)

    @property
    def publisher(self) -> Publisher:
        return PUBLISHERS[self.kind]

    def target(self, **changes: str) -> Target:
        return Target(**{"kind": self.kind, "to": OWNER, "private": "release-bot", **changes})

    def publish(self, tag: str = "v1", *, private: bool = False, to: str = OWNER, **changed: bytes | None) -> str:
        """Publish FILES, with changes by path (`None` leaves a file out); `__` in a keyword is a slash."""
        changes = {name.replace("__", "/").replace("_dot_", "."): data for name, data in changed.items()}
        files = {path: data for path, data in {**FILES, **changes}.items() if data is not None}
        files["SHA256SUMS"] = "".join(
            f"{hashlib.sha256(data).hexdigest()}  {path}\n" for path, data in sorted(files.items())
        ).encode()
        for path, data in files.items():
            place = self.root / tag / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        registry: Any = None
        shipment = Shipment(
            release=given.record(),
            tag=tag,
            files={path: self.root / tag / path for path in files},
            registry=registry,
            clock=self.clock,
            meter=Meter(self.clock),
        )
        (place_,) = deliver.places({"hub": self.target(to=to)}, private=private)
        return self.publisher.publish(shipment, place_, Steps("hub", self.shown))

    @property
    def repository(self) -> Repository:
        return self.hub.repositories[f"{OWNER}/{NAME}"]


@pytest.fixture(params=["huggingface", "modelscope"])
def case(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    with WritableHub().running() as hub:
        assert isinstance(hub, WritableHub)
        for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
            monkeypatch.setenv(name, hub.url)
        for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN"):
            monkeypatch.setenv(name, TOKEN)
        monkeypatch.setenv("HOME", str(tmp_path))
        yield Case(hub=hub, kind=request.param, root=tmp_path / "files")


def test_a_release_is_one_commit_with_a_tag_and_publishing_again_writes_nothing(case: Case) -> None:
    where = case.publish()
    repository = case.repository
    assert (repository.private, list(repository.tags), len(repository.messages)) == (False, ["v1"], 1)
    tagged = repository.commits[repository.tags["v1"]]
    assert {path: tagged[path] for path in FILES} == FILES
    assert where.startswith(f"{case.hub.url}/")
    assert NAME in where
    assert where.endswith("v1")
    assert case.shown.texts == [f"publishing to hub: {step}" for step in ("blobs", "card", "tag")]
    writes = list(case.hub.writes)
    assert case.publish() == where
    assert case.hub.writes == writes
    assert any(TOKEN in sent for sent in case.hub.credentials)


def test_the_next_release_sends_what_differs_and_keeps_the_files_of_others(case: Case) -> None:
    case.publish()
    case.repository.commits.append({**case.repository.commits[-1], "model.safetensors": b"weights"})
    blobs = [one for one in case.hub.writes if "/blobs/" in one]
    case.publish("v2", README_dot_md=b"# Another card\n", evidence__smoke__smoke_dot_json=None)
    newest = case.repository.commits[-1]
    assert newest["README.md"] == b"# Another card\n"
    assert newest["model.safetensors"] == b"weights"
    assert "evidence/smoke/smoke.json" not in newest
    assert "evidence/smoke/smoke.json" in case.repository.commits[case.repository.tags["v1"]]
    assert [one for one in case.hub.writes if "/blobs/" in one] == blobs


def test_what_did_not_pass_is_in_a_private_repository_of_the_private_place(case: Case) -> None:
    case.publish(private=True, ISSUE_dot_md=b"# FAIL\n")
    (name,) = case.hub.repositories
    assert name == f"release-bot/{NAME}"
    assert case.hub.repositories[name].private
    assert case.hub.repositories[name].commits[-1]["ISSUE.md"] == b"# FAIL\n"


def test_nothing_that_failed_goes_into_a_repository_that_is_public(case: Case) -> None:
    case.hub.repositories[f"release-bot/{NAME}"] = Repository(private=False)
    with pytest.raises(HubRefused, match="is public, and this release did not pass"):
        case.publish(private=True)
    assert not case.hub.writes
    case.hub.repositories[f"{OWNER}/{NAME}"] = Repository(private=True)
    case.publish()
    assert case.shown.notes == [f"hub: {OWNER}/{NAME} is private on the hub, so nobody else sees this release"]


def test_an_organisation_of_others_is_refused(case: Case) -> None:
    with pytest.raises(HubRefused) as caught:
        case.publish(to="others")
    assert caught.value.what == f"access denied to others/{NAME}"
    assert "HTTP 403" in caught.value.why
    assert not case.hub.repositories


def _slow(*case: Any) -> Any:
    """Two statuses stand for all in `make test`."""
    return pytest.param(*case, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("status", "headers", "kind", "what", "why", "hint"),
    [
        _slow(401, {}, HubRefused, "access denied to", "HTTP 401", "to a token"),
        (403, {}, HubRefused, "access denied to", "HTTP 403", "to a token"),
        _slow(404, {}, HubRefused, "does not exist", "HTTP 404", "check the name"),
        _slow(413, {}, HubRefused, "takes no files of this size", "HTTP 413", "a proxy before the hub"),
        (429, {"Retry-After": "900"}, HubUnavailable, "cannot be written now", "asked to wait 900 s", "run again"),
        _slow(500, {}, HubUnavailable, "cannot be written now", "HTTP 500", "run again"),
    ],
)
def test_a_commit_that_the_hub_refuses(
    case: Case, status: int, headers: dict[str, str], kind: type[FlagreleaseError], what: str, why: str, hint: str
) -> None:
    case.hub.faults = [Fault(where="/commit/", times=100, status=status, headers=headers)]
    with pytest.raises(kind) as caught:
        case.publish()
    error = caught.value
    assert (error.exit_code, what in error.what, hint in error.hint) == (7, True, True)
    assert why in error.why
    assert not case.repository.messages
    blobs = len([one for one in case.hub.writes if "/blobs/" in one])
    case.hub.faults = []
    case.publish()
    assert (len(case.repository.messages), list(case.repository.tags)) == (1, ["v1"])
    assert len([one for one in case.hub.writes if "/blobs/" in one]) == blobs


def test_a_hub_that_is_busy_for_a_moment_is_asked_again(case: Case) -> None:
    case.hub.faults = [Fault(where="/commit/", times=1, status=503), Fault(where="/tag", times=1, status=502)]
    case.publish()
    assert (len(case.repository.messages), list(case.repository.tags)) == (1, ["v1"])
    assert len(case.clock.slept) == 2


def test_an_upload_that_is_cut_half_way_shows_nothing_and_is_sent_again(case: Case) -> None:
    case.hub.faults = [Fault(where="PUT /blobs/", times=1, cut=1000)]
    case.publish()
    assert len(case.repository.messages) == 1
    assert set(case.hub.blobs) >= {hashlib.sha256(FILES["evidence/accuracy/samples.jsonl"]).hexdigest()}


def test_a_tag_that_somebody_else_moved_is_left_alone(case: Case) -> None:
    case.publish()
    case.repository.commits.append({**case.repository.commits[-1], "README.md": b"theirs", "release.json": b"theirs"})
    case.repository.tags["v1"] = len(case.repository.commits) - 1
    writes = list(case.hub.writes)
    with pytest.raises(HubRefused, match=r"the tag v1 of .* is taken") as caught:
        case.publish()
    assert caught.value.why == "README.md has another content there, and 1 more files"
    assert case.hub.writes == writes


def test_the_token_goes_to_the_hub_alone(case: Case) -> None:
    with WritableHub().running() as storage:
        assert isinstance(storage, WritableHub)
        case.hub.storage = storage.url
        storage.blobs = case.hub.blobs
        case.publish()
        assert [one for one in storage.writes if "/blobs/" in one]
        if case.kind == "huggingface":  # ModelScope's client asks for no verification
            assert "POST /verify" in storage.writes
        assert not storage.credentials


def test_the_token_is_checked_before_anything_is_written(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    (place,) = deliver.places({"hub": case.target()}, private=False)
    case.publisher.check(place)
    name = "HF_TOKEN" if case.kind == "huggingface" else "MODELSCOPE_API_TOKEN"
    monkeypatch.setenv(name, "another-token")
    with pytest.raises(HubRefused, match=f"access denied to the account of {name}"):
        case.publisher.check(place)
    monkeypatch.delenv(name)
    with pytest.raises(ConfigError, match=f"needs {name}"):
        case.publisher.configured(place)
    monkeypatch.setenv(name, TOKEN)
    for endpoint in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(endpoint, "http://hub.example")
    with pytest.raises(ConfigError) as caught:
        case.publisher.configured(place)
    assert "plain http" in caught.value.why
    assert not case.hub.writes


@pytest.mark.parametrize(
    ("token", "owner", "error"),
    [
        ({"role": "read"}, OWNER, "HF_TOKEN may only read"),
        ({"role": "write"}, "readers", "HF_TOKEN may not write to readers"),
        ({"role": "fineGrained", "fineGrained": {"scoped": []}}, OWNER, f"HF_TOKEN may not write to {OWNER}"),
    ],
)
@pytest.mark.parametrize("case", ["huggingface"], indirect=True)
def test_hugging_face_says_where_a_token_may_write(case: Case, token: dict[str, Any], owner: str, error: str) -> None:
    case.hub.account["auth"] = {"accessToken": token}
    (place,) = deliver.places({"hub": case.target(to=owner)}, private=False)
    with pytest.raises(HubRefused, match=error):
        case.publisher.check(place)
    scoped = [{"entity": {"name": OWNER}, "permissions": ["repo.content.read", "repo.write"]}]
    case.hub.account["auth"] = {"accessToken": {"role": "fineGrained", "fineGrained": {"scoped": scoped}}}
    (place,) = deliver.places({"hub": case.target()}, private=False)
    case.publisher.check(place)


@pytest.mark.slow  # six uploads, begun twice each
@pytest.mark.faults
@pytest.mark.parametrize("at", [1, 2, 3], ids=["blobs", "card", "tag"])
def test_killed_before_any_step_the_next_run_finishes(case: Case, at: int) -> None:
    child = os.fork()
    if child == 0:
        case.shown = Dying(at)  # type: ignore[assignment]
        case.publish()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    blobs = set(case.hub.blobs)
    case.hub.writes.clear()
    case.publish()
    assert (len(case.repository.messages), list(case.repository.tags)) == (1, ["v1"])
    assert {path: case.repository.commits[-1][path] for path in FILES} == FILES
    assert not [one for one in case.hub.writes if one.rpartition("/blobs/")[2] in blobs]
