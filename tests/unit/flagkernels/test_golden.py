"""flagkernels' files for flagrelease equal the golden files, which flagrelease's tests read too."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the steps import torch")
pytest.importorskip("sqlalchemy", reason="a bundle holds FlagGems' database")

from support.kernels_golden import FILES, GOLDEN


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_written_as_its_golden_one(name: str, tmp_path: Path) -> None:
    assert FILES[name](tmp_path).read_text() == (GOLDEN / name).read_text()


def test_no_golden_file_is_left_without_a_writer() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == set(FILES)
