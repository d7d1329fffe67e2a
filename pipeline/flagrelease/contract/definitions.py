"""Analyse the top-level definitions of a Python file: their structure and the names they refer to.

An analysis depends only on the file's bytes, so that it can be cached by their sha256. `reach` resolves names across
files.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

MAIN = "if __main__"
"""The name of the block that runs only if the module is started as a program."""
SLOT = "\0"
"""Placeholder of a reference in a definition's text, which is otherwise ASCII without control characters."""

_SKIPPED_FIELDS = frozenset({"ctx", "type_comment", "kind", "type_ignores"})
_MAY_NAME_A_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+|[\w./-]+\.py", re.ASCII)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_EFFECTS = (ast.Expr, ast.Assert, ast.Raise, ast.Delete)
_NO_DEFINITIONS = frozenset({"__all__"})

Scope = Mapping[str, tuple[str, ...] | None]
"""The names bound in a function: by name the paths imported from, or None for a variable."""


class Ref(msgspec.Struct, array_like=True, frozen=True):
    """A reference: a name with its attributes, or a string that may name a module."""

    origins: tuple[str, ...]
    """Dotted paths that the name was imported from; "" for the same file; empty for a string."""
    path: tuple[str, ...]
    """The name and its attributes, or the string."""


class Definition(msgspec.Struct, array_like=True, frozen=True):
    """A definition, independent of its formatting and of its file."""

    text: str
    """Its structure, with a SLOT for each reference."""
    refs: tuple[Ref, ...] = ()
    """The references, in order."""


class Analysis(msgspec.Struct, array_like=True, frozen=True):
    """The analysis of one file."""

    definitions: dict[str, Definition]
    """By name."""
    imports: dict[str, tuple[str, ...]]
    """By name, the dotted paths it may be imported from."""
    rest: Definition
    """Statements without a definition: they count together with every definition of the file."""


def analyse(source: bytes, packages: Iterable[str]) -> Analysis:
    """Analyse a file. A decorator from one of `packages` may register the decorated object, which then always counts.
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
        """The origins of a name in module scope; empty for a builtin."""
        own = ("",) if name in self._nodes else ()
        origins = (*own, *self._imports.get(name, ()))
        return origins or tuple(f"{star}.{name}" for star in self._stars)

    def _sort(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            self._import(node)
        elif isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            self._nodes.setdefault(node.name, []).append(node)
            if any(map(self._registers, node.decorator_list)):
                self._registered.append(node.name)
        elif isinstance(node, ast.If) and _is_main(node.test):
            self._nodes.setdefault(MAIN, []).append(node)
        elif not _is_docstring(node) and not isinstance(node, ast.Pass):
            self._sort_other(node)

    def _sort_other(self, node: ast.stmt) -> None:
        """Assign other statements to all names that they bind, at any depth."""
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
    """Serialise syntax trees as text that does not depend on the Python version, and collect references."""

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
                self._fields(node, leave=("body",))  # evaluated in the enclosing scope
                self._within(_bound_by(node.args, body), lambda: self.body(body))
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                self._node(node.generators[0].iter)  # evaluated in the enclosing scope
                targets: dict[str, tuple[str, ...] | None] = {}
                for generator in node.generators:
                    for part in ast.walk(generator.target):
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
        """Write `a.b.c` as one reference if `a` is a name of the module or imported."""
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
        """Join adjacent text of an f-string: Python versions split it differently."""
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
    """Whether `node` does more than bind names."""
    if isinstance(node, ast.Attribute | ast.Subscript):
        return isinstance(node.ctx, ast.Store)
    return isinstance(node, _EFFECTS) and not _is_docstring(node)


def _own_scope(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All nodes of one scope: none inside functions, classes and lambdas, and only the walruses of comprehensions."""
    todo = list(nodes)
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, _COMPREHENSIONS):
            todo += [part for part in ast.walk(node) if isinstance(part, ast.NamedExpr)]
        elif not isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.Lambda)):
            todo += ast.iter_child_nodes(node)


def _bind(node: ast.AST, bound: dict[str, tuple[str, ...] | None]) -> None:
    """Add the names that `node` itself binds. A name that is also imported keeps its import paths."""
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
    for name in filter(None, names):
        bound.setdefault(name, None)


def _bound_by(arguments: ast.arguments, body: Sequence[ast.AST]) -> dict[str, tuple[str, ...] | None]:
    """The names bound in a function: parameters and, unless global or nonlocal, assigned names."""
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
    """Each name that an import binds, with its dotted path."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield (alias.asname, alias.name) if alias.asname else (alias.name.split(".")[0], alias.name.split(".")[0])
        return
    base = "." * node.level + (node.module or "")
    for alias in node.names:
        origin = base if alias.name == "*" else f"{base}{'' if base.endswith('.') else '.'}{alias.name}"
        yield alias.asname or alias.name, origin
