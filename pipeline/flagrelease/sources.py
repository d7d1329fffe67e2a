"""Which source files a stage's result depends on: what its module imports, and what that imports."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent

# These carry results from stage to stage, show them, or hand over what a server said. They do not make a
# result, so that mending them makes no stage run again; a defect in them fails loudly.
SHARED = frozenset(
    {"cell", "display", "errors", "evidence", "hold", "ledger", "lock", "matrix", "redact", "results", "sources"}
    | {
        "board",
        "context",
        "history",
        "job",
        "outcome",
        "ports/meter",
        "stage",
        "strict",
        "tables",
        "workspace",
        "ports/clock",
        "ports/command",
        "ports/credentials",
    }
    | {"files", "ports/docker", "ports/docker_errors", "ports/evalscope_program", "ports/progress", "ports/registry"}
    | {"ports/runner", "ports/wire"}
)

_IMPORT = re.compile(r"^\s*from (flagrelease[.\w]*) import (\([^)]*\)|[^\n]*)", re.MULTILINE)


@cache
def of_stage(name: str) -> tuple[Path, ...]:
    """The files of `stages/NAME.py` and of everything that it imports of flagrelease, sorted; SHARED is left out."""
    seen: set[str] = set()
    todo = [f"stages/{name}"]
    while todo:
        module = todo.pop()
        if module not in seen and module not in SHARED and _file(module) is not None:
            seen.add(module)
            todo += _imports(module)
    return tuple(sorted(path for module in seen if (path := _file(module)) is not None))


@cache
def _imports(module: str) -> tuple[str, ...]:
    """The modules that a module imports, anywhere in it."""
    path = _file(module)
    text = path.read_text() if path is not None else ""
    found = []
    for parent, names in _IMPORT.findall(text):
        base = parent.replace(".", "/").removeprefix("flagrelease").lstrip("/")
        for name in re.findall(r"\w+", re.sub(r"#[^\n]*|\bas \w+", "", names)):
            inner = f"{base}/{name}".lstrip("/")
            found.append(inner if _file(inner) is not None else base)
    return tuple(found)


def _file(module: str) -> Path | None:
    for path in (PACKAGE / f"{module}.py", PACKAGE / module / "__init__.py"):
        if module and path.is_file():
            return path
    return None
