"""Top-level definitions of Python files, as they are whatever file they stand in: their structure and what they name.

An analysis follows from a file's bytes alone, so that it can be kept by their sha256. What the names of several files
mean together is in `reach`.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

MAIN = "if __main__"
"""The name of the guarded block that runs only where a module is started as a program."""
SLOT = "\0"
"""Where a reference stands in a definition's text. Text itself is ASCII without control characters."""

_SKIPPED_FIELDS = frozenset({"ctx", "type_comment", "kind", "type_ignores"})
_MAY_NAME_A_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+|[\w./-]+\.py", re.ASCII)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_EFFECTS = (ast.Expr, ast.Assert, ast.Raise, ast.Delete)
_NO_DEFINITIONS = frozenset({"__all__"})

Scope = Mapping[str, tuple[str, ...] | None]
"""Names that a function binds: what they were imported from, or None for a variable."""


class Ref(msgspec.Struct, array_like=True, frozen=True):
    """A name with the attributes after it, or a string that may name a module."""

    origins: tuple[str, ...]
    """Dotted paths that the name was imported from; "" for this very file; none for a string."""
    path: tuple[str, ...]
    """The name and its attributes; or the string."""


class Definition(msgspec.Struct, array_like=True, frozen=True):
    """The structure of a definition with a SLOT for each reference."""

    text: str
    refs: tuple[Ref, ...] = ()


class Analysis(msgspec.Struct, array_like=True, frozen=True):
    """One file."""

    definitions: dict[str, Definition]
    imports: dict[str, tuple[str, ...]]
    rest: Definition
    """Statements that define nothing: they count with any definition of the file."""


def analyse(source: bytes, packages: Iterable[str]) -> Analysis:
    """Take a file apart. A decorator from one of `packages` may register what it decorates, which then always counts.
    Raises SyntaxError."""
    return _Module(ast.parse(source), frozenset(packages)).analysis()


class _Module:
    def __init__(self, tree: ast.Module, packages: frozenset[str]) -> None:
        self._packages = packages
        self._imports: dict[str, tuple[str, ...]] = {}
        self._stars: tuple[str, ...] = ()
        self._nodes: dict[str, list[ast.stmt]] = {}
        self._rest: list[ast.stmt] = []
        self._registered: list[str] = []
        for statement in tree.body:
            self._sort(statement)

    def analysis(self) -> Analysis:
        rest = _Writer(self)
        rest.body(self._rest)
        for name in self._registered:
            rest.reference(("",), (name,))
        return Analysis(
            definitions={name: self._written(nodes) for name, nodes in self._nodes.items()},
            imports=self._imports,
            rest=rest.written(),
        )

    def _written(self, nodes: Sequence[ast.stmt]) -> Definition:
        writer = _Writer(self)
        writer.body(nodes)
        return writer.written()

    def origins(self, name: str) -> tuple[str, ...]:
        """What a name of the module's own scope may be; nothing for a builtin."""
        own = ("",) if name in self._nodes else ()
        found = (*own, *self._imports.get(name, ()))
        return found or tuple(f"{star}.{name}" for star in self._stars)

    def _sort(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            self._import(node)
        elif isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            self._nodes.setdefault(node.name, []).append(node)
            if any(self._registers(one) for one in node.decorator_list):
                self._registered.append(node.name)
        elif isinstance(node, ast.If) and _is_main(node.test):
            self._nodes.setdefault(MAIN, []).append(node)
        elif not _is_docstring(node) and not isinstance(node, ast.Pass):
            self._sort_other(node)

    def _sort_other(self, node: ast.stmt) -> None:
        """Assignments, blocks and expressions: by the names that they bind, wherever in them."""
        bound: dict[str, tuple[str, ...] | None] = {}
        for part in _own_scope([node]):
            if isinstance(part, ast.Import | ast.ImportFrom):
                self._import(part)
            else:
                _bind(part, bound)
        for name in sorted(bound.keys() - _NO_DEFINITIONS):
            self._nodes.setdefault(name, []).append(node)
        if any(map(_acts, _own_scope([node]))):
            self._rest.append(node)

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        for name, origin in _imported(node):
            if name == "*":
                self._stars += (origin,)
            elif origin not in self._imports.get(name, ()):
                self._imports[name] = (*self._imports.get(name, ()), origin)

    def _registers(self, decorator: ast.expr) -> bool:
        node = decorator.func if isinstance(decorator, ast.Call) else decorator
        while isinstance(node, ast.Attribute):
            node = node.value
        if not isinstance(node, ast.Name):
            return True
        origins = self._imports.get(node.id)
        if origins is None:
            return not hasattr(builtins, node.id)
        return any(origin.startswith(".") or origin.split(".")[0] in self._packages for origin in origins)


class _Writer:
    """Writes syntax trees as text that does not depend on the Python version, and collects references."""

    def __init__(self, module: _Module) -> None:
        self._module = module
        self._out: list[str] = []
        self._refs: list[Ref] = []
        self._scope: Scope = {}

    def written(self) -> Definition:
        return Definition(text="".join(self._out), refs=tuple(self._refs))

    def reference(self, origins: tuple[str, ...], path: tuple[str, ...]) -> None:
        self._out.append(SLOT)
        self._refs.append(Ref(origins=origins, path=path))

    def body(self, nodes: Sequence[ast.AST]) -> None:
        for node in nodes:
            if not isinstance(node, ast.Import | ast.ImportFrom) and not _is_docstring(node):
                self._node(node)
                self._out.append(";")

    def _value(self, value: object) -> None:
        if isinstance(value, ast.AST):
            self._node(value)
        elif isinstance(value, list):
            for item in value:
                if item is None:
                    self._out.append("-")
                elif not isinstance(item, ast.AST):
                    self._out.append(f"{item},")
                else:
                    self.body([item])
        else:
            self._out.append(ascii(value))

    def _node(self, node: ast.AST) -> None:
        match node:
            case ast.Name() | ast.Attribute():
                self._chain(node)
            case ast.Constant():
                self._constant(node.value)
            case ast.JoinedStr():
                self._joined(node)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                body = node.body if isinstance(node.body, list) else [node.body]
                self._fields(node, leave=("body",))  # in the scope outside, as Python does it
                self._within(_bound_by(node.args, body), lambda: self.body(body))
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                self._node(node.generators[0].iter)  # the same
                targets: dict[str, tuple[str, ...] | None] = {}
                for one in node.generators:
                    for part in ast.walk(one.target):
                        _bind(part, targets)
                self._within(targets, lambda: self._fields(node))
            case _:
                self._fields(node)

    def _fields(self, node: ast.AST, leave: Sequence[str] = ()) -> None:
        self._out.append(f"({type(node).__name__}")
        for name in node._fields:
            value = getattr(node, name, None)
            if value is not None and value != [] and name not in _SKIPPED_FIELDS and name not in leave:
                self._out.append(f" {name}=")
                self._value(value)
        self._out.append(")")

    def _within(self, bound: Mapping[str, tuple[str, ...] | None], write: Callable[[], None]) -> None:
        outer, self._scope = self._scope, {**self._scope, **bound}
        write()
        self._scope = outer

    def _chain(self, node: ast.Name | ast.Attribute) -> None:
        """`a.b.c` as one reference where `a` is of the module's scope or imported."""
        attributes: list[str] = []
        root: ast.expr = node
        while isinstance(root, ast.Attribute):
            attributes.append(root.attr)
            root = root.value
        if not isinstance(root, ast.Name):
            self._out.append("(.")
            self._node(root)
            self._out.append(f" {'.'.join(reversed(attributes))})")
            return
        path = (root.id, *reversed(attributes))
        origins: tuple[str, ...] = ()
        if isinstance(root.ctx, ast.Load):
            local = self._scope.get(root.id, ()) if root.id in self._scope else self._module.origins(root.id)
            origins = local or ()
        if origins:
            self.reference(origins, path)
        else:
            self._out.append(f"<{'.'.join(path)}>")

    def _constant(self, value: object) -> None:
        if isinstance(value, str) and _MAY_NAME_A_MODULE.fullmatch(value):
            self.reference((), (value,))
        else:
            self._out.append(f"{type(value).__name__}:{value!a};")

    def _joined(self, node: ast.JoinedStr) -> None:
        """Pythons differ in how they part the text of an f-string, so neighbours are joined."""
        text = ""
        self._out.append("(f")
        for part in node.values:
            if isinstance(part, ast.Constant):
                text += str(part.value)
                continue
            self._out.append(ascii(text))
            text = ""
            self._node(part)
        self._out.append(f"{text!a})")


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_main(test: ast.expr) -> bool:
    return isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and test.left.id == "__name__"


def _acts(node: ast.AST) -> bool:
    """Whether `node` does more than to bind names."""
    if isinstance(node, ast.Attribute | ast.Subscript):
        return isinstance(node.ctx, ast.Store)
    return isinstance(node, _EFFECTS) and not _is_docstring(node)


def _own_scope(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All nodes of one scope, so none inside of functions, classes and lambdas; of comprehensions only walruses."""
    todo = list(nodes)
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, _COMPREHENSIONS):
            todo += [part for part in ast.walk(node) if isinstance(part, ast.NamedExpr)]
        elif not isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.Lambda)):
            todo += ast.iter_child_nodes(node)


def _bind(node: ast.AST, bound: dict[str, tuple[str, ...] | None]) -> None:
    """Add what `node` itself binds. A name that is imported as well stays what it was imported from."""
    names: list[str | None] = []
    match node:
        case ast.Import() | ast.ImportFrom():
            for name, origin in _imported(node):
                bound[name] = (*(bound.get(name) or ()), origin)
        case ast.Name(ctx=ast.Store() | ast.Del()):
            names = [node.id]
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            names = [node.name]
        case ast.ExceptHandler() | ast.MatchAs() | ast.MatchStar():
            names = [node.name]
        case ast.MatchMapping():
            names = [node.rest]
    for one in names:
        if one is not None:
            bound.setdefault(one, None)


def _bound_by(arguments: ast.arguments, body: Sequence[ast.AST]) -> dict[str, tuple[str, ...] | None]:
    """What a function binds: its parameters and, unless declared otherwise, all that it assigns."""
    bound: dict[str, tuple[str, ...] | None] = {}
    outer: set[str] = set()
    for node in _own_scope(body):
        _bind(node, bound)
        if isinstance(node, ast.Global | ast.Nonlocal):
            outer |= set(node.names)
    for node in ast.walk(arguments):
        if isinstance(node, ast.arg):
            bound.setdefault(node.arg, None)
    return {name: origins for name, origins in bound.items() if name not in outer}


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    """Each name that an import binds, with the dotted path that it stands for."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield (alias.asname, alias.name) if alias.asname else (alias.name.split(".")[0], alias.name.split(".")[0])
        return
    base = "." * node.level + (node.module or "")
    for alias in node.names:
        origin = base if alias.name == "*" else f"{base}{'' if base.endswith('.') else '.'}{alias.name}"
        yield alias.asname or alias.name, origin
