"""The map of rooms names every module and no other; links of the pages lead to files."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("package", ["flagrelease", "flagkernels"])
def test_the_map_of_rooms_is_complete(package: str) -> None:
    section = (ROOT / "docs/architecture.md").read_text().partition(f"## Rooms of {package}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"(?m)^\| `([\w/.]+/)` \| .+ \| (.*) \|$", section)
    mapped = {room: set(re.findall(r"`(\w+)`", modules)) for room, modules in rows}
    assert len(mapped) == len(rows), "a room has one row"
    root, found = ROOT / "pipeline" / package, {}
    for path in root.rglob("*.py"):
        room = f"{path.parent.relative_to(root)}/"
        found.setdefault(room, set()).update({path.stem} - {"__init__"})
    assert mapped == found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", prose):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_modules_that_are_named_exist(page: Path) -> None:
    bases = (ROOT, *(ROOT / name for name in ("pipeline/flagrelease", "pipeline/flagkernels", "docs", "benchmarks")))
    named = {name for name in re.findall(r"`([\w/]+/\w+\.py)`", page.read_text()) if "NAME" not in name}
    assert not {name for name in named if not any((base / name).exists() for base in bases)}


def test_the_tests_that_faults_name_exist() -> None:
    page = (ROOT / "docs/faults.md").read_text()
    named = re.findall(r"\b((?:unit|integration|faults|e2e)/[\w/]+\.py)(?:::(\w+))?", page)
    assert named
    for path, test in named:
        assert (ROOT / "tests" / path).is_file(), path
        assert not test or f"def {test}(" in (ROOT / "tests" / path).read_text(), f"{path}::{test}"


def test_every_system_that_a_card_names_has_a_row_and_its_checks_exist() -> None:
    section = (ROOT / "docs/card.md").read_text().partition("## How a release proves each system")[2]
    rows = dict(re.findall(r"(?m)^\| (\w+) \| (.+) \|$", section.partition("\n## ")[0]))
    systems = {"FlagScale", "FlagGems", "FlagCX", "FlagTree", "FlagEval", "ModelScope", "Harbor", "AnythingLLM"}
    assert rows.keys() - {"System"} == systems
    code = "".join(path.read_text() for path in (ROOT / "pipeline/flagrelease/stages/smoke").glob("*_checks.py"))
    named = re.findall(r"`(FlagScale in effect|manifest|operators \w+(?: \w+)?|no \w+)`", "".join(rows.values()))
    assert len(named) > 4
    assert not [name for name in named if f'yield "{name}"' not in code]
