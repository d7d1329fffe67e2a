"""A layer is the same bytes for the same content, on any day, for any user and on any number of processors."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import tarfile
from pathlib import Path

import pytest

from flagrelease.errors import NoSpace
from flagrelease.stages.image import compressed, layer, wheel_tree

MIB = 1 << 20


def gzipped(content: bytes, cuts: list[int]) -> bytes:
    made: list[bytes] = []
    packer = compressed.Gzip(made.append)
    for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
        packer.write(content[start:end])
    packer.close()
    return b"".join(made)


def text(size: int) -> bytes:
    return random.Random(size).randbytes(size // 4).hex().encode() + b"." * (size - 2 * (size // 4))


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 5])
def test_gzip_reads_what_was_written(size: int) -> None:
    assert gzip.decompress(gzipped(text(size), [])) == text(size)


def test_the_bytes_depend_neither_on_the_writes_nor_on_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    content = text(2 * MIB + 7)
    usual = gzipped(content, [])
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert gzipped(content, [1, 5, MIB, MIB + 1, 2 * MIB]) == usual
    assert usual[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff", "neither a name nor a time"


def test_this_machine_s_zlib_is_the_one_that_others_have() -> None:
    assert compressed.usual()


def test_another_compression_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "_LEVEL", 6)
    assert not compressed.usual()


def tree(folder: Path, umask: int, names: tuple[str, ...]) -> dict[str, layer.Entry]:
    """Files as a user with this umask unpacks them, in that order."""
    before = os.umask(umask)
    try:
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
            if name.startswith("bin/"):
                path.chmod(path.stat().st_mode | 0o100)
            os.utime(path, (umask * 1e6, umask * 1e6))
    finally:
        os.umask(before)
    entries: dict[str, layer.Entry] = wheel_tree.entries(folder, "opt/x")
    return layer.with_folders(
        {**entries, "opt/link": layer.Link(target="x")}, {"opt": layer.Folder(mode=0o775, gid=50)}
    )


def test_neither_user_nor_day_nor_order_changes_it(tmp_path: Path) -> None:
    long = "a" * 90 + "/" + "b" * 90 + "/é.py"
    names = ("lib/b.py", "bin/run", long, "lib/a.py")
    one = layer.write(tree(tmp_path / "one", 0o022, names), tmp_path / "one.tar.gz")
    two = layer.write(tree(tmp_path / "two", 0o077, names[::-1]), tmp_path / "two.tar.gz")
    assert (one.digest, one.diff_id, one.size, one.unpacked) == (two.digest, two.diff_id, two.size, two.unpacked)
    assert one.digest == "sha256:" + hashlib.sha256(one.path.read_bytes()).hexdigest()
    assert one.diff_id == "sha256:" + hashlib.sha256(gzip.decompress(one.path.read_bytes())).hexdigest()
    assert (one.size, one.unpacked) == (one.path.stat().st_size, len(b"x") + sum(len(name.encode()) for name in names))
    with tarfile.open(one.path) as tar:
        found = {entry.name: entry for entry in tar}
    assert list(found) == sorted(found, key=lambda name: name.split("/")), "a folder comes before what is in it"
    assert {(entry.mtime, entry.uname, entry.gname) for entry in found.values()} == {(946684800, "", "")}
    assert {name: oct(entry.mode) for name, entry in found.items() if entry.isreg()} == {
        "opt/x/lib/a.py": "0o644", "opt/x/lib/b.py": "0o644", "opt/x/bin/run": "0o755", f"opt/x/{long}": "0o644",
    }  # fmt: skip
    assert (found["opt"].mode, found["opt"].gid) == (0o775, 50), "a folder of the base stays as it is"
    assert (found["opt/x"].mode, found["opt/x"].uid, found["opt/link"].linkname) == (0o755, 0, "x")


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int, _mode: str) -> object:
        return Path("/dev/full").open("wb", buffering=0)

    monkeypatch.setattr(layer.os, "fdopen", full)
    (tmp_path / "big").write_bytes(text(3 * MIB))
    with pytest.raises(NoSpace, match=r"no space left while writing the layer x\.tar\.gz"):
        layer.write({"big": layer.File(content=tmp_path / "big")}, tmp_path / "layers/x.tar.gz")
    assert list((tmp_path / "layers").iterdir()) == []
