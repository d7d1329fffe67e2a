"""The graph of imports of a package, read from its syntax: type-only, lazy and importlib's imports count as well."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "pipeline"


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Modules by dotted name, a package by the name of its folder."""

    modules: Mapping[str, Path]
    edges: Mapping[str, Mapping[str, frozenset[str]]]
    """Module, the modules of the same package that it imports, and the names that it takes from each."""
    libraries: Mapping[str, frozenset[str]]
    """Module, and the top-level names of all else that it imports."""

    def reach(self, start: str, *, stop: Collection[str] = ()) -> dict[str, tuple[str, ...]]:
        """All that a module imports, however far, each with the shortest way to it from `start`. What the modules of
        `stop` import is left out."""
        found: dict[str, tuple[str, ...]] = {start: (start,)}
        queue = [start]
        for module in queue:
            for target in sorted(self.edges[module]) if module not in stop else ():
                if target not in found:
                    found[target] = (*found[module], target)
                    queue.append(target)
        return found

    def circles(self) -> list[frozenset[str]]:
        """The modules that import one another, however far apart (strongly connected components)."""
        return circles({module: set(targets) for module, targets in self.edges.items()})

    def shown(self, circle: Iterable[str]) -> str:
        """The edges inside a circle, a line each, with the names that make it."""
        inside = set(circle)
        return "\n".join(
            f"{module} -> {target}: {', '.join(sorted(self.edges[module][target]))}"
            for module in sorted(inside)
            for target in sorted(inside & set(self.edges[module]))
        )


def circles(edges: Mapping[str, set[str]]) -> list[frozenset[str]]:
    """Strongly connected components of more than one node, sorted."""
    reach: dict[str, set[str]] = {}
    for start in edges:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for target in edges.get(todo.pop(), set()) - seen:
                seen.add(target)
                todo.append(target)
        reach[start] = seen
    found = {frozenset(other for other in reach[one] if one in reach[other]) for one in edges}
    return sorted((one for one in found if len(one) > 1), key=sorted)


def longest_chain(edges: Mapping[str, set[str]]) -> list[str]:
    """The longest path of a graph without circles."""
    best: dict[str, list[str]] = {}

    def below(node: str) -> list[str]:
        if node not in best:
            best[node] = [node, *max((below(one) for one in edges.get(node, ())), key=len, default=[])]
        return best[node]

    return max((below(node) for node in edges), key=len, default=[])


def graph(package: str, source: Path = SOURCE) -> Graph:
    """Read every file of a package below `source`."""
    modules = {_name(path, source): path for path in sorted((source / package).rglob("*.py"))}
    edges: dict[str, dict[str, frozenset[str]]] = {}
    libraries: dict[str, frozenset[str]] = {}
    for module, path in modules.items():
        own: dict[str, set[str]] = defaultdict(set)
        others: set[str] = set()
        for target, name in _imports(ast.parse(path.read_text()), module, path):
            if target.partition(".")[0] != package:
                others.add(target.partition(".")[0])
            elif f"{target}.{name}" in modules:
                own[f"{target}.{name}"].add(name)
            elif name.endswith("*"):
                for one in modules:
                    if one.startswith(f"{target}."):
                        own[one].add(name)
            else:
                own[target].add(name)
        own.pop(module, None)
        edges[module] = {target: frozenset(names) for target, names in own.items()}
        libraries[module] = frozenset(others)
    return Graph(modules=modules, edges=edges, libraries=libraries)


def _name(path: Path, source: Path) -> str:
    return ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")


def _imports(tree: ast.Module, module: str, path: Path) -> Iterator[tuple[str, str]]:
    """Module and name of every import, anywhere in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: None if path.name == "__init__.py" else -1]
            base = ".".join(above[: len(above) - node.level + 1]) if node.level else ""
            for alias in node.names:
                yield ".".join(part for part in (base, node.module) if part), alias.name
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            yield from _by_name(node.args[0])


def _by_name(argument: ast.expr) -> Iterator[tuple[str, str]]:
    """What importlib is asked for: a module, or any in a folder where the end is put in at run time."""
    match argument:
        case ast.Constant(value=str(name)):
            yield name, ""
        case ast.JoinedStr(values=[ast.Constant(value=str(start)), *_]) if start.endswith("."):
            yield start.rstrip("."), "import_module(*"
