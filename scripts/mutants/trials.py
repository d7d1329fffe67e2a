"""Run the tests that reach a mutant, each trial in a process namespace of its own with a time limit."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
import types
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mutations import Mutant

OPTIONS = ("-q", "-p", "no:xdist", "-p", "no:cov", "-p", "no:cacheprovider", "--tb=no", "--no-header")
ADDOPTS = "addopts=--import-mode=importlib --strict-markers -m 'not slow'"
TESTS = ("tests/unit", "--ignore=tests/unit/flagkernels", "--ignore=tests/unit/recipes")
"""The tests without a service; the two folders run other code, or the same in processes of their own."""
MEMORY_BYTES = 16 << 30
_NEW_NAMESPACES = 0x20000000 | 0x00020000  # CLONE_NEWPID | CLONE_NEWNS
_PRIVATE = 0x40000 | 0x4000  # MS_PRIVATE | MS_REC


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Which tests ran which lines, and how long each took."""

    lines: Mapping[str, Mapping[int, Sequence[str]]]
    """Path, line, and the tests that ran it; none where it ran at import only."""
    seconds: Mapping[str, float]
    libraries: Sequence[str]
    """Modules outside the checkout that the tests import."""

    def tests(self, mutant: Mutant) -> list[str]:
        """The tests that run the mutated lines, or else the function around them, or else the file."""
        lines = self.lines.get(mutant.path, {})
        first, last = mutant.scope
        for start, end in ((mutant.line, mutant.last), (first + 1, last), (0, 1 << 30)):
            found = {test for line, tests in lines.items() if start <= line <= end for test in tests}
            if found:
                break
        return sorted(found & self.seconds.keys(), key=lambda test: (self.seconds[test], test))


@dataclass(kw_only=True)
class Runner:
    """Makes trials of mutants in a copy of the checkout."""

    tree: Path
    reach: Reach
    first_seconds: float = 3.0
    """How much of the tests runs first, those nearest to the module; most mutants end there."""
    most_seconds: float = 20.0
    """How much of the tests runs in all, the quickest first."""
    killers: dict[str, Counter[str]] = field(default_factory=dict)
    """Path, and how many of its mutants each test has killed."""

    def trial(self, mutant: Mutant) -> dict[str, object]:
        source = self.tree / mutant.path
        original, times = source.read_text(), source.stat()
        cached = Path(importlib.util.cache_from_source(str(source)))
        aside = cached.with_suffix(".aside")
        if cached.exists():
            cached.rename(aside)
        source.write_text(mutant.apply(original))
        began = time.monotonic()
        try:
            state, killer, ran = self._judge(mutant)
        finally:
            source.write_text(original)
            os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
            cached.unlink(missing_ok=True)
            if aside.exists():
                aside.rename(cached)
        if killer:
            self.killers.setdefault(mutant.path, Counter())[killer] += 1
        seconds = round(time.monotonic() - began, 2)
        return {"id": mutant.id, "state": state, "killer": killer, "tests": ran, "seconds": seconds}

    def _judge(self, mutant: Mutant) -> tuple[str, str, int]:
        ran = 0
        for chosen in self._rounds(mutant):
            ran += len(chosen)
            limit = 10 + 5 * sum(self.reach.seconds[test] for test in chosen)
            state, killer = isolated(partial(run_tests, self.tree, chosen, Path(f"{self.tree}.tmp/run")), limit)
            if state != "survived":
                return state, killer, ran
        return ("survived" if ran else "unreached"), "", ran

    def _rounds(self, mutant: Mutant) -> Iterable[list[str]]:
        near = _mirror(mutant.path)
        killers = self.killers.get(mutant.path, Counter())
        seconds = self.reach.seconds
        tests = sorted(
            self.reach.tests(mutant), key=lambda test: (-killers[test], not test.startswith(near), seconds[test])
        )
        first: list[str] = []
        rest: list[str] = []
        spent = 0.0
        for test in tests:
            spent += seconds[test]
            files = {one.partition("::")[0] for one in (*first, test)}
            if spent <= self.first_seconds and len(files) <= 4 and not rest:
                first.append(test)
            elif spent <= self.most_seconds or test.startswith(near):
                rest.append(test)
        return [chosen for chosen in (first, rest) if chosen]


def _mirror(path: str) -> str:
    """Where the tests of a module are: tests/unit/verdict/ for pipeline/flagrelease/verdict/rule.py."""
    inside = Path(path).relative_to("pipeline/flagrelease")
    return f"tests/unit/{inside.parent}/" if inside.parent.name else f"tests/unit/test_{inside.stem}"


def isolated(work: Callable[[], tuple[str, str]], limit: float) -> tuple[str, str]:
    """Run a function in a process namespace of its own: what it leaves behind or kills is inside. It returns a state
    and a test; the state is `timeout` after `limit` seconds."""
    reader, writer = os.pipe()
    outer = os.fork()
    if outer == 0:
        code = 1
        try:
            os.close(reader)
            _enter_namespaces()
            first = os.fork()
            if first == 0:
                _as_init(work, writer)
            os.close(writer)
            os.waitpid(first, 0)
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    answer = b""
    deadline = time.monotonic() + limit
    state = "died"
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            state = "timeout"
            break
        part = os.read(reader, 1 << 16)
        if not part:
            break
        answer += part
        if answer.endswith(b"\n"):
            break
    for child in _children(outer):
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.kill(outer, signal.SIGKILL)
    os.waitpid(outer, 0)
    os.close(reader)
    if not answer.endswith(b"\n"):
        return state, ""
    state, killer = json.loads(answer)
    return str(state), str(killer)


def _children(process: int) -> list[int]:
    with suppress(OSError):
        return [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return []


def _enter_namespaces() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NAMESPACES):
        raise OSError(ctypes.get_errno(), "cannot make a process namespace, without which no mutant is run")
    libc.mount(b"none", b"/", None, _PRIVATE, None)


def _as_init(work: Callable[[], tuple[str, str]], writer: int) -> None:
    """The namespace's first process: it waits for the second one, and all others end with it."""
    try:
        ctypes.CDLL(None).mount(b"proc", b"/proc", b"proc", 0, None)
        os.setsid()
        child = os.fork()
        if child == 0:
            with suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
            answer = json.dumps(work())
            os.write(writer, answer.encode() + b"\n")
            os._exit(0)
        os.waitpid(child, 0)
    finally:
        os._exit(0)


def unfit(tree: Path, tests: Sequence[str], folder: Path, limit: float) -> list[str]:
    """Those of some tests that fail in a trial although nothing is changed; no verdict may rest on them."""
    state, failed = isolated(lambda: ("ran", json.dumps(run_tests(tree, tests, folder, all_of_them=True))), limit)
    return json.loads(failed)[1].split("\n") if state == "ran" else list(tests)


def run_tests(tree: Path, tests: Sequence[str], folder: Path, *, all_of_them: bool = False) -> tuple[str, str]:
    """Run tests in this process: `killed` and the test that failed, or `survived`."""
    import pytest

    watch = _Watch(tests)
    _quiet(tree)
    files = sorted({test.partition("::")[0] for test in tests})
    options = OPTIONS if all_of_them else ("-x", *OPTIONS)
    code = pytest.main([*options, "-o", ADDOPTS, f"--basetemp={folder}", *files], plugins=[watch])
    if all_of_them:
        return "", "\n".join(watch.all_failed)
    if code == pytest.ExitCode.OK or (code == pytest.ExitCode.NO_TESTS_COLLECTED and not watch.failed):
        return "survived", ""
    return "killed", watch.failed


class _Watch:
    """Keeps the chosen tests, in their order, and notes the first that fails."""

    def __init__(self, tests: Sequence[str]) -> None:
        self._order = {test: place for place, test in enumerate(tests)}
        self.failed = ""
        self.all_failed: list[str] = []

    def pytest_collection_modifyitems(self, items: list[object]) -> None:
        chosen = [item for item in items if item.nodeid in self._order]  # type: ignore[attr-defined]
        items[:] = sorted(chosen, key=lambda item: self._order[item.nodeid])  # type: ignore[attr-defined]

    def pytest_runtest_logreport(self, report: object) -> None:
        if report.failed:  # type: ignore[attr-defined]
            self.failed = self.failed or report.nodeid  # type: ignore[attr-defined]
            self.all_failed.append(report.nodeid)  # type: ignore[attr-defined]


def _quiet(tree: Path) -> None:
    """Leave the output to /dev/null, byte code unwritten, and Hypothesis without chance or shrinking."""
    os.chdir(tree)
    sys.modules["__main__"] = types.ModuleType("__main__")  # what tests spawn would import this program again
    sys.dont_write_bytecode = True
    os.environ |= {
        "PYTHONPATH": os.pathsep.join([f"{tree}/pipeline", *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nowhere, descriptor)
    from hypothesis import Phase, settings

    phases = (Phase.explicit, Phase.generate)
    settings.register_profile("mutants", derandomize=True, database=None, deadline=None, phases=phases)
    settings.load_profile("mutants")


def copy_tree(root: Path, target: Path) -> None:
    """Copy what git lists, or everything where there is no git."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root, capture_output=True
    )
    if listed.returncode or not listed.stdout:
        shutil.copytree(root, target, symlinks=True)
        return
    for name in filter(None, listed.stdout.decode().split("\0")):
        source, copy = root / name, target / name
        if source.is_symlink() or source.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy, follow_symlinks=False)


def measure(tree: Path, paths: Sequence[str], processes: int, data: Path, tests: Sequence[str]) -> Reach:
    """Run tests once, unchanged, and note what reaches which line of `paths`."""
    import coverage

    callers = {path: _callers(tree, path) for path in paths}
    every = sorted({*paths, *(caller for names in callers.values() for caller in names)})

    notes = data.with_name("notes")
    shutil.rmtree(notes, ignore_errors=True)
    notes.mkdir(parents=True)
    config = data.with_name("coveragerc")
    config.write_text(f"[run]\ndata_file = {data}\ninclude =\n" + "".join(f"    {tree}/{path}\n" for path in every))
    Path(f"{tree}.tmp").mkdir(exist_ok=True)
    env = os.environ | {"PYTHONPATH": f"{Path(__file__).parent}:{tree}/pipeline:{os.environ.get('PYTHONPATH', '')}"}
    env |= {"FLAGRELEASE_MUTANTS_NOTES": str(notes)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    plain = ["-q", "--tb=line", "-p", "notes", "-o", ADDOPTS, "-p", "no:cacheprovider"]
    spread = ["-n", str(processes), "--dist", "load", f"--basetemp={tree}.tmp/measure"]
    covered = ["--cov", f"--cov-config={config}", "--cov-context=test", "--cov-report="]
    subprocess.run([sys.executable, "-m", "pytest", *plain, *spread, *covered, *tests], cwd=tree, env=env, check=False)
    seconds: dict[str, float] = {}
    libraries: set[str] = set()
    failed: set[str] = set()
    for written in sorted(notes.glob("*.json")):
        note = json.loads(written.read_text())
        for test, spent in note["seconds"].items():
            seconds[test] = seconds.get(test, 0) + spent
        failed |= set(note["failed"])
        libraries |= set(note["libraries"])
    if not seconds:
        raise SystemExit("no test could be measured; see above")
    found = coverage.CoverageData(basename=str(data))
    found.read()
    lines = {}
    for path in every:
        contexts = found.contexts_by_lineno(str(tree / path))
        lines[path] = {
            line: sorted({name.rpartition("|")[0] for name in names if name} - failed)
            for line, names in contexts.items()
        }
    for path, names in callers.items():
        if not any(lines[path].values()):  # a program of its own: those who start it reach it
            lines[path] = {0: sorted({test for name in names for found in lines[name].values() for test in found})}
    return Reach(
        lines=lines,
        seconds={test: spent for test, spent in seconds.items() if test not in failed},
        libraries=sorted(libraries),
    )


def _callers(tree: Path, path: str) -> list[str]:
    """The modules that name a file, as those do that start it as a program."""
    name = f'"{Path(path).name}"'
    sources = sorted((tree / "pipeline/flagrelease").rglob("*.py"))
    return [str(source.relative_to(tree)) for source in sources if name in source.read_text()]


def preload(libraries: Sequence[str]) -> None:
    """Import the libraries that the tests import, once for all trials of a process."""
    skipped = ("prefect", "torch", "flagrelease", "tests", "support", "xdist", "notes", "antigravity", "this")
    for name in libraries:
        if name.partition(".")[0] not in skipped and name not in sys.modules:
            with suppress(BaseException):
                importlib.import_module(name)
