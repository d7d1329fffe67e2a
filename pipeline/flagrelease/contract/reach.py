"""Find the definitions that code reaches across files, with a digest that moves and renames do not change."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from flagrelease.contract import definitions
from flagrelease.contract.definitions import SLOT, Analysis, Definition, Ref, analyse
from flagrelease.store.digests import file_sha256, sha256_of

ROUNDS = 3
"""Depth to which a definition's digest includes the definitions it refers to."""
_MODULE = "<module>"
_KEPT = 2000
"""The most entries in a cache file; the newest are kept."""

T = TypeVar("T")
Id = tuple[str, str]
"""A module and a definition in it; "" for the module's statements without a definition."""
_Reading = tuple[tuple[str, ...], tuple[Id, ...]]


@dataclass(frozen=True, kw_only=True)
class Reached:
    """The definitions that are reached."""

    digest: str
    """sha256 (hex) of all definitions, independent of their files."""
    modules: Mapping[str, str]
    """By module, the digest of its reached definitions alone, "-", and their digest with those they refer to."""


class Cache(Generic[T]):
    """Computed values by the sha256 of their inputs, in a file. Without a readable file values are computed again."""

    def __init__(self, paths: Iterable[Path], kind: type[T]) -> None:
        self._paths = tuple(paths)
        self._kind = kind
        self._known: dict[str, T] | None = None
        self._fresh = False

    def get(self, sha256: str, make: Callable[[], T]) -> T:
        """The cached value, or that of `make`."""
        if self._known is None:
            self._known = self._read()
        if sha256 not in self._known:
            self._known[sha256] = make()
            self._fresh = True
        return self._known[sha256]

    def _read(self) -> dict[str, T]:
        for path in self._paths:
            try:
                return msgspec.json.decode(path.read_bytes(), type=dict[str, self._kind])  # type: ignore[name-defined]
            except (OSError, msgspec.DecodeError):
                continue
        return {}

    def save(self) -> None:
        """Write the cache to the first writable path, if it has new values."""
        if not self._fresh or self._known is None:
            return
        self._fresh = False
        data = msgspec.json.encode(dict(list(self._known.items())[-_KEPT:]))
        for path in self._paths:
            part = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                part.write_bytes(data)
                part.replace(path)
            except OSError:
                continue
            return


class Code:
    """The Python packages below `root`, whose files must not change during the lifetime of this object.

    Modules that do not pass `counts` are not followed.
    """

    def __init__(
        self,
        root: Path,
        packages: tuple[str, ...],
        counts: Callable[[str], bool],
        cache: Cache[Analysis] | None = None,
    ) -> None:
        self._root = root
        self._packages = packages
        self._counts = counts
        self._cache = cache or Cache((), Analysis)
        self._analyser = file_sha256(Path(definitions.__file__))
        self._files = dict(self._modules())
        self._names = {path: name for name, path in self._files.items()}
        self._sources: dict[str, bytes] = {}
        self._analyses: dict[str, Analysis] = {}
        self._read: dict[Id, _Reading] = {}
        self._own: dict[Id, str] = {}
        self._rounds: dict[tuple[Id, int], str] = {}

    def _modules(self) -> Iterable[tuple[str, str]]:
        for package in self._packages:
            for folder, folders, files in os.walk(self._root / package):
                inside = Path(folder).relative_to(self._root).parts
                folders.sort()
                for file in sorted(files):
                    if file.endswith(".py"):
                        name = inside if file == "__init__.py" else (*inside, file.removesuffix(".py"))
                        yield ".".join(name), os.path.join(folder, file)  # noqa: PTH118 -- hundreds at every start

    @property
    def state(self) -> str:
        """sha256 (hex) of all files and their names."""
        return _sum([f"{name} {sha256_of(self._source(name))}" for name in self._files])

    def _source(self, module: str) -> bytes:
        if module not in self._sources:
            self._sources[module] = Path(self._files[module]).read_bytes()
        return self._sources[module]

    def definition(self, module: str, name: str) -> tuple[Id, ...]:
        """The definition, or the complete module if it has none of that name; empty for a module of another package."""
        if module not in self._files:
            return ()
        return ((module, name),) if name in self.analysis(module).definitions else self.whole(module)

    def whole(self, module: str) -> tuple[Id, ...]:
        """All definitions of a module; for a package also those of its __main__."""
        found = (*((module, name) for name in self.analysis(module).definitions), (module, ""))
        main = f"{module}.__main__"
        return (*found, *self.whole(main)) if self._is_package(module) and main in self._files else found

    def file(self, path: Path) -> tuple[Id, ...]:
        """All definitions of a file. A file outside the packages is read each time."""
        known = self._names.get(os.path.normpath(path))
        if known is not None:
            return self.whole(known)
        source = path.read_bytes()
        module = f"{path.stem}#{sha256_of(source)}"
        if module not in self._analyses:
            self._analyses[module] = self._analysed(source)
        return self.whole(module)

    def reached(self, starts: Iterable[Id]) -> Reached:
        """All definitions reached from `starts`, directly or indirectly."""
        reached: set[Id] = set()
        todo = list(starts)
        while todo:
            item = todo.pop()
            if item not in reached:
                reached.add(item)
                todo += self._reading(item)[1]
                todo += self._rest_of(item[0])
        modules: dict[str, list[Id]] = {}
        for item in sorted(reached):
            if item[1] or self._definition(item).text:
                modules.setdefault(item[0].partition("#")[0], []).append(item)
        result = Reached(
            digest=_sum({self._digest(item, ROUNDS) for ids in modules.values() for item in ids}),
            modules={
                name: f"{_sum({self._itself(item) for item in ids})[:16]}-"
                f"{_sum({self._digest(item, ROUNDS) for item in ids})[:16]}"
                for name, ids in modules.items()
            },
        )
        self._cache.save()
        return result

    def itself(self, module: str) -> str:
        """sha256 (hex) of a module's own definitions, without those they refer to."""
        digest = _sum({self._itself(item) for item in self.whole(module)})
        self._cache.save()
        return digest

    def analysis(self, module: str) -> Analysis:
        if module not in self._analyses:
            self._analyses[module] = self._analysed(self._source(module))
        return self._analyses[module]

    def _analysed(self, source: bytes) -> Analysis:
        key = _sum([self._analyser, *self._packages, sha256_of(source)])
        return self._cache.get(key, lambda: analyse(source, self._packages))

    def _is_package(self, module: str) -> bool:
        return os.path.basename(self._files.get(module, "")) == "__init__.py"  # noqa: PTH119

    def _rest_of(self, module: str) -> Iterable[Id]:
        """The statements that run when the module is imported: its own and those of its packages."""
        while module:
            if module in self._analyses or (module in self._files and self._counts(module)):
                yield module, ""
            module = module.rpartition(".")[0]

    def _definition(self, item: Id) -> Definition:
        analysis = self.analysis(item[0])
        return analysis.definitions[item[1]] if item[1] else analysis.rest

    def _itself(self, item: Id) -> str:
        """sha256 (hex) of a definition with the names of its references."""
        if item not in self._own:
            texts = self._reading(item)[0]
            parts = self._definition(item).text.split(SLOT)
            source = "".join([parts[0], *(text + part for text, part in zip(texts, parts[1:], strict=True))])
            self._own[item] = sha256_of(source.encode())
        return self._own[item]

    def _digest(self, item: Id, rounds: int) -> str:
        """The same including the definitions referred to, `rounds` deep."""
        if rounds == 0:
            return self._itself(item)
        if (item, rounds) not in self._rounds:
            named = [self._digest(target, rounds - 1) for target in self._reading(item)[1]]
            self._rounds[item, rounds] = _sum([self._itself(item), *named])
        return self._rounds[item, rounds]

    def _reading(self, item: Id) -> _Reading:
        """The text of each reference of a definition, and the definitions they lead to, in order."""
        if item not in self._read:
            texts: list[str] = []
            targets: list[Id] = []
            for ref in self._definition(item).refs:
                text, ids = self._resolve(item[0], ref)
                texts.append(text)
                targets += ids
            self._read[item] = tuple(texts), tuple(targets)
        return self._read[item]

    def _resolve(self, module: str, ref: Ref) -> tuple[str, tuple[Id, ...]]:
        if not ref.origins:
            return self._string(module, ref.path[0])
        texts: list[str] = []
        targets: list[Id] = []
        for origin in ref.origins:
            if origin:
                text, ids = self._follow([*self._absolute(module, origin), *ref.path[1:]], frozenset())
            else:
                text, ids = f"<{'.'.join(ref.path)}>", ((module, ref.path[0]),)
            texts.append(text)
            targets += ids
        return "|".join(texts), tuple(targets)

    def _absolute(self, module: str, origin: str) -> list[str]:
        name = origin.lstrip(".")
        level = len(origin) - len(name)
        if not level:
            return name.split(".")
        base = module.split(".") if self._is_package(module) else module.split(".")[:-1]
        return [*base[: len(base) - level + 1], *filter(None, name.split("."))]

    def _follow(self, path: list[str], seen: frozenset[str]) -> tuple[str, tuple[Id, ...]]:
        """Resolve a dotted path through modules and their imports to a definition."""
        if path[0] not in self._packages or path[0] not in self._files:
            return f"[{'.'.join(path)}]", ()
        module = path[0]
        for at, name in enumerate(path[1:], 1):
            analysis, step = self.analysis(module), f"{module}.{name}"
            if name in analysis.definitions:
                return f"<{'.'.join(path[at:])}>", self._counted((module, name))
            origins = [origin for origin in analysis.imports.get(name, ()) if step not in seen]
            absolute = [self._absolute(module, origin) for origin in origins]
            paths = [[*base, *path[at + 1 :]] for base in absolute if ".".join(base) != step]
            if paths:
                if step in self._files:  # `from {step} import x` means the submodule, `{step}.x` the imported name
                    paths.append(path)
                texts, targets = zip(*(self._follow(imported, seen | {step}) for imported in paths), strict=True)
                return "|".join(texts), tuple(target for group in targets for target in group)
            if step not in self._files:
                return self._object(module, path[at:])
            module = step
        return self._object(module, [])

    def _object(self, module: str, attributes: list[str]) -> tuple[str, tuple[Id, ...]]:
        """A reference to the module itself, which may use any of its definitions."""
        targets = sorted(self.whole(module), key=self._itself_shallow) if self._counts(module) else ()
        return ".".join([_MODULE, *attributes]), tuple(targets)

    def _itself_shallow(self, item: Id) -> str:
        return f"{item[1]} {self._definition(item).text}"

    def _counted(self, item: Id) -> tuple[Id, ...]:
        return (item,) if self._counts(item[0]) else ()

    def _string(self, module: str, text: str) -> tuple[str, tuple[Id, ...]]:
        """Resolve a string that is a module's dotted path or file, as in a command line; else take it as plain text."""
        package = module.partition(".")[0]
        modules: list[str | None] = []
        if text.endswith(".py") and module in self._files:
            own_folder = os.path.dirname(self._files[module])  # noqa: PTH120
            folders = [own_folder, *([str(self._root / package)] if "/" in text else [])]
            modules = [self._names.get(os.path.normpath(f"{folder}/{text}")) for folder in folders]
        elif text.partition(".")[0] == package and text in self._files:
            modules = [text]
        named = next((name for name in modules if name is not None), None)
        return (f"str:{text!a};", ()) if named is None else self._object(named, [])


def _sum(texts: Iterable[str]) -> str:
    """sha256 (hex) of the lines; those of a set are sorted."""
    lines = sorted(texts) if isinstance(texts, set) else texts
    return sha256_of("\n".join(lines).encode())
