"""Decode YAML strictly into frozen dataclasses; errors have a file, a line and a suggestion.

YAML's implicit conversions cause errors in release matrices (`no` is a boolean, `3.10` is 3.1, a duplicate key
overrides silently), so a scalar that does not have the type of its field is an error.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, TypeVar

import yaml

from flagrelease.errors import ConfigError, did_you_mean

T = TypeVar("T")

_FORMERLY = "formerly"
_MAX_BYTES = 1 << 20
_MAX_DEPTH = 20
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclasses.dataclass(frozen=True)
class Checked:
    """Annotation of a field that is validated by a function."""

    check: Callable[[Any], object]
    """Raises ConfigError for an invalid value."""


def at_least(least: float) -> Checked:
    """Annotation of a number that is `least` or more."""
    return between(least, math.inf)


def between(least: float, most: float, *, without: tuple[float, ...] = (), why: str = "") -> Checked:
    """Annotation of a number from `least` to `most`, except the bounds in `without`; `why` is the hint."""

    def check(value: float) -> None:
        if least <= value <= most and value not in without:
            return
        lower = f"{'above' if least in without else 'at least'} {least:g}"
        upper = "" if most == math.inf else f" and {'below' if most in without else 'at most'} {most:g}"
        raise ConfigError(f"{value:g} is out of range, it must be {lower}{upper}", hint=why)

    return Checked(check)


def matching(pattern: str, rule: str, hint: str = "") -> Checked:
    """Annotation of a text that matches `pattern` completely; `rule` says in words what it must be."""

    def check(value: str) -> None:
        if not re.fullmatch(pattern, value, re.ASCII):
            raise ConfigError(f"{value!r} is not {rule}", hint=hint)

    return Checked(check)


def not_empty(value: Sized) -> None:
    """Raise ConfigError for an empty list or mapping."""
    if not value:
        raise ConfigError("it is empty, and needs at least one entry")


class FieldError(ValueError):
    """An invalid value within a dataclass, found in its `__post_init__`."""

    def __init__(self, text: str, *path: str | int) -> None:
        super().__init__(f"{_joined('', path)} {text}")
        self.text = text
        """What is wrong, to follow the path."""
        self.path = path
        """The keys and list indexes that lead to the value."""


def check_name(name: str, names: Iterable[str], kind: str) -> None:
    """Raise ConfigError with the closest known name if `name` is not one of `names`."""
    if name not in names:
        raise ConfigError(f"unknown {kind} {name!r}", hint=did_you_mean(name, names))


def formerly(name: str) -> Mapping[str, str]:
    """Metadata of a renamed field: the old `name` is an error with a hint to the new one."""
    return {_FORMERLY: name}


def load(path: Path, cls: type[T]) -> T:
    """Read `path` as a `cls`. Raises ConfigError with file and line."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist", hint="`flagrelease init` creates one") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read", why=error.strerror or str(error)) from None
    return loads(raw, cls, str(path))


def loads(raw: bytes, cls: type[T], name: str = "matrix.yaml") -> T:
    """Read YAML bytes as a `cls`; `name` is the file in errors. Raises ConfigError."""
    if len(raw) > _MAX_BYTES:
        raise ConfigError(f"{name} has {len(raw)} bytes", why=f"the limit is {_MAX_BYTES}")
    try:
        text = raw.decode("utf-8-sig")
        root = _compose(text, name)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} is not UTF-8", why=str(error)) from None
    if root is None:
        raise ConfigError(f"{name} is empty", hint=f"delete it, then run `flagrelease init --matrix {name}`")
    try:
        return typing.cast(T, _decode(root, cls, name, ""))
    except _Lacking as first:
        raise _all_lacking(list(_lacking(root, cls, "")), name) or first from None


def _compose(text: str, name: str) -> yaml.Node | None:
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_LOADER):
            if isinstance(event, yaml.AliasEvent):
                raise _error(name, event.start_mark, "aliases are not allowed", "write the value out")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > _MAX_DEPTH:
                    raise _error(name, event.start_mark, f"nested more than {_MAX_DEPTH} deep", "")
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            tag = getattr(event, "tag", None)
            if tag is not None:
                raise _error(name, event.start_mark, f"tag {tag!r} is not allowed", "remove it")
        return yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        raise _error(name, error.problem_mark, *_syntax(text, error)) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{name} is not valid YAML", why=str(error).splitlines()[0]) from None


def _syntax(text: str, error: yaml.MarkedYAMLError) -> tuple[str, str]:
    """What is wrong with the syntax, and a hint."""
    lines, mark = text.splitlines(), error.problem_mark
    line = lines[mark.line] if mark is not None and mark.line < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return "a tab, with which YAML does not indent", "indent with blanks"
    what = error.problem or "not valid YAML"
    return what, "check the indentation, colons, quotes and brackets of this line and of the one before"


class _Mark(typing.Protocol):
    """A mark of PyYAML's C parser or of its Python parser."""

    @property
    def line(self) -> int: ...


def _error(name: str, mark: _Mark | None, what: str, hint: str) -> ConfigError:
    line = mark.line if mark else 0
    return ConfigError(f"{name}:{line + 1}: {what}", hint=hint)


def _decode(node: yaml.Node, kind: Any, name: str, where: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _decode_dataclass(node, kind, name, where)
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        return _decode_checked(node, kind, name, where)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(node, kind, name, where)
    if origin is tuple:
        return _decode_tuple(node, typing.get_args(kind)[0], name, where)
    if origin in (dict, Mapping):
        return _decode_mapping(node, typing.get_args(kind)[1], name, where)
    if origin is typing.Literal:
        return _decode_choice(node, typing.get_args(kind), name, where)
    if kind is Any:
        return _decode_any(node, name, where)
    return _decode_scalar(node, kind, name, where)


def _decode_dataclass(node: yaml.Node, kind: type[Any], name: str, where: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    former = {field.metadata.get(_FORMERLY): field.name for field in fields.values()}
    hints = _hints(kind)
    values: dict[str, Any] = {}
    for key, key_node, value in _entries(node, name, where):
        if key in former:
            new = former[key]
            raise _error(name, key_node.start_mark, f"{_at(where, key)!r} is now {new!r}", f"write {new}")
        if key not in fields:
            raise _error(name, key_node.start_mark, f"unknown key {_at(where, key)!r}", did_you_mean(key, fields))
        values[key] = _decode(value, hints[key], name, _at(where, key))
    if any(key not in values for key in _required(kind)):
        raise _Lacking(f"{where or 'the file'} lacks a key")
    try:
        return kind(**values)
    except FieldError as error:
        mark = _node_at(node, error.path).start_mark
        raise _error(name, mark, f"{_joined(where, error.path)} {error.text}", "") from None
    except ValueError as error:
        raise _error(name, node.start_mark, f"{where}: {error}" if where else str(error), "") from None


_HINTS: dict[type[Any], Mapping[str, Any]] = {}


def _hints(kind: type[Any]) -> Mapping[str, Any]:
    """The types of a dataclass's fields, which are compiled from text once: a matrix has thousands of entries."""
    if kind not in _HINTS:
        _HINTS[kind] = typing.get_type_hints(kind, include_extras=True)
    return _HINTS[kind]


class _Lacking(ConfigError):
    """A required key is missing."""


def _required(kind: type[Any]) -> list[str]:
    """The keys without which there is no `kind`."""
    missing = dataclasses.MISSING
    fields = [field for field in dataclasses.fields(kind) if field.init]
    return [field.name for field in fields if field.default is missing and field.default_factory is missing]


def _lacking(node: yaml.Node, kind: Any, where: str) -> Iterator[tuple[_Mark, str, list[str]]]:
    """The required keys that are missing at `node` and below it, as far as it has the form of a `kind`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        yield from _lacking(node, args[0], where)
    elif origin in (typing.Union, types.UnionType):
        options = [option for option in args if option is not type(None)]
        yield from _lacking(node, options[0], where) if len(options) == 1 else ()
    elif origin is tuple and isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield from _lacking(child, args[0], f"{where}[{index}]")
    elif isinstance(node, yaml.MappingNode):
        children = {str(key.value): value for key, value in node.value}
        if origin in (dict, Mapping):
            kinds = dict.fromkeys(children, args[1])
        elif dataclasses.is_dataclass(kind) and isinstance(kind, type):
            kinds = dict(_hints(kind))
            if missing := [key for key in _required(kind) if key not in children]:
                yield node.start_mark, where or "the file", missing
        else:
            return
        for key, child in children.items():
            if key in kinds:
                yield from _lacking(child, kinds[key], _at(where, key))


def _all_lacking(found: Sequence[tuple[_Mark, str, list[str]]], name: str) -> ConfigError | None:
    """One error for all keys that are missing in the file, so that it need not be run once for each."""
    if not found:
        return None
    lines = [f"{where} lacks {', '.join(map(repr, keys))}" for _, where, keys in found]
    further = [f"; {line} (line {mark.line + 1})" for line, (mark, _, _) in zip(lines[1:], found[1:], strict=True)]
    hint = "docs/matrix.md lists the keys and has a minimal stanza of a chip and of a model"
    return _error(name, found[0][0], lines[0] + "".join(further), hint)


def _node_at(node: yaml.Node, path: tuple[str | int, ...]) -> yaml.Node:
    """The key or list item that `path` leads to, or its closest parent in the file."""
    for number, step in enumerate(path):
        if isinstance(step, int):
            return _node_at(node.value[step], path[number + 1 :])
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.value == step:
                below = _node_at(value, path[number + 1 :])
                return key if below is value else below
        break
    return node


def _joined(where: str, path: tuple[str | int, ...]) -> str:
    for step in path:
        where = f"{where}[{step}]" if isinstance(step, int) else _at(where, step)
    return where


def _decode_checked(node: yaml.Node, kind: Any, name: str, where: str) -> Any:
    value = _decode(node, kind.__origin__, name, where)
    for annotation in kind.__metadata__:
        try:
            annotation.check(value)
        except ConfigError as error:
            raise _error(name, node.start_mark, f"{where}: {error.line()}", error.hint) from None
    return value


def _entries(node: yaml.Node, name: str, where: str) -> list[tuple[str, yaml.Node, yaml.Node]]:
    if not isinstance(node, yaml.MappingNode):
        raise _error(name, node.start_mark, f"{where or 'the file'} must be a mapping", "")
    seen: dict[str, int] = {}
    entries: list[tuple[str, yaml.Node, yaml.Node]] = []
    for key_node, value in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise _error(name, key_node.start_mark, f"a key of {where or 'the file'} is not a name", "")
        key = str(key_node.value)
        if key in seen:
            raise _error(name, key_node.start_mark, f"{_at(where, key)!r} is given twice", f"first on line {seen[key]}")
        seen[key] = key_node.start_mark.line + 1
        entries.append((key, key_node, value))
    return entries


def _decode_union(node: yaml.Node, kind: Any, name: str, where: str) -> Any:
    options = [option for option in typing.get_args(kind) if option is not type(None)]
    if (
        isinstance(node, yaml.ScalarNode)
        and node.tag == "tag:yaml.org,2002:null"
        and len(options) < len(typing.get_args(kind))
    ):
        return None
    failure: ConfigError | None = None
    for option in options:
        try:
            return _decode(node, option, name, where)
        except ConfigError as error:
            failure = failure or error
    assert failure is not None  # noqa: S101  a union has at least one option
    raise failure


def _decode_tuple(node: yaml.Node, item: Any, name: str, where: str) -> tuple[Any, ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise _error(name, node.start_mark, f"{where} must be a list", "write [a, b]")
    return tuple(_decode(child, item, name, f"{where}[{index}]") for index, child in enumerate(node.value))


def _decode_mapping(node: yaml.Node, item: Any, name: str, where: str) -> Mapping[str, Any]:
    entries = _entries(node, name, where)
    return types.MappingProxyType({key: _decode(value, item, name, _at(where, key)) for key, _, value in entries})


def _decode_choice(node: yaml.Node, choices: tuple[str, ...], name: str, where: str) -> str:
    value = str(_decode_scalar(node, str, name, where))
    if value not in choices:
        raise _error(name, node.start_mark, f"{where} is {value!r}", did_you_mean(value, choices))
    return value


def _decode_any(node: yaml.Node, name: str, where: str) -> Any:
    if isinstance(node, yaml.MappingNode):
        return _decode_mapping(node, Any, name, where)
    if isinstance(node, yaml.SequenceNode):
        return _decode_tuple(node, Any, name, where)
    for kind in (bool, int, float, str):
        try:
            return _decode_scalar(node, kind, name, where)
        except ConfigError:
            continue
    raise _error(name, node.start_mark, f"{where} is {node.value!r}", "quote it if it is text")


def _decode_scalar(node: yaml.Node, kind: Any, name: str, where: str) -> Any:
    if not isinstance(node, yaml.ScalarNode):
        raise _error(name, node.start_mark, f"{where} must be {_spoken(kind)}", "")
    text = str(node.value)
    quoted = node.style in ("'", '"', "|", ">")
    if kind is str:
        if not quoted and node.tag != "tag:yaml.org,2002:str":
            raise _error(name, node.start_mark, f"{where} is {text!r}, which is not text in YAML", f'write "{text}"')
        return text
    if not quoted:
        if kind is bool and text in ("true", "false"):
            return text == "true"
        if kind is int and _INTEGER.fullmatch(text):
            return int(text)
        if kind is float and _NUMBER.fullmatch(text) and math.isfinite(float(text)):
            return float(text)
    raise _error(name, node.start_mark, f"{where} is {text!r} and must be {_spoken(kind)}", "")


def _spoken(kind: Any) -> str:
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false"}.get(kind, str(kind))


def _at(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
