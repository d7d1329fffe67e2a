"""Which definitions a part of the code reaches, across files, and a digest of them that no move or rename changes."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from flagrelease.contract import definitions
from flagrelease.contract.definitions import SLOT, Analysis, Definition, Ref, analyse

ROUNDS = 3
"""How far a definition's digest looks into what it names. Beyond, it counts that something is reached at all."""
_MODULE = "<module>"
_KEPT = 2000
"""Entries in a cache's file; the newest are kept."""

T = TypeVar("T")
Id = tuple[str, str]
"""A module and a definition in it; "" for the statements of the module that define nothing."""
_Reading = tuple[tuple[str, ...], tuple[Id, ...]]


@dataclass(frozen=True, kw_only=True)
class Reached:
    """All definitions that something reaches."""

    digest: str
    """sha256 (hex) of them all, whatever files they stand in."""
    modules: Mapping[str, str]
    """By module, a digest of what its reached definitions are themselves, "-", and one with what these name."""


class Cache(Generic[T]):
    """What was computed, by the sha256 of all that it follows from. It decides nothing: where it cannot be read or
    written, things are computed."""

    def __init__(self, paths: Iterable[Path], kind: type[T]) -> None:
        self._paths = tuple(paths)
        self._kind = kind
        self._known: dict[str, T] | None = None
        self._fresh = False

    def get(self, sha256: str, make: Callable[[], T]) -> T:
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
        """Write what is new to the first path that takes it."""
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
    """The Python packages below `root`. Their files are taken to stay as they are while this object lives.

    What stands in a module that `counts` says no to is not followed.
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
        self._analyser = hashlib.sha256(Path(definitions.__file__).read_bytes()).hexdigest()
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
        """sha256 (hex) of all files and their names: everything that the other answers follow from."""
        return _sum([f"{name} {hashlib.sha256(self._source(name)).hexdigest()}" for name in self._files])

    def _source(self, module: str) -> bytes:
        if module not in self._sources:
            self._sources[module] = Path(self._files[module]).read_bytes()
        return self._sources[module]

    def definition(self, module: str, name: str) -> tuple[Id, ...]:
        """A definition to start from; the whole module where it has none of that name; nothing of another package."""
        if module not in self._files:
            return ()
        return ((module, name),) if name in self.analysis(module).definitions else self.whole(module)

    def whole(self, module: str) -> tuple[Id, ...]:
        """All definitions of a module; of a package also those of what `python -m` starts."""
        found = (*((module, name) for name in self.analysis(module).definitions), (module, ""))
        main = f"{module}.__main__"
        return (*found, *self.whole(main)) if self._is_package(module) and main in self._files else found

    def file(self, path: Path) -> tuple[Id, ...]:
        """All definitions of a file, which need not be in one of the packages; it is then read each time."""
        known = self._names.get(os.path.normpath(path))
        if known is not None:
            return self.whole(known)
        source = path.read_bytes()
        module = f"{path.stem}#{hashlib.sha256(source).hexdigest()}"
        if module not in self._analyses:
            self._analyses[module] = self._analysed(source)
        return self.whole(module)

    def reached(self, starts: Iterable[Id]) -> Reached:
        """Everything that `starts` name, and what that names."""
        found: set[Id] = set()
        todo = list(starts)
        while todo:
            one = todo.pop()
            if one not in found:
                found.add(one)
                todo += self._reading(one)[1]
                todo += self._rest_of(one[0])
        modules: dict[str, list[Id]] = {}
        for one in sorted(found):
            if one[1] or self._definition(one).text:
                modules.setdefault(one[0].partition("#")[0], []).append(one)
        whole = [one for ids in modules.values() for one in ids]
        result = Reached(
            digest=_sum({self._digest(one, ROUNDS) for one in whole}),
            modules={
                name: f"{_sum({self._itself(one) for one in ids})[:16]}-"
                f"{_sum({self._digest(one, ROUNDS) for one in ids})[:16]}"
                for name, ids in modules.items()
            },
        )
        self._cache.save()
        return result

    def itself(self, module: str) -> str:
        """sha256 (hex) of a module's own definitions, without what they name."""
        found = _sum({self._itself(one) for one in self.whole(module)})
        self._cache.save()
        return found

    def analysis(self, module: str) -> Analysis:
        if module not in self._analyses:
            self._analyses[module] = self._analysed(self._source(module))
        return self._analyses[module]

    def _analysed(self, source: bytes) -> Analysis:
        key = _sum([self._analyser, *self._packages, hashlib.sha256(source).hexdigest()])
        return self._cache.get(key, lambda: analyse(source, self._packages))

    def _is_package(self, module: str) -> bool:
        return os.path.basename(self._files.get(module, "")) == "__init__.py"  # noqa: PTH119

    def _rest_of(self, module: str) -> Iterable[Id]:
        """What runs whenever the module is imported: also the packages that it lies in."""
        while module:
            if module in self._analyses or (module in self._files and self._counts(module)):
                yield module, ""
            module = module.rpartition(".")[0]

    def _definition(self, one: Id) -> Definition:
        found = self.analysis(one[0])
        return found.definitions[one[1]] if one[1] else found.rest

    def _itself(self, one: Id) -> str:
        """A definition with the names of what it refers to."""
        if one not in self._own:
            texts = self._reading(one)[0]
            parts = self._definition(one).text.split(SLOT)
            whole = "".join([parts[0], *(text + part for text, part in zip(texts, parts[1:], strict=True))])
            self._own[one] = hashlib.sha256(whole.encode()).hexdigest()
        return self._own[one]

    def _digest(self, one: Id, rounds: int) -> str:
        """The same with what these names mean, `rounds` definitions deep."""
        if rounds == 0:
            return self._itself(one)
        if (one, rounds) not in self._rounds:
            named = [self._digest(target, rounds - 1) for target in self._reading(one)[1]]
            self._rounds[one, rounds] = _sum([self._itself(one), *named])
        return self._rounds[one, rounds]

    def _reading(self, one: Id) -> _Reading:
        """For each reference of a definition its text, and all that they lead to, in order."""
        if one not in self._read:
            texts: list[str] = []
            targets: list[Id] = []
            for ref in self._definition(one).refs:
                text, found = self._resolve(one[0], ref)
                texts.append(text)
                targets += found
            self._read[one] = tuple(texts), tuple(targets)
        return self._read[one]

    def _resolve(self, module: str, ref: Ref) -> tuple[str, tuple[Id, ...]]:
        if not ref.origins:
            return self._string(module, ref.path[0])
        texts: list[str] = []
        targets: list[Id] = []
        for origin in ref.origins:
            if origin:
                text, found = self._follow([*self._absolute(module, origin), *ref.path[1:]], frozenset())
            else:
                text, found = f"<{'.'.join(ref.path)}>", ((module, ref.path[0]),)
            texts.append(text)
            targets += found
        return "|".join(texts), tuple(targets)

    def _absolute(self, module: str, origin: str) -> list[str]:
        name = origin.lstrip(".")
        level = len(origin) - len(name)
        if not level:
            return name.split(".")
        base = module.split(".") if self._is_package(module) else module.split(".")[:-1]
        return [*base[: len(base) - level + 1], *filter(None, name.split("."))]

    def _follow(self, path: list[str], seen: frozenset[str]) -> tuple[str, tuple[Id, ...]]:
        """A dotted path, from its package through modules and what they import, to a definition."""
        if path[0] not in self._packages or path[0] not in self._files:
            return f"[{'.'.join(path)}]", ()
        module = path[0]
        for at, name in enumerate(path[1:], 1):
            found, step = self.analysis(module), f"{module}.{name}"
            if name in found.definitions:
                return f"<{'.'.join(path[at:])}>", self._counted((module, name))
            origins = [origin for origin in found.imports.get(name, ()) if step not in seen]
            absolute = [self._absolute(module, origin) for origin in origins]
            followed = [[*one, *path[at + 1 :]] for one in absolute if ".".join(one) != step]
            if followed:
                texts, targets = zip(*(self._follow(one, seen | {step}) for one in followed), strict=True)
                return "|".join(texts), tuple(target for group in targets for target in group)
            if step not in self._files:
                return self._object(module, path[at:])
            module = step
        return self._object(module, [])

    def _object(self, module: str, attributes: list[str]) -> tuple[str, tuple[Id, ...]]:
        """A module that is used for itself: anything of it may be meant."""
        targets = sorted(self.whole(module), key=self._itself_shallow) if self._counts(module) else ()
        return ".".join([_MODULE, *attributes]), tuple(targets)

    def _itself_shallow(self, one: Id) -> str:
        return f"{one[1]} {self._definition(one).text}"

    def _counted(self, one: Id) -> tuple[Id, ...]:
        return (one,) if self._counts(one[0]) else ()

    def _string(self, module: str, text: str) -> tuple[str, tuple[Id, ...]]:
        """A module's dotted path or file, as it stands where a program is started; else a mere string."""
        package = module.partition(".")[0]
        places = []
        if text.endswith(".py") and module in self._files:
            beside = os.path.dirname(self._files[module])  # noqa: PTH120
            folders = [beside, *([str(self._root / package)] if "/" in text else [])]
            places = [self._names.get(os.path.normpath(f"{folder}/{text}")) for folder in folders]
        elif text.partition(".")[0] == package and text in self._files:
            places = [text]
        found = next((one for one in places if one is not None), None)
        return (f"str:{text!a};", ()) if found is None else self._object(found, [])


def _sum(texts: Iterable[str]) -> str:
    """sha256 (hex); of a set in an order of its own."""
    lines = sorted(texts) if isinstance(texts, set) else texts
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
