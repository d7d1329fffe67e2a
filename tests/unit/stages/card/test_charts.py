import os
import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from scipy.stats import binomtest

import support.finished_cell as given
from flagrelease.stages.card import charts
from flagrelease.verdict.sensitivity import wilson


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def test_the_same_record_gives_the_same_bytes() -> None:
    assert charts.scores(given.record()) == charts.scores(given.record())


def test_another_score_gives_another_picture() -> None:
    assert charts.scores(given.record()) != charts.scores(
        given.record(accuracy=given.accuracy(given.score(candidate=0.3)))
    )


def test_it_grows_by_one_row_for_each_benchmark() -> None:
    rows = [given.score(benchmark=f"b{n}", metric=f"B{n}_0fewshot_@avg1") for n in range(5)]
    sizes = [size(charts.scores(given.record(accuracy=given.accuracy(*rows[:count])))) for count in (1, 2, 5)]
    assert {width for width, _ in sizes} == {1720}
    assert all(lower < higher for (_, lower), (_, higher) in pairwise(sizes))


def test_no_date_and_no_program_in_the_picture() -> None:
    png = charts.scores(given.record())
    assert b"tEXt" not in png
    assert b"tIME" not in png


def test_a_missing_baseline_is_drawn_as_missing() -> None:
    alone = given.score(baseline=None, difference=None, interval90=None, p_regression=None, verdict="INCONCLUSIVE")
    assert size(charts.scores(given.record(accuracy=given.accuracy(alone, verdict="INCONCLUSIVE"))))[0] == 1720


@pytest.mark.parametrize("title", ["costs $1 and $2$", "a_b^c", "名字", "x" * 200])
def test_any_title_can_be_drawn(title: str) -> None:
    import warnings
    from dataclasses import replace

    made = given.record()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the font has no such glyph; a box is drawn
        charts.scores(replace(made, model=replace(made.model, title=title)))


@pytest.mark.parametrize(("right", "n"), [(0, 30), (1, 30), (21, 30), (58, 200), (200, 200), (9815, 14042)])
def test_wilson_agrees_with_scipy(right: int, n: int) -> None:
    known = binomtest(right, n).proportion_ci(0.90, method="wilson")
    assert wilson(right / n, n) == pytest.approx((known.low, known.high), abs=1e-12)


@pytest.mark.parametrize(("difference", "text"), [(0.005, "+0.5"), (-0.033, "−3.3"), (0.0, "0.0"), (-0.0004, "0.0")])
def test_points_have_their_sign(difference: float, text: str) -> None:
    assert charts.points(difference) == text


def test_the_program_that_lists_fonts_gets_no_credential(tmp_path: Path) -> None:
    """matplotlib runs it when it has no list of fonts yet, as in a new home."""
    program = tmp_path / "fc-list"
    program.write_text(f"#!/bin/sh\nenv >> {tmp_path}/seen\nexit 1\n")
    program.chmod(0o755)
    env = {**os.environ, "HF_TOKEN": "a-secret", "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    code = "from flagrelease.stages.card import fonts; fonts.find(); import matplotlib.font_manager"
    env |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "MPLCONFIGDIR": ""}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    seen = (tmp_path / "seen").read_text()
    assert "HOME=" in seen
    assert "a-secret" not in seen
