"""The map of modules names all of them and no other; links of the pages lead to files."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pipeline" / "flagrelease"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_map_of_modules_is_whole() -> None:
    told = (ROOT / "docs/architecture.md").read_text().partition("## Modules of flagrelease")[2]
    mapped = re.findall(r"`(\w+/?)`", told)
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    folders = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    assert set(mapped) - {"flagkernels"} == modules | folders
    assert len(mapped) == len(set(mapped)), "a module is for one thing"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", prose):
        assert (page.parent / target).exists(), f"{page.name}: {target}"
