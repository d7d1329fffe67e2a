"""The layers hold: who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "pipeline"
HOST = sorted((SOURCE / "flagrelease").rglob("*.py"))
CHIP = sorted((SOURCE / "flagkernels").rglob("*.py"))
CHIP_LIBRARIES = {"torch", "triton", "flag_gems"}
ADAPTERS = ("ports/", "evaluation/harnesses/", "stages/speed/load_", "packaging/payload/")
"""Where the outside world is spoken to: ports, harnesses and load generators. The payload runs inside images."""


def imports(path: Path) -> set[str]:
    """Top-level names of everything that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", HOST, ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_host_side(path: Path) -> None:
    if path != SOURCE / "flagrelease/run/executors/prefect_flow.py":
        assert "prefect" not in roots(path)
    assert not CHIP_LIBRARIES & roots(path)
    assert "flagkernels" not in roots(path)
    if not path.relative_to(SOURCE / "flagrelease").as_posix().startswith(ADAPTERS):
        assert not {"docker", "httpx", "requests", "modelscope_hub"} & roots(path), "the outside world is in ports/"
        assert "subprocess" not in roots(path), "ports/command.py is the one door for subprocesses"


@pytest.mark.parametrize("path", CHIP, ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_chip_side_knows_nothing_of_the_host_side(path: Path) -> None:
    assert "flagrelease" not in roots(path)


@pytest.mark.parametrize("words", [["--help"], ["plan", "--help"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys\nfrom flagrelease.cli.app import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'prefect', 'docker', 'httpx', 'numpy', 'scipy', 'matplotlib', 'rich', 'jinja2', 'modelscope_hub'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=SOURCE)
    assert done.stderr.strip() == "[]"
