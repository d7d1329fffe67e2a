"""No circle of imports, imports between rooms go down only, and decisions reach no effects. Type-only imports count."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import import_graph
from support.import_graph import Graph

MOST_MODULES = 15
"""In one folder, `__init__` left out."""

MOST_FLOORS = 12


@dataclass(frozen=True)
class Room:
    """A folder of the package, or `files` of its root."""

    name: str
    files: tuple[str, ...] = ()


# Bottom to top: a room imports only rooms before it.
ROOMS: dict[str, tuple[Room, ...]] = {
    "flagrelease": (
        Room("ground", ("errors", "redact")),
        Room("store"),
        Room("config"),
        Room("verdict"),
        Room("releases"),
        Room("recipe"),
        Room("ports"),
        Room("contract"),
        Room("serving"),
        Room("packaging"),
        Room("evaluation"),
        Room("stages"),
        Room("verification"),
        Room("run"),
        Room("rehearsal"),
        Room("watching"),
        Room("site"),
        Room("cli"),
    ),
    "flagkernels": (
        Room("ground", ("errors", "arguments", "files", "digests", "progress", "vendors")),
        Room("operators"),
        Room("model"),
        Room("qualify"),
        Room("tuning"),
        Room("measure"),
        Room("bundle"),
        Room("attribute"),
        Room("engine"),
        Room("prepare", ("prepare",)),
        Room("cli", ("cli", "__main__")),
    ),
}
MOST_ROOT_FILES = {"flagrelease": 5, "flagkernels": 10}

PURE = (
    "flagrelease.config.strict_yaml",
    "flagrelease.config.matrix",
    "flagrelease.config.lockfile",
    "flagrelease.config.cell",
    "flagrelease.verdict",
    "flagrelease.releases",
    "flagrelease.config.engines",
    "flagrelease.config.sources",
    "flagrelease.config.vendors",
    "flagrelease.config.waivers",
    "flagrelease.recipe.image_paths",
    "flagrelease.recipe.container",
    "flagrelease.recipe.engine_config",
    "flagrelease.recipe.user_commands",
    "flagrelease.contract.job",
    "flagrelease.contract.results",
    "flagrelease.evaluation.question",
    "flagrelease.evaluation.chat",
    "flagrelease.evaluation.spec",
    "flagrelease.stages.card.record",
    "flagrelease.stages.card.render",
    "flagrelease.stages.card.speed_section",
    "flagrelease.stages.card.lint",
    "flagrelease.stages.card.checks.page",
    "flagrelease.stages.card.markdown",
    "flagrelease.stages.card.operators_section",
    "flagrelease.stages.kernels.attribution_text",
    "flagrelease.verification.findings",
    "flagrelease.verification.values",
    "flagrelease.run.remedy",
    "flagrelease.run.plan",
    "flagrelease.run.outcome",
)
"""Modules, or folders of them, that decide and have no effect but on files."""

HANDED_OVER = frozenset({"flagrelease.contract.context"})
"""Gives the ports to a stage while it runs. To name a stage, as a plan does, is not to run it: the way ends here."""

EFFECTS = frozenset({"asyncio", "docker", "httpx", "modelscope_hub", "prefect", "requests", "socket", "subprocess"})

GRAPHS = {name: import_graph.graph(name) for name in ROOMS}
both = pytest.mark.parametrize("package", ROOMS)


def room_of(package: str, graph: Graph, module: str) -> str | None:
    """The room of a module; None for the package itself."""
    parts = graph.modules[module].relative_to(import_graph.SOURCE / package).with_suffix("").parts
    names = {room.name for room in ROOMS[package] if not room.files}
    if len(parts) > 1:
        assert parts[0] in names, f"{module} is in no room of the table"
        return parts[0]
    if parts[0] == "__init__":
        return None
    found = [room.name for room in ROOMS[package] if parts[0] in room.files]
    assert found, f"{module} is at the root and in no room of the table"
    return found[0]


def between_rooms(package: str) -> dict[str, dict[str, list[str]]]:
    """Room, the rooms that it imports, and the imports that make it so."""
    graph = GRAPHS[package]
    found: dict[str, dict[str, list[str]]] = {room.name: {} for room in ROOMS[package]}
    for module, targets in graph.edges.items():
        for target, names in targets.items():
            here, there = room_of(package, graph, module), room_of(package, graph, target)
            if here and there and here != there:
                found[here].setdefault(there, []).append(f"{module} -> {target}: {', '.join(sorted(names))}")
    return found


@both
def test_no_circle_of_files(package: str) -> None:
    graph = GRAPHS[package]
    assert not graph.circles(), "circles of imports:\n" + "\n\n".join(map(graph.shown, graph.circles()))


@both
def test_rooms_import_only_those_below(package: str) -> None:
    order = [room.name for room in ROOMS[package]]
    up = [
        line
        for here, theirs in between_rooms(package).items()
        for there, lines in theirs.items()
        if order.index(there) > order.index(here)
        for line in lines
    ]
    assert not up, "imports that go up:\n" + "\n".join(up)


@both
def test_no_circle_and_no_tower_of_rooms(package: str) -> None:
    edges = {here: set(theirs) for here, theirs in between_rooms(package).items()}
    assert not import_graph.circles(edges)
    chain = import_graph.longest_chain(edges)
    assert len(chain) <= MOST_FLOORS, " > ".join(chain)


@both
def test_no_drawer_of_files(package: str) -> None:
    root = import_graph.SOURCE / package
    count = Counter(path.parent for path in root.rglob("*.py") if path.name != "__init__.py" or path.parent == root)
    at_root = count.pop(root)
    count.pop(root / "cli/commands", None)  # one module per verb
    assert at_root <= MOST_ROOT_FILES[package]
    assert not {str(folder.relative_to(root)): most for folder, most in count.items() if most > MOST_MODULES}
    folders = {path.parent.relative_to(root).parts[0] for path in root.rglob("*.py") if path.parent != root}
    assert folders == {room.name for room in ROOMS[package] if not room.files}, "the table has every room"


@pytest.mark.parametrize("name", PURE)
def test_decisions_are_apart_from_effects(name: str) -> None:
    graph = GRAPHS["flagrelease"]
    pure = [module for module in graph.modules if module == name or module.startswith(f"{name}.")]
    assert pure, f"{name} is gone; take it out of PURE"
    reached = {}
    for module in pure:
        for target, way in graph.reach(module, stop=HANDED_OVER).items():
            if target.startswith("flagrelease.ports.") or graph.libraries[target] & EFFECTS:
                reached[target] = " > ".join(way)
    assert not reached, "ways from a decision to an effect:\n" + "\n".join(reached.values())


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("from p.b import NAME", "p.b"),
        ("from p import b", "p.b"),
        ("import p.b", "p.b"),
        ("from .b import NAME", "p.b"),
        ("from . import b", "p.b"),
        ("from p.c import d", "p.c.d"),
        ("from p.c import NAME", "p.c"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.b import NAME", "p.b"),
        ("def late():\n    from p.b import NAME", "p.b"),
        ("import importlib\nimportlib.import_module('p.b')", "p.b"),
        ("import importlib\ndef late(name):\n    importlib.import_module(f'p.c.{name}')", "p.c.d"),
    ],
)
def test_every_kind_of_import_closes_a_circle(tmp_path: Path, text: str, target: str) -> None:
    for name in ("__init__", "a", "b", "c/__init__", "c/d"):
        path = tmp_path / "p" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (tmp_path / "p/a.py").write_text(text)
    back = tmp_path / "p" / f"{target.removeprefix('p.').replace('.', '/')}.py"
    (back if back.exists() else back.with_suffix("") / "__init__.py").write_text("from p.a import late")
    graph = import_graph.graph("p", tmp_path)
    assert graph.circles() == [{"p.a", target}]
    assert f"{target} -> p.a: late" in graph.shown(graph.circles()[0])


def test_a_circle_of_three_is_found_and_a_chain_is_measured() -> None:
    assert import_graph.circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]
    assert import_graph.longest_chain({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == ["a", "b", "c"]
