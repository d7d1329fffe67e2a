"""A model is refused by the name of the file that is missing, damaged or not what its name says."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from flagrelease.config.lockfile import LockedFile
from flagrelease.errors import HubRefused
from flagrelease.ports.hub import structure
from flagrelease.ports.hub.folder import is_litter
from flagrelease.ports.hub.tensor_files import Malformed, check_gguf, safetensors_names
from support.hub_cases import Fetch
from support.model_files import CONFIG, gguf, safetensors, text, with_header

ONE = safetensors({"a": bytes(8), "b": bytes(4)})
TWO = safetensors({"c": bytes(2)})
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 4976698672\n"
PAGE = b"<!DOCTYPE html>\n<html><body>Sign in</body></html>"


def index(**shards: str) -> bytes:
    return json.dumps({"metadata": {"total_size": 14}, "weight_map": shards}).encode()


def split(*numbers: str, total: str = "00002", suffix: str = "safetensors") -> dict[str, bytes]:
    content = ONE if suffix == "safetensors" else gguf(b"x")
    return {f"model-{number}-of-{total}.{suffix}": content for number in numbers}


SHARDED = {
    "config.json": CONFIG,
    "model-00001-of-00002.safetensors": ONE,
    "model-00002-of-00002.safetensors": TWO,
    "model.safetensors.index.json": index(
        a="model-00001-of-00002.safetensors",
        b="model-00001-of-00002.safetensors",
        c="model-00002-of-00002.safetensors",
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[Mapping[str, bytes]], Path]:
    def made(files: Mapping[str, bytes]) -> Path:
        for path, content in files.items():
            (tmp_path / "model" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "model" / path).write_bytes(content)
        return tmp_path / "model"

    return made


def check(path: Path) -> None:
    files = [
        LockedFile(path=file.relative_to(path).as_posix(), size=file.stat().st_size, sha256="")
        for file in path.rglob("*")
        if file.is_file()
    ]
    structure.check(files, lambda name: path / name, "the model")


WHOLE: dict[str, Mapping[str, bytes]] = {
    "shards and their index": SHARDED,
    "one file": {"model.safetensors": ONE, "config.json": CONFIG, "merges.txt": b"#version: 0.2\n", "a/.gitkeep": b""},
    "numbers of other lengths": {
        "model-00001-of-000002.safetensors": ONE,
        "model-00002-of-000002.safetensors": TWO,
    },
    "numbered from zero": split("00000", "00001"),
    "two quantisations": {**split("00001", "00002", suffix="gguf"), "q8/model-00001-of-00001.gguf": gguf(b"y")},
    "an index of PyTorch shards that safetensors replaced": {
        **SHARDED,
        "pytorch_model.bin.index.json": index(a="pytorch_model-00001-of-00001.bin"),
    },
    "a configuration with a limit of infinity": {"config.json": b'{"time_step_limit": [0.0, Infinity]}'},
    "an index in a folder": {f"sub/{path}": content for path, content in SHARDED.items()},
    "an old checkpoint": {"pytorch_model.bin": b"\x80\x02\x8a\nl\xfc\x9c"},
    "a page that belongs to the repository": {"README.md": PAGE, "index.html": PAGE},
}


@pytest.mark.parametrize("files", WHOLE.values(), ids=WHOLE)
def test_what_is_complete_is_taken(files: Mapping[str, bytes], folder: Callable[[Mapping[str, bytes]], Path]) -> None:
    check(folder(files))


def without(path: str) -> dict[str, bytes]:
    return {name: content for name, content in SHARDED.items() if name != path}


BROKEN: list[tuple[Mapping[str, bytes], str, str]] = [
    (without("model-00002-of-00002.safetensors"), "model-00002-of-00002.safetensors", "part 2 of 2 is missing"),
    (split("00001", "00003", total="00003"), "model-00002-of-00003.safetensors", "part 2 of 3 is missing"),
    (split("00002", suffix="gguf"), "model-00001-of-00002.gguf", "part 1 of 2 is missing"),
    (split("00001", "00002", "00003"), "model-00003-of-00002.safetensors", "above its total of 2"),
    ({"m.safetensors.index.json": index(a="one.safetensors")}, "one.safetensors", "index.json names is missing"),
    ({"pytorch_model.bin.index.json": index(a="x.bin")}, "x.bin", "index.json names is missing"),
    ({"m.safetensors.index.json": index(a="../x")}, "../x", "not a file in its folder"),
    ({"m.safetensors.index.json": b"{}"}, "m.safetensors.index.json", "no weight_map"),
    ({"m.safetensors.index.json": b'{"weight_map": {"a": 1}}'}, "m.safetensors.index.json", "no weight_map"),
    (
        {**SHARDED, "model-00001-of-00002.safetensors": safetensors({"a": bytes(12)})},
        "model-00001-of-00002.safetensors",
        "lacks tensor 'b'",
    ),
    ({"model.safetensors": POINTER}, "model.safetensors", "a pointer of git-lfs"),
    ({"model.safetensors": ONE, "tokenizer.json": POINTER}, "tokenizer.json", "a pointer of git-lfs"),
    ({"x.onnx": b"\xef\xbb\xbf" + POINTER.replace(b"\n", b"\r\n")}, "x.onnx", "a pointer of git-lfs"),
    ({"a.gguf": b"/annex/objects/SHA256E-s3--" + b"0" * 64}, "a.gguf", "a pointer of git-annex"),
    ({"model.safetensors": b""}, "model.safetensors", "it is empty"),
    ({"a.gguf": b""}, "a.gguf", "it is empty"),
    ({"pytorch_model.bin": b""}, "pytorch_model.bin", "it is empty"),
    ({"pytorch_model.bin": PAGE}, "pytorch_model.bin", "not a checkpoint"),
    ({"pytorch_model.bin": b"PK\x03\x04 and no more"}, "pytorch_model.bin", "ends early"),
    ({"config.json": b'{"rope_theta": Infinity, "x": NaN,}'}, "config.json", "not JSON"),
    ({"config.json": b'{"x": NaN}'}, "config.json", "contains NaN"),
    ({"config.json": b"[" * 100_000}, "config.json", "not JSON"),
    ({"config.json": b"[]"}, "config.json", "not a JSON object"),
    ({"config.json": b""}, "config.json", "not JSON"),
    ({"config.json": PAGE}, "config.json", "a web page"),
    ({"config.json": b"\xff\xfe{}"}, "config.json", "not UTF-8"),
    ({"config.json": b'{"architectures": "Toy"}'}, "config.json", "not a list of names"),
    ({"config.json": b'{"model_type": 3}'}, "config.json", "not a text"),
    ({"tokenizer.json": b"{}"}, "tokenizer.json", "it has no model"),
    ({"tokenizer_config.json": b"{"}, "tokenizer_config.json", "not JSON"),
    ({"tokenizer.model": PAGE}, "tokenizer.model", "a web page"),
    ({"tokenizer.model": b""}, "tokenizer.model", "it is empty"),
    ({"merges.txt": b"\xff"}, "merges.txt", "not UTF-8"),
    ({"model.safetensors": PAGE}, "model.safetensors", "not a complete safetensors file"),
    ({"a.gguf": PAGE}, "a.gguf", "not a GGUF file"),
]


@pytest.mark.parametrize(("files", "path", "why"), BROKEN, ids=[f"{path}: {why}" for _, path, why in BROKEN])
def test_what_is_broken_is_refused_by_name(
    files: Mapping[str, bytes], path: str, why: str, folder: Callable[[Mapping[str, bytes]], Path]
) -> None:
    with pytest.raises(HubRefused) as caught:
        check(folder(files))
    assert caught.value.what == f"{path} of the model is refused"
    assert why in caught.value.why
    assert "flagrelease lock" in caught.value.hint


def test_a_checkpoint_that_is_a_complete_archive_is_taken(folder: Callable[[Mapping[str, bytes]], Path]) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", b"x" * 100)
    check(folder({"pytorch_model.bin": packed.getvalue()}))
    with pytest.raises(HubRefused, match=r"pytorch_model\.bin"):
        check(folder({"pytorch_model.bin": packed.getvalue()[:-30]}))


def test_names_and_sizes_alone_show_what_a_hub_lacks() -> None:
    def listed(**sizes: int) -> list[LockedFile]:
        return [LockedFile(path=path, size=size, sha256="") for path, size in sizes.items()]

    structure.check(listed(**{"a-00001-of-00001.safetensors": 9, "config.json": 0}), lambda _path: None, "hub")
    with pytest.raises(HubRefused, match=r"a-00002-of-00002\.safetensors of hub"):
        structure.check(listed(**{"a-00001-of-00002.safetensors": 9}), lambda _path: None, "hub")
    with pytest.raises(HubRefused, match=r"a\.safetensors of hub"):
        structure.check(listed(**{"a.safetensors": 0}), lambda _path: None, "hub")


def entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HEADERS: list[tuple[object, str]] = [
    ({"a": entry(dtype="F33")}, "unknown type 'F33'"),
    ({"a": entry(dtype=4)}, "unknown type 4"),
    ({"a": entry(shape=(-1,))}, "no valid shape"),
    ({"a": entry(shape=(True,))}, "no valid shape"),
    ({"a": entry(shape="4")}, "no valid shape"),
    ({"a": entry(offsets=(0,))}, "no valid shape"),
    ({"a": entry(offsets=(4, 0))}, "which do not fit F32"),
    ({"a": entry(shape=(2,))}, "which do not fit F32"),
    ({"a": entry(shape=(2,), offsets=(0, 8))}, "need 8 bytes, and it has 4"),
    ({"a": entry(dtype="U8", shape=(3,), offsets=(0, 3))}, "need 3 bytes, and it has 4"),
    ({"a": entry("U8", (2,), (0, 2)), "b": entry("U8", (2,), (1, 3))}, "starts at byte 1 of the data, where 2"),
    ({"a": entry("U8", (1,), (0, 1)), "b": entry("U8", (2,), (2, 4))}, "starts at byte 2 of the data, where 1"),
    ({"a": None}, "not described by an object"),
    ({}, "no tensors"),
    ({"__metadata__": {"format": "pt"}}, "no tensors"),
    ({"__metadata__": {"format": 1}, "a": entry()}, "not a map of texts"),
    ([], "not a JSON object"),
]


@pytest.mark.parametrize(("header", "why"), HEADERS, ids=[why for _, why in HEADERS])
def test_safetensors_headers_fit_their_data(header: object, why: str) -> None:
    content = with_header(json.dumps(header).encode(), bytes(4))
    with pytest.raises(Malformed, match=why):
        safetensors_names(io.BytesIO(content), len(content))


def test_types_narrower_than_a_byte_are_counted_in_bits() -> None:
    content = with_header(json.dumps({"a": entry("F4", (3, 2), (0, 3))}).encode() + b"  ", bytes(3))
    assert safetensors_names(io.BytesIO(content), len(content)) == {"a"}


@pytest.mark.parametrize("header", [b'{"a": 1, "a": 2}', b"[" * 100_000, b"\xff", b"{", b""])
def test_a_header_that_is_no_distinct_object_is_refused(header: bytes) -> None:
    content = with_header(header, b"")
    with pytest.raises(Malformed):
        safetensors_names(io.BytesIO(content), len(content))


def string(key: str, value: str) -> bytes:
    return text(key) + struct.pack("<I", 8) + text(value)


def number(key: str, value: int) -> bytes:
    return text(key) + struct.pack("<II", 4, value)


def array(key: str, kind: int, count: int, values: bytes) -> bytes:
    return text(key) + struct.pack("<IIQ", 9, kind, count) + values


def test_gguf_values_of_all_kinds_are_passed_over() -> None:
    keys = string("a", "b") + number("n", 3) + array("t", 8, 2, text("x") + text("y" * 70_000))
    keys += array("f", 6, 3, bytes(12)) + text("flag") + struct.pack("<IB", 7, 1) + number("general.alignment", 64)
    content = gguf(b"data" * 16, keys=keys, count=6)
    padding = -(content.index(b"data" * 16)) % 64  # the helper aligns to 32
    content = content.replace(b"data" * 16, bytes(padding) + b"data" * 16)
    check_gguf(io.BytesIO(content), len(content))
    with pytest.raises(Malformed, match="ends at byte"):
        check_gguf(io.BytesIO(content), len(content) - 1)


WHOLE_GGUF = gguf(bytes(64))
GGUFS: list[tuple[bytes, str]] = [
    (b"GGML" + WHOLE_GGUF[4:], "does not start with GGUF"),
    (WHOLE_GGUF[:4] + struct.pack("<I", 1) + WHOLE_GGUF[8:], "version 1 is not supported"),
    (WHOLE_GGUF[:4] + struct.pack(">I", 3) + WHOLE_GGUF[8:], "big-endian"),
    (WHOLE_GGUF[:8] + struct.pack("<Q", 1 << 60) + WHOLE_GGUF[16:], "claims"),
    (WHOLE_GGUF[:8] + struct.pack("<Q", 0) + WHOLE_GGUF[16:], "no tensors"),
    (WHOLE_GGUF[:-1], "ends at byte"),
    (gguf(b"x", keys=array("t", 8, 1 << 62, b""), count=1), "claims"),
    (gguf(b"x", keys=array("t", 9, 1, b""), count=1), "unknown type 9"),
    (gguf(b"x", keys=text("t") + struct.pack("<I", 77), count=1), "unknown type 77"),
    (gguf(b"x", keys=number("general.alignment", 0), count=1), "alignment of 0"),
    (gguf(b"x", keys=struct.pack("<Q", 1 << 40), count=1), "a name in its header"),
    (WHOLE_GGUF.replace(struct.pack("<IQ", 1, 64), struct.pack("<IQ", 9, 64)), "9 dimensions"),
    (WHOLE_GGUF.replace(struct.pack("<QI", 64, 24), struct.pack("<QI", 64, 4)), "which ggml does not have"),
    (WHOLE_GGUF.replace(struct.pack("<QI", 64, 24), struct.pack("<QI", 64, 12)), "does not fit its type"),
    (WHOLE_GGUF.replace(struct.pack("<IQ", 24, 0), struct.pack("<IQ", 24, 7)), "ends at byte"),
]


@pytest.mark.parametrize(("content", "why"), GGUFS, ids=[why for _, why in GGUFS])
def test_gguf_headers_fit_their_data(content: bytes, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        check_gguf(io.BytesIO(content), len(content))


@pytest.mark.parametrize("content", [ONE, WHOLE_GGUF], ids=["safetensors", "gguf"])
def test_damaged_headers_are_taken_or_refused_and_nothing_else(content: bytes) -> None:
    chance, reader = random.Random(7), safetensors_names if content is ONE else check_gguf
    for _ in range(300):
        damaged = bytearray(content[: chance.randrange(len(content) + 1)])
        for _ in range(chance.randrange(1, 4)):
            if damaged:
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            reader(io.BytesIO(bytes(damaged)), len(damaged))
        except Malformed:
            continue


@pytest.mark.parametrize("content", [ONE[:-1], WHOLE_GGUF[:-1]], ids=["safetensors", "gguf"])
def test_what_a_hub_sends_is_checked_although_it_matches_the_lock(content: bytes, tmp_path: Path) -> None:
    """Such as weights that were locked before they were checked."""
    name = "model.gguf" if content[:4] == b"GGUF" else "model.safetensors"
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / name).write_bytes(content)
    fetch = Fetch(tmp_path / "into")
    with pytest.raises(HubRefused, match=name):
        fetch.lock(f"file://{tmp_path}/source")
    (tmp_path / "source" / name).rename(tmp_path / "source" / "any")
    model = fetch.lock(f"file://{tmp_path}/source")
    (tmp_path / "source" / "any").rename(tmp_path / "source" / name)
    renamed = [LockedFile(path=name, size=file.size, sha256=file.sha256) for file in model.files]
    for _ in range(2):  # also where all files are there already
        with pytest.raises(HubRefused, match=name):
            fetch.run(type(model)(source=model.source, revision="", files=tuple(renamed), digest=model.digest))


LITTER = [
    ".git",
    ".cache",
    ".DS_Store",
    "._model.safetensors",
    "model.safetensors.incomplete",
    "a.part",
    ".huggingface",
    "Thumbs.db",
    "__MACOSX",
    ".nfs000001",
    "model.safetensors.lock",
    ".msc",
    "._____temp",
    "x.crdownload",
    "b.json~",
]


def test_remains_of_programs_are_left_out_of_the_digest(tmp_path: Path) -> None:
    folder, fetch = tmp_path / "model", Fetch(tmp_path / "into")
    folder.mkdir()
    kept = {"model.safetensors": ONE, ".gitattributes": b"* -text\n", "config.json": CONFIG}
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    before = fetch.lock(f"file://{folder}")
    assert {file.path for file in before.files} == set(kept)
    for name in LITTER:
        assert is_litter(name)
        (folder / "sub" / name).mkdir(parents=True)
        (folder / "sub" / name / "x").write_bytes(os.urandom(8))
    (folder / ".git").symlink_to("/nowhere")
    assert fetch.lock(f"file://{folder}").digest == before.digest
    assert "left out .git, sub/" in fetch.progress.notes[-1]
    assert not any(map(is_litter, [".gitattributes", "model.safetensors", "part.bin", "lock.json", "tokenizer.json"]))


def test_a_file_that_aria2_has_not_finished_is_refused(folder: Callable[[Mapping[str, bytes]], Path]) -> None:
    path = folder({"model.safetensors": ONE, "model.safetensors.aria2": b"\0"})
    with pytest.raises(HubRefused, match="refused") as caught:
        Fetch(path).lock(f"file://{path}")
    assert "model.safetensors is an unfinished download" in caught.value.why


def test_links_are_followed_inside_the_folder(tmp_path: Path, folder: Callable[[Mapping[str, bytes]], Path]) -> None:
    path = folder({"real/model.safetensors": ONE, "config.json": CONFIG})
    (path / "linked").symlink_to("real")
    (path / "copy.safetensors").symlink_to(path / "real" / "model.safetensors")
    fetch = Fetch(tmp_path / "into")
    fetch.run(fetch.lock(f"file://{path}"))
    there = {"real/model.safetensors": ONE, "linked/model.safetensors": ONE, "copy.safetensors": ONE}
    assert fetch.there() == {**there, "config.json": CONFIG}
    assert not any(file.is_symlink() for file in fetch.into.rglob("*"))


def test_the_cache_of_a_hub_is_followed(tmp_path: Path) -> None:
    repository = tmp_path / "models--Org--Toy"
    snapshot, blobs = repository / "snapshots" / ("0" * 40), repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "aaaa").write_bytes(ONE)
    (snapshot / "model.safetensors").symlink_to("../../blobs/aaaa")
    fetch = Fetch(tmp_path / "into")
    fetch.run(fetch.lock(f"file://{snapshot}"))
    assert fetch.there() == {"model.safetensors": ONE}
    (snapshot / "config.json").symlink_to("../../refs")
    (repository / "refs").write_bytes(CONFIG)
    with pytest.raises(HubRefused) as caught:
        fetch.lock(f"file://{snapshot}")
    assert "config.json is a symbolic link that leaves the folder" in caught.value.why


@pytest.mark.parametrize(
    ("name", "target", "why"),
    [
        ("model.safetensors", "../outside/w.safetensors", "leaves the folder"),
        ("original", "../outside", "leaves the folder"),
        ("gone.safetensors", "../nowhere", "which does not exist"),
        ("again", ".", "leads back to a folder that holds it"),
        ("loop", "loop", "which does not exist"),
    ],
)
def test_other_links_are_refused_by_name(
    name: str, target: str, why: str, tmp_path: Path, folder: Callable[[Mapping[str, bytes]], Path]
) -> None:
    path = folder({"config.json": CONFIG})
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "w.safetensors").write_bytes(ONE)
    (path / name).symlink_to(target)
    with pytest.raises(HubRefused, match="is refused") as caught:
        Fetch(tmp_path / "into").lock(f"file://{path}")
    assert f"{name} " in caught.value.why
    assert why in caught.value.why
