"""The index in real Chromium, opened from the disk: filters, permalinks, rows loaded when needed, no broken policy."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest

from support.published_cells import HOSTILE, Given, Page, hostile

pytestmark = [pytest.mark.integration, pytest.mark.slow]  # slow: each page is a start of a browser

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """121 failed cells, and nine that were released."""
    if CHROMIUM is None:
        pytest.skip("apt-get install chromium")
    given = Given(tmp_path_factory.mktemp("site"))
    for number in range(9):
        given.release(f"b/good{number}", "tag-1")
    hostile(given)
    return given.output


def opened(index: Path, page: str, profile: Path) -> Page:
    """The page after its scripts have run. Fails for any message on the console, such as a violated policy."""
    assert CHROMIUM is not None
    argv = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}"]
    argv += ["--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom", f"file://{index / page}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console, "\n".join(console)
    return Page(done.stdout)


def visible(page: Page) -> list[str]:
    """The models of the rows that are shown."""
    return [row["data-m"] or "" for row in page.all("tr") if "data-m" in row and "hidden" not in row]


def test_the_front_page_shows_its_rows_and_its_filters(index: Path, tmp_path: Path) -> None:
    page = opened(index, "index.html", tmp_path)
    assert len(visible(page)) == 100
    (form,) = page.all("form")
    assert "hidden" not in form
    (more,) = [each for each in page.all("button") if each.get("id") == "more"]
    assert "hidden" not in more
    assert "100 of 130 cells are shown" in page.text


@pytest.mark.parametrize(
    ("link", "count"),
    [("state=released", 9), ("chip=b&q=good7", 1), ("q=good%20smollm2", 9), ("model=m119", 1), ("q=zzz", 0)],
)
def test_a_permalink_filters_all_cells_also_those_in_files(index: Path, tmp_path: Path, link: str, count: int) -> None:
    page = opened(index, f"index.html#{link}", tmp_path)
    assert len(visible(page)) == count
    assert f"{count} of 130 cells are shown" in page.text
    (none,) = [each for each in page.all("p") if each.get("id") == "none"]
    assert ("hidden" in none) == (count > 0)


def test_hostile_text_stays_text(index: Path, tmp_path: Path) -> None:
    for name in (f"index.html#q={quote('alert')}", "cells/a/b/index.html", "cells/a/b/answers-0.html"):
        page = opened(index, name, tmp_path)
        assert not page.all("img")
        assert [each.get("src") for each in page.all("script")] in ([], ["rows/0.js", "site.js"])
        assert HOSTILE.split(" |")[0] in page.text


def test_a_cell_has_its_plots(index: Path, tmp_path: Path) -> None:
    page = opened(index, "cells/b/good0/index.html", tmp_path)
    assert len([svg for svg in page.all("svg") if svg["class"] == "plot"]) == 7
