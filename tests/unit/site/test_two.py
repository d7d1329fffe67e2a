"""Work in two processes: all of it is done, and an error of either one is raised."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flagrelease.site.two import WORTH_A_PROCESS, in_two


@pytest.mark.parametrize("count", [0, 1, WORTH_A_PROCESS, WORTH_A_PROCESS + 1])
def test_every_item_is_done_once(tmp_path: Path, count: int) -> None:
    in_two(range(count), lambda item: (tmp_path / str(item)).write_text(str(os.getpid())))
    assert len(list(tmp_path.iterdir())) == count
    processes = {path.read_text() for path in tmp_path.iterdir()}
    assert len(processes) <= min(len(os.sched_getaffinity(0)), 2)
    if count >= WORTH_A_PROCESS and len(os.sched_getaffinity(0)) > 1:
        assert len(processes) == 2


@pytest.mark.parametrize("bad", [0, 1])
def test_an_error_in_either_process_is_raised(bad: int) -> None:
    def work(item: int) -> None:
        if item == bad:
            raise ValueError(f"no page for {item}")

    with pytest.raises(ValueError, match=f"no page for {bad}"):
        in_two(range(WORTH_A_PROCESS), work)
