"""A workspace with published cells, the index that is built from it, and what a browser would read in its pages."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from flagrelease.run.matrix_state import read_ledger
from flagrelease.site import build as site
from flagrelease.site.build import Built
from flagrelease.store.ledger import Entry, Failure, Ledger
from flagrelease.store.workspace import Workspace

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "templates/site"
HOSTILE = "<script>alert(1)</script> \"'><img src=x onerror=alert(2)> | a | {{ 7 * 7 }} </title> ]]> \x0b"


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


class Given:
    """A workspace with a ledger and releases."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace(root / "workspace")
        self.ledger = Ledger(self.workspace.ledger)
        self.output = root / "index"

    def entry(self, cell: str, stage: str, state: str, **more: Any) -> None:
        at = more.pop("at", "2026-01-02T00:00:00+00:00")
        known = {"at": at, "run": "r", "cell": cell, "stage": stage, "key": "0", "process": "1@b"}
        self.ledger.append(Entry(**known, state=state, **more))  # type: ignore[arg-type]

    def release(
        self, cell: str, tag: str, change: Callable[[dict[str, Any]], None] = lambda _: None, **more: Any
    ) -> Path:
        folder = self.workspace.root / "releases" / cell / tag
        folder.mkdir(parents=True)
        plain = json.loads((ROOT / "docs/example-h100/release.json").read_bytes())
        plain["cell"] = cell
        change(plain)
        (folder / "release.json").write_text(json.dumps(plain))
        result = {
            "digest": "sha256:1",
            "tags": [f"localhost:5000/x/y:{tag}"],
            "folder": f"releases/{cell}/{tag}",
            "record": {"name": "release.json", "sha256": "1" * 64, "size": 1},
        }
        self.entry(cell, "publish", "done", result=result, **more)
        return folder

    def fail(
        self, cell: str, what: str, *, code: int = 4, why: str = "", at: str = "2026-01-03T00:00:00+00:00"
    ) -> None:
        error = Failure(kind="GateFailed", code=code, what=what, why=why, hint="run again")
        self.entry(cell, "smoke", "failed", error=error, at=at)

    def build(self, excluded: dict[str, str] | None = None, url: str = "") -> Built:
        logs = read_ledger(self.ledger.path)
        cells = excluded or {}
        return site.build(cells, logs, self.workspace, self.output, templates=TEMPLATES, url=url)

    def page(self, name: str = "index.html") -> Page:
        return Page((self.output / name).read_text())


def answer(number: int, correct: bool, said: str, **more: Any) -> str:
    row = {"benchmark": "gsm8k", "subset": "test", "question_id": str(number), "repeat": 0, "correct": correct}
    return json.dumps({**row, "answer": said, "finish_reason": "stop", "error": None, **more}) + "\n"


def hostile(given: Given) -> Given:
    """An index in which every text of a release, an answer and a failure is HOSTILE, with some rows in a file."""

    def change(plain: dict[str, Any]) -> None:
        plain["model"]["title"] = plain["chip"]["device"]["name"] = HOSTILE
        plain["accuracy"]["benchmarks"][0] |= {"benchmark": HOSTILE, "reason": HOSTILE, "metric": HOSTILE}
        plain["accuracy"]["token_gate"] = {"reason": HOSTILE, "verdict": None}
        plain["image"]["versions"][HOSTILE] = HOSTILE
        plain["kernels"]["operators"] = [{"name": HOSTILE}]
        plain["smoke"]["checks"][0]["name"] = HOSTILE
        plain["lineage"] = {"revision": 2, "reason": HOSTILE, "parent": HOSTILE, "parent_yanked": HOSTILE}

    evidence = given.release("a/b", "tag-1", change) / "evidence/accuracy"
    evidence.mkdir(parents=True)
    for name in ("accuracy_baseline.samples.jsonl", "accuracy_samples.jsonl"):
        (evidence / name).write_text(answer(1, True, HOSTILE, benchmark=HOSTILE, subset=HOSTILE, error=HOSTILE))
    given.fail("a/b", HOSTILE, why=HOSTILE)
    for number in range(120):  # so that some rows are in a file
        given.fail(f"a/m{number}", HOSTILE)
    given.fail("../../../tmp/x", "out of the folder")
    given.fail("a/<b>", "not a name")
    given.build({"a/b": ""})
    return given
