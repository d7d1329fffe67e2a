"""Make the mutants of a module with mutmut's operators, less those that no test should notice."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
from libcst import matchers as m
from libcst.metadata import MetadataWrapper, ParentNodeProvider, PositionProvider
from mutmut.mutation.mutators import mutation_operators

EXCLUDED = {
    "annotation": "types and their aliases, `cast`, `__all__`, imports: mypy --strict checks them",
    "decorator": "arguments of decorators, such as `frozen=True`",
    "docstring": "docstrings, also those below a field",
    "text": "texts for people: a literal with a blank between words, and all literals of a raised error",
    "http": "the case of HTTP's methods and of the names of headers, which does not matter",
    "encoding": "the argument `encoding`: UTF-8 is the default of every machine that the tests run on",
}
"""The kinds of mutants that are not made, and why."""
_HTTP = re.compile(r'"(?:HEAD|GET|POST|PUT|DELETE|[A-Z][a-z]+(?:-[A-Z][a-z]+)+|Accept|Authorization|Location)"')
_PROSE = re.compile(r"[A-Za-z,:;] [A-Za-z(]|[a-z]: $|^[:,;.] ")


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A single change of a module's source."""

    id: str
    module: str
    """The module's name in the table."""
    path: str
    line: int
    last: int
    """The last line of the node that is changed."""
    start: int
    """Where the change starts in the file, in characters."""
    removed: str
    inserted: str
    scope: tuple[int, int]
    """First and last line of the function around it; zeros at module level."""

    def apply(self, source: str) -> str:
        return source[: self.start] + self.inserted + source[self.start + len(self.removed) :]


def mutants(module: str, path: str, source: str) -> list[Mutant]:
    """All mutants of a file, in the order of its text."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    wrapper = MetadataWrapper(cst.parse_module(source))
    finder = _Finder()
    wrapper.visit(finder)
    codes = [wrapper.module.code_for_node(statement) for statement in wrapper.module.body]
    base = source.index("".join(codes))
    found: dict[str, Mutant] = {}
    for change in finder.found:
        before = codes[change.statement]
        replaced = wrapper.module.body[change.statement].deep_replace(change.node, change.mutated)
        after = wrapper.module.code_for_node(replaced) if isinstance(replaced, cst.CSTNode) else before
        if after == before or not _compiles(after):
            continue
        same = _common(before, after)
        tail = _common(before[same:][::-1], after[same:][::-1])
        removed, inserted = before[same : len(before) - tail], after[same : len(after) - tail]
        start = base + sum(map(len, codes[: change.statement])) + same
        identity = hashlib.sha256(f"{path} {digest} {start} {removed} > {inserted}".encode()).hexdigest()[:16]
        line = source.count("\n", 0, start) + 1
        found[identity] = Mutant(
            id=identity,
            module=module,
            path=path,
            line=line,
            last=max(change.last, line),
            start=start,
            removed=removed,
            inserted=inserted,
            scope=change.scope,
        )
    return sorted(found.values(), key=lambda mutant: (mutant.start, mutant.inserted))


def _common(one: str, other: str) -> int:
    """The length of the beginning that two texts share."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


def _compiles(text: str) -> bool:
    try:
        compile(text, "mutant", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class _Change:
    statement: int
    """Index of the module's statement that holds the node."""
    node: cst.CSTNode
    mutated: cst.CSTNode
    last: int
    scope: tuple[int, int]


class _Finder(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider, ParentNodeProvider)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[_Change] = []
        self._statement = -1
        self._scopes: list[tuple[int, int]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        parent = self.get_metadata(ParentNodeProvider, node, None)
        self._statement += isinstance(parent, cst.Module) and isinstance(
            node, cst.SimpleStatementLine | cst.BaseCompoundStatement
        )
        if isinstance(node, cst.FunctionDef):
            where = self.get_metadata(PositionProvider, node)
            self._scopes.append((where.start.line, where.end.line))
        if self._is_excluded(node):
            return False
        scope = self._scopes[-1] if self._scopes else (0, 0)
        for kind, operator in mutation_operators:
            if isinstance(node, kind):
                for mutated in operator(node):
                    if not _is_noise(node, mutated):
                        self._add(node, mutated, scope)
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if isinstance(original_node, cst.FunctionDef):
            self._scopes.pop()

    def _add(self, node: cst.CSTNode, mutated: cst.CSTNode, scope: tuple[int, int]) -> None:
        self.found.append(
            _Change(statement=self._statement, node=node, mutated=mutated, last=self._last_line(node), scope=scope)
        )

    def _last_line(self, node: cst.CSTNode | None) -> int:
        """Operators have no position of their own."""
        while node is not None:
            where = self.get_metadata(PositionProvider, node, None)
            if where is not None:
                return int(where.end.line)
            node = self.get_metadata(ParentNodeProvider, node, None)
        return 0

    def _is_excluded(self, node: cst.CSTNode) -> bool:
        match node:
            case cst.Annotation() | cst.Decorator() | cst.Import() | cst.ImportFrom() | cst.TypeAlias():
                return True
            case cst.Expr(value=cst.SimpleString() | cst.ConcatenatedString()):
                return True
            case cst.If(test=cst.Name(value="TYPE_CHECKING")):
                return True
            case cst.Assign(targets=[cst.AssignTarget(target=cst.Name(value="__all__"))]):
                return True
            case cst.Assign(value=value):
                return not self._scopes and _is_alias(value)
            case cst.Call(func=cst.Name(value="cast" | "TypeVar")):
                return True
            case cst.Arg(keyword=cst.Name(value="encoding")):
                return True
            case cst.SimpleString():
                return bool(_PROSE.search(node.value)) or self._is_raised(node)
        return False

    def _is_raised(self, node: cst.CSTNode) -> bool:
        above: cst.CSTNode | None = node
        while above is not None and not isinstance(above, cst.BaseSmallStatement | cst.BaseCompoundStatement):
            above = self.get_metadata(ParentNodeProvider, above, None)
        return isinstance(above, cst.Raise)


def _is_alias(value: cst.BaseExpression) -> bool:
    """Whether a value at module level is a type: `Literal[…]`, `int | str`, `Callable[[int], str]`."""
    part = m.Name() | m.Subscript() | m.Attribute()
    union = m.BinaryOperation(left=part | m.BinaryOperation(operator=m.BitOr()), operator=m.BitOr(), right=part)
    return m.matches(value, m.Subscript() | union)


def _is_noise(node: cst.CSTNode, mutated: cst.CSTNode) -> bool:
    """Whether a mutant removes or changes what an excluded part says: an `encoding`, the texts of an error."""
    if isinstance(node, cst.SimpleString) and isinstance(mutated, cst.SimpleString) and _HTTP.fullmatch(node.value):
        return node.value.lower() == mutated.value.lower()
    if not isinstance(node, cst.Call) or not isinstance(mutated, cst.Call):
        return False
    before = set(_arguments(node))
    lost = before - set(_arguments(mutated))
    return any(re.match(r"(encoding|why|hint|what) ?=", code) or _PROSE.search(code) for code in lost)


def _arguments(call: cst.Call) -> Iterator[str]:
    empty = cst.Module([])
    for argument in call.args:
        yield empty.code_for_node(argument.with_changes(comma=cst.MaybeSentinel.DEFAULT)).strip()


def files(root: Path, module: str) -> list[str]:
    """The files of a named module: a folder's, or the one of that name."""
    base = root / "pipeline/flagrelease" / module
    found = sorted(base.rglob("*.py")) if base.is_dir() else [base.with_suffix(".py")]
    return [str(path.relative_to(root)) for path in found]
