"""The index: what it shows first, that it escapes everything, that its links resolve, and its files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pytest

from flagrelease.cli import app
from flagrelease.errors import ConfigError
from flagrelease.releases import matrix
from flagrelease.site import build as site
from support import published_cells
from support.published_cells import HOSTILE, Given, Page, answer

ROOT = Path(__file__).parents[3]
ATOM = "{http://www.w3.org/2005/Atom}"


@pytest.fixture
def given(tmp_path: Path) -> Given:
    return Given(tmp_path)


def test_what_is_red_comes_first_with_its_reason(given: Given) -> None:
    given.release("a/good", "tag-1")
    given.release("a/bad", "tag-1")
    given.fail("a/bad", "a/bad is not published: smoke failed", why="two answers differ")
    given.fail("a/undecided", "a/undecided is not published: inconclusive", code=5)
    given.release("a/yanked", "tag-1")
    yank = {"tag": "tag-1", "image": "", "reason": "garbage", "by": "me", "at": "2026-01-05T00:00:00+00:00"}
    given.entry("a/yanked", "yank", "done", result=yank)
    given.build({"a/new": "", "a/without": "does not fit"})
    rows = [(row["data-s"], row["data-m"]) for row in given.page().all("tr") if "data-s" in row]
    assert rows == [
        ("red", "bad"),
        ("yanked", "yanked"),
        ("inconclusive", "undecided"),
        ("new", "new"),
        ("released", "good"),
        ("excluded", "without"),
    ]
    text = given.page().text
    assert "smoke: smoke failed: two answers differ" in text
    assert "6 cells, 3 releases, as of 2026-01-03 00:00 UTC" in text
    red = given.page("cells/a/bad/index.html").text
    assert "two answers differ" in red
    assert "→ run again" in red
    assert "stays available" in red
    assert "stays available" not in given.page("cells/a/yanked/index.html").text


def test_what_a_watch_found_is_a_badge_a_table_and_an_event(given: Given) -> None:
    finding = {
        "check": "layers",
        "place": "host/x",
        "what": "1 of 9 blobs is missing",
        "why": "sha256:1",
        "hint": "push",
    }
    found = {"tag": "tag-1", "image": "", "at": "2026-01-05T00:00:00+00:00", "findings": [{**finding, "since": "2026"}]}
    for cell in ("a/lost", "a/red", "a/mended"):
        given.release(cell, "tag-1")
        given.entry(cell, "watch", "done", result=found)
    given.fail("a/red", "a/red is not published: smoke failed")
    given.entry("a/mended", "watch", "done", result={**found, "at": "2026-01-06T00:00:00+00:00", "findings": []})
    given.build()
    page = given.page()
    assert [(row["data-s"], row["data-m"]) for row in page.all("tr") if "data-s" in row] == [
        ("red", "red"),
        ("rotten", "lost"),
        ("released", "mended"),
    ]
    badges = [each for each in page.all("span") if each.get("class") == "badge s-rotten"]
    assert [each.get("title") for each in badges] == ["1 of 9 blobs is missing: sha256:1", None]
    assert "as of 2026-01-06 00:00 UTC" in page.text
    lost = " ".join(given.page("cells/a/lost/index.html").text.split())
    assert "No longer as published found by a watch" in lost
    for said in ("host/x", "1 of 9 blobs is missing", "sha256:1", "push"):
        assert said in lost, said
    assert "stays available" not in lost
    assert "No longer as published" not in given.page("cells/a/mended/index.html").text
    cells = {each.cell: each for each in matrix.loads((given.output / "cells.json").read_bytes(), "cells.json")}
    release = cells["a/lost"].release
    assert release is not None
    assert release.rot is not None
    assert release.rot.findings[0].why == "sha256:1"
    titles = re.findall("<title>(.*?)</title>", (given.output / "feed.xml").read_text())
    assert titles[1:3] == ["a/mended holds again", "a/red is no longer as published"]


def test_a_row_and_a_page_have_the_figures(given: Given) -> None:
    def first(plain: dict[str, Any]) -> None:
        plain["chip"]["components"]["flaggems"] = "5.0.1"
        plain["speed"]["points"][0] |= {"ratio": 0.85, "interval95": [0.81, 0.86]}

    def second(plain: dict[str, Any]) -> None:
        plain["lineage"] = {"revision": 2, "reason": "a faster mm", "parent": "tag-1", "parent_yanked": "garbage"}

    given.release("a/b", "tag-1", first, at="2026-01-01T00:00:00+00:00")
    given.release("a/b", "tag-2", second)
    given.build({"a/b": ""})
    row = " ".join(given.page().text.split())
    for text in (
        "PASS",
        "experimental",
        "ifeval 0.203",
        "1of",
        "125.6 s / –",
        "0.92",
        "0.82–1.04",
        "153 MB",
        "2 releases",
    ):
        assert text in row, text
    page = given.page("cells/a/b/index.html")
    text = " ".join(page.text.split())
    for said in ("flaggems 5.0.1 → 5.0.2", "speed 512 → 128 tokens × 1: better", "a faster mm", "there is no image"):
        assert said in text, said
    assert "replaces tag-1, which was yanked: garbage" in text
    plots = [svg for svg in page.all("svg") if svg["class"] == "plot"]
    assert [svg["aria-label"] for svg in plots] == [
        "ifeval: difference to the baseline",
        "gsm8k: difference to the baseline",
        "arc: difference to the baseline",
        "mmlu: difference to the baseline",
        "speed at the slowest load, relative to native",
        "start, seconds until ready",
        "image size, MB",
    ]
    assert "2026-01-01 tag-1: 0.850 at 512 → 128 tokens × 1" in page.text
    assert len([svg for svg in page.all("svg") if svg["class"] == "bar"]) == 4 + 3


def test_a_verdict_leads_to_each_answer_the_changed_ones_first(given: Given) -> None:
    evidence = given.release("a/b", "tag-1") / "evidence/accuracy"
    evidence.mkdir(parents=True)
    before = [answer(1, True, "same"), answer(2, False, "x"), answer(3, True, "y"), answer(4, False, HOSTILE)]
    after = [answer(1, True, "same"), answer(2, True, "right"), answer(3, False, "lost it"), answer(4, False, "other")]
    (evidence / "accuracy_baseline.samples.jsonl").write_text("".join(before))
    (evidence / "accuracy_samples.jsonl").write_text("".join(after))
    given.build()
    page = given.page("cells/a/b/index.html")
    (link,) = [each["href"] for each in page.all("a") if (each["href"] or "").startswith("answers")]
    shown = given.page(f"cells/a/b/{link}").text
    assert re.findall(r"test/(\d)", shown) == ["3", "2", "4", "1"]
    assert "4 answers: 1 lost, 1 gained" in shown
    assert "<img src=x onerror=alert(2)>" in shown  # as text


@pytest.fixture
def hostile(given: Given) -> Given:
    return published_cells.hostile(given)


def test_nothing_of_a_record_becomes_markup(hostile: Given) -> None:
    pages = sorted(hostile.output.rglob("*.html"))
    assert len(pages) == 1 + 121 + 1
    assert not (hostile.output / "tmp").exists()
    rows = (hostile.output / "rows/0.js").read_text()
    html = json.loads(rows.removeprefix("flagreleaseRows(0, ").removesuffix(");\n"))
    assert "</script" not in rows
    for name, text in [(str(page), page.read_text()) for page in pages] + [("rows/0.js", html)]:
        page = Page(text)
        scripts = [each.get("src") for each in page.all("script")]
        assert scripts == (["site.js"] if name.endswith("index/index.html") else []), name
        assert not page.all("img"), name
        attributes = {attribute for _, given in page.tags for attribute in given}
        assert not [each for each in attributes if each.startswith("on") or each == "style"], name
    shown = hostile.page("cells/a/b/index.html").text
    assert shown.count(HOSTILE.strip()) >= 8
    assert "49" not in shown.replace(HOSTILE, "")


def test_pages_load_nothing_from_elsewhere(hostile: Given) -> None:
    for path in hostile.output.rglob("*.html"):
        page = Page(path.read_text())
        (policy,) = [each["content"] for each in page.all("meta") if "http-equiv" in each]
        assert policy is not None
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        for _, attributes in page.tags:
            for name in {"src", "href"} & attributes.keys():
                link = urlsplit(attributes[name] or "")
                assert not link.scheme, f"{path}: {attributes[name]}"
                assert not link.netloc
                target = path.parent / unquote(link.path) if link.path else path
                assert target.is_file(), f"{path}: {attributes[name]}"


def test_rows_beyond_the_front_page_are_in_files(hostile: Given) -> None:
    rows = [row["data-m"] for row in hostile.page().all("tr") if "data-m" in row]
    assert len(rows) == 100
    text = (hostile.output / "rows/0.js").read_text()
    more = Page(json.loads(text.removeprefix("flagreleaseRows(0, ").removesuffix(");\n")))
    rest = [row["data-m"] for row in more.all("tr")]
    assert len(set(rows) | set(rest)) == 121
    assert hostile.page().all("body") == [{"data-files": "1", "data-total": "121"}]


def test_json_is_beside_the_pages(given: Given) -> None:
    given.release("a/b", "tag-1", at="2026-01-01T00:00:00+00:00")
    given.release("a/b", "tag-2")
    built = given.build()
    assert (built.cells, built.releases) == (1, 2)
    (cell,) = matrix.loads((given.output / "cells.json").read_bytes(), "cells.json")
    assert cell.release is not None
    assert (cell.cell, cell.state, cell.release.tag) == ("a/b", "released", "tag-2")
    history = json.loads((given.output / "cells/a/b/history.json").read_text())
    assert [each["tag"] for each in history["releases"]] == ["tag-1", "tag-2"]
    assert history["releases"][0]["facts"]["speed"]["points"][0]["ratio"] == pytest.approx(1.088, abs=0.001)
    assert app.main(["diff", str(given.output), str(given.workspace.root)]) == 0


def test_the_feed_has_releases_yanks_and_regressions(given: Given) -> None:
    given.fail("a/b", "before the first release", at="2025-12-31T00:00:00+00:00")
    given.release("a/b", "tag-1")
    given.fail("a/b", f"a/b is not published: {HOSTILE}", why="two answers differ")
    given.release("a/c", "tag-1", at="2026-01-01T00:00:00+00:00")
    yank = {"tag": "tag-1", "image": "", "reason": "garbage", "by": "me", "at": "2026-01-05T00:00:00+00:00"}
    given.entry("a/c", "yank", "done", result=yank)
    given.build(url="https://example.org/index/")
    feed = ElementTree.parse(given.output / "feed.xml").getroot()  # noqa: S314 - ours
    titles = [each.findtext(f"{ATOM}title") for each in feed.iter(f"{ATOM}entry")]
    assert titles == [
        "a/c yanked",
        "a/b failed at smoke after it had been released",
        "a/b released",
        "a/c released (yanked since)",
    ]
    entry = feed.findall(f"{ATOM}entry")[1]
    assert "<script>" in (entry.findtext(f"{ATOM}summary") or "")
    links = [each.get("href") for each in entry.iter(f"{ATOM}link")]
    assert links == ["https://example.org/index/cells/a/b/index.html"]
    assert feed.findtext(f"{ATOM}updated") == "2026-01-05T00:00:00+00:00"
    ids = [each.text for each in feed.iter(f"{ATOM}id")]
    assert len(set(ids)) == 5


def test_a_lost_record_is_shown_as_lost(given: Given) -> None:
    (given.release("a/b", "tag-1") / "release.json").unlink()
    given.build()
    assert "lost, or written by a newer version" in given.page("cells/a/b/index.html").text


def test_it_replaces_an_index_and_nothing_else(given: Given) -> None:
    given.release("a/b", "tag-1")
    given.build({"a/b": "", "a/gone": ""})
    first = (given.output / "index.html").read_bytes()
    given.build({"a/b": ""})
    assert not (given.output / "cells/a/gone").exists()
    assert "gone" not in given.page().text
    given.build({"a/b": "", "a/gone": ""})
    assert (given.output / "index.html").read_bytes() == first
    (given.output / site.MARK).unlink()
    with pytest.raises(ConfigError, match="has files that are not of an index"):
        given.build()
    given.output = given.output / "index.html"
    with pytest.raises(ConfigError, match="is not a directory"):
        given.build()


def test_the_verb_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "matrix.yaml").write_bytes((ROOT / "templates/matrix.yaml").read_bytes())
    given = Given(tmp_path)
    given.release("cpu/smollm2-135m", "tag-1")
    argv = ["index", "--workspace", str(given.workspace.root), "--output", "site", "--json"]
    assert app.main(argv) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["output"], shown["releases"]) == (str(tmp_path / "site"), 1)
    assert shown["front_bytes"] == (tmp_path / "site/index.html").stat().st_size
    assert (tmp_path / "site/cells/cpu/smollm2-135m/index.html").is_file()
