"""Bundles: written atomically, read back, rejected when changed; and the overlay that workers write to."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from flagkernels.bundle import bundle as bundles
from flagkernels.bundle.bundle import build, cache_name, digest, load
from flagkernels.bundle.compat import Compat
from flagkernels.bundle.overlay import prepare
from flagkernels.errors import BundleCorrupt, DatabaseCorrupt, DatabaseLocked, UsageError
from flagkernels.operators.listing import Operators, read_operators
from flagkernels.tuning.database import check_database, check_database_file, compact

HERE = Compat(vendor="cpu", device="x86_64", driver="none", triton="none", flaggems="none", source="none")
KERNEL = "ab" * 32


def database(path: Path, rows: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute('CREATE TABLE "mm_1-a" (key_0 INTEGER PRIMARY KEY, BLOCK INTEGER)')
        connection.execute('CREATE TABLE "mm_1_benchmark-b" (key_0 INTEGER PRIMARY KEY, p50 REAL)')
        connection.executemany('INSERT INTO "mm_1-a" VALUES (?, 32)', [(row,) for row in range(rows)])
        connection.commit()
    return path


def cache(root: Path) -> Path:
    folder = root / cache_name(KERNEL)
    folder.mkdir(parents=True)
    for name in ("mm.cubin", "mm.json", "mm.ttir", "mm.ptx"):
        (folder / name).write_text(name)
    paths = {name: str(folder / name) for name in ("mm.cubin", "mm.json", "mm.ttir", "mm.ptx")}
    (folder / "__grp__mm.json").write_text(json.dumps({"child_paths": paths}))
    (root / cache_name("cd" * 32)).mkdir()  # a candidate that was not chosen
    (root / "STUB").mkdir()
    (root / "STUB/__triton_launcher.so").write_bytes(b"stub")
    return root


@pytest.fixture
def made(tmp_path: Path) -> Path:
    make(tmp_path, tmp_path / "bundle")
    return tmp_path / "bundle"


def make(place: Path, out: Path) -> bundles.Bundle:
    source = place / f"source-{out.name}"
    return build(
        out,
        operators=Operators(include=("mm", "add"), policy="express", native={"mm": ("bf16[1,64]",)}, static=(64,)),
        tuned=database(source / "tuned.db"),
        database_name="TunedConfig_x.db",
        triton_cache=cache(source / "triton-cache"),
        kernels=[KERNEL],
        report={"tuned": 3},
        compat=HERE,
    )


def test_a_bundle_is_read_back_as_it_was_made(made: Path) -> None:
    bundle = load(made)
    assert bundle.operators == Operators(
        include=("mm", "add"), policy="express", native={"mm": ("bf16[1,64]",)}, static=(64,)
    )
    assert (bundle.compat, bundle.database_name) == (HERE, "TunedConfig_x.db")
    names = {file.relative_to(made).as_posix() for file in made.rglob("*") if file.is_file()}
    folder = f"triton-cache/{cache_name(KERNEL)}"
    kernel = {f"{folder}/{name}" for name in ("mm.cubin", "mm.json", "__grp__mm.json")}
    assert names == {*bundles.FILES, *kernel, "triton-cache/STUB/__triton_launcher.so"}
    assert check_database_file(made / "tuned.db") == ["mm_1-a"]


def test_the_digest_follows_the_content_alone(tmp_path: Path, made: Path) -> None:
    make(tmp_path, tmp_path / "other")
    assert digest(made) == digest(tmp_path / "other")
    (tmp_path / "other/report.json").write_text("{}")
    assert digest(made) != digest(tmp_path / "other")


@pytest.mark.parametrize("name", ["operators.yaml", "tuned.db", "report.json"])
def test_a_changed_file_is_refused(made: Path, name: str) -> None:
    with (made / name).open("ab") as stream:
        stream.write(b"\n")
    with pytest.raises(BundleCorrupt, match="was changed after it was bundled"):
        load(made)


@pytest.mark.parametrize("name", [*bundles.FILES])
def test_a_missing_file_is_named(made: Path, name: str) -> None:
    (made / name).unlink()
    with pytest.raises(BundleCorrupt, match="not a complete bundle") as refused:
        load(made)
    assert name in str(refused.value)


def test_a_foreign_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("keep")
    with pytest.raises(UsageError, match="not empty"):
        make(tmp_path, tmp_path / "mine")
    assert (tmp_path / "mine/letter.txt").read_text() == "keep"
    with pytest.raises(UsageError, match="not empty"):
        make(tmp_path, tmp_path / "mine/letter.txt")
    assert (tmp_path / "mine/letter.txt").read_text() == "keep"


@pytest.mark.parametrize("name", ["database", "content"])
def test_a_label_without_a_name_is_named(made: Path, name: str) -> None:
    label = json.loads((made / "compat.json").read_text())
    del label[name]
    (made / "compat.json").write_text(json.dumps(label))
    with pytest.raises(BundleCorrupt, match="not a compatibility label"):
        load(made)


def test_an_old_bundle_is_replaced(tmp_path: Path, made: Path) -> None:
    (tmp_path / "source-bundle").rename(tmp_path / "before")
    (made / "stale").write_text("")
    make(tmp_path, made)
    assert not (made / "stale").exists()


def test_a_kernel_that_the_cache_lost_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    with pytest.raises(BundleCorrupt, match="efefefef"):
        build(
            tmp_path / "bundle",
            operators=Operators(include=("mm",)),
            tuned=database(source / "tuned.db"),
            database_name="x.db",
            triton_cache=cache(source / "triton-cache"),
            kernels=["ef" * 32],
            report={},
            compat=HERE,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("text", ["", "- mm", "include: mm", "include: [mm", "include: [mm]\nnative: [mm]"])
def test_a_file_that_is_not_an_operator_list_is_rejected(tmp_path: Path, text: str) -> None:
    (tmp_path / "operators.yaml").write_text(text)
    with pytest.raises(UsageError, match="not an operator list"):
        read_operators(tmp_path / "operators.yaml")


def test_the_overlay_has_absolute_paths_and_a_writable_database(tmp_path: Path, made: Path) -> None:
    for file in made.rglob("*"):
        file.chmod(0o555 if file.is_dir() else 0o444)
    overlay = prepare(load(made), tmp_path / "cache")
    folder = Path(overlay.environment["TRITON_CACHE_DIR"]) / cache_name(KERNEL)
    paths = json.loads((folder / "__grp__mm.json").read_text())["child_paths"]
    assert set(paths) == {"mm.cubin", "mm.json"}
    assert all(Path(path).is_file() and Path(path).parent == folder for path in paths.values())
    (folder / "lock").write_text("")
    stored = Path(overlay.environment["FLAGGEMS_CACHE_DIR"]) / "config_cache/TunedConfig_x.db"
    assert check_database(stored) == ["mm_1-a"]
    assert overlay.environment["FLAGGEMS_DB_URL"] == f"sqlite:///{stored}?timeout=30"
    assert prepare(load(made), tmp_path / "cache") == overlay


def test_another_bundle_has_another_overlay(tmp_path: Path, made: Path) -> None:
    first = load(made)
    assert prepare(first, tmp_path).path != prepare(replace(first, content="ff" * 32), tmp_path).path


def test_a_truncated_database_is_not_put_into_effect(tmp_path: Path, made: Path) -> None:
    bundle = load(made)
    data = (made / "tuned.db").read_bytes()
    (made / "tuned.db").write_bytes(data[: len(data) // 2])
    with pytest.raises(DatabaseCorrupt, match="damaged"):
        prepare(bundle, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "content", [b"", b"SQLite format 3\0", b"not a database at all" * 99], ids=["empty", "header", "text"]
)
def test_a_file_that_is_not_a_database_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tuned.db"
    path.write_bytes(content)
    with pytest.raises(DatabaseCorrupt, match=r"tuned\.db"):
        check_database(path)
    with pytest.raises(DatabaseCorrupt, match="missing"):
        check_database(tmp_path / "none.db")


def test_a_locked_database_is_named_and_intact(tmp_path: Path) -> None:
    path = database(tmp_path / "tuned.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DatabaseLocked, match="is locked") as refused:
            check_database(path, timeout_s=0.05)
        assert "fuser" in refused.value.hint
    assert len(check_database(path)) == 2


def test_compacting_keeps_choices_and_drops_timings(tmp_path: Path) -> None:
    source = database(tmp_path / "a.db", rows=500)
    with closing(sqlite3.connect(source)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute('INSERT INTO "mm_1-a" VALUES (1000, 64)')
        connection.commit()
        assert compact(source, tmp_path / "b.db") == 1  # the write-ahead log of an open database counts
    with closing(sqlite3.connect(tmp_path / "b.db")) as connection:
        assert connection.execute('SELECT count(*) FROM "mm_1-a"').fetchone() == (501,)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.db", "b.db"]
