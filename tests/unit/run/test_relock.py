"""Relocking pins available sources, lists unavailable ones with the reason, and loses nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flagrelease.config import lockfile as locks
from flagrelease.config import matrix as matrices
from flagrelease.config.cell import Cell, expand
from flagrelease.config.lockfile import Brought, Lock, LockedChip, LockedFile, LockedModel, LockedWheels
from flagrelease.config.matrix import Matrix
from flagrelease.contract.context import Ports
from flagrelease.errors import CommandFailed, HubUnavailable, RegistryUnavailable
from flagrelease.ports.clock import SystemClock
from flagrelease.ports.hub import Listing, RealHubs
from flagrelease.ports.registry import MANIFEST_TYPES, Manifest
from flagrelease.run import relock
from support.hub_cases import Seen
from support.model_files import gguf

MATRIX = Path(__file__).parents[3] / "matrix.yaml"
ACCELERATORS = set(matrices.load(MATRIX).chips) - {"cpu", "arm"}
DIGEST = f"sha256:{'d' * 64}"


class Registry:
    """Returns the given digests; any other repository is unavailable."""

    def __init__(self, digests: Mapping[str, str | None]) -> None:
        self._digests = digests

    def digest(self, repository: str, reference: str) -> str | None:
        if (name := f"{repository}:{reference}") not in self._digests:
            raise RegistryUnavailable(f"no registry answers at {repository}")
        return self._digests[name]

    def manifest(self, repository: str, reference: str) -> Manifest:
        assert reference in self._digests.values(), f"{repository} has no {reference}"
        return Manifest(digest=reference, media_type=MANIFEST_TYPES[0], body=b"")


class Unverified:
    """Hubs that list no checksum of a file."""

    def resolve(self, source: str, _progress: object) -> Listing:
        file = LockedFile(path="config.json", size=2, sha256="0" * 64)
        return Listing(source=source, revision="1", files=(file,), unverified=("config.json",))

    def file(self, _locked: object, _into: object, *_others: object) -> Path:
        raise HubUnavailable("it went away")


class Images:
    """An engine with the given images; what their Python prints is their value."""

    def __init__(self, printed: Mapping[str, str]) -> None:
        self._printed = printed

    def image(self, reference: str) -> object:
        return reference if reference in self._printed else None

    def output(self, image: str, _argv: object, _labels: object) -> str:
        return self._printed[image]


def no_resolver(*_argv: object, **_options: object) -> Any:
    raise CommandFailed("`/home/me/python -m uv` ended with 1", why="no version of flag-gems==3.0")


class World:
    """The matrix of this repository with local sources, no resolver, and no registry unless one is set."""

    def __init__(self, folder: Path) -> None:
        (folder / "model").mkdir()
        (folder / "model" / "model.gguf").write_bytes(gguf(b"tiny"))
        (folder / "test.jsonl").write_text('{"question": "1"}\n{"question": "2"}\n')
        self.folder = folder
        matrix = matrices.load(MATRIX)
        models = {name: replace(model, source=f"file://{folder}/absent") for name, model in matrix.models.items()}
        models["smollm2-135m"] = replace(models["smollm2-135m"], source=f"file://{folder}/model")
        benchmarks = dict(matrix.benchmarks)
        benchmarks["short-tasks"] = replace(benchmarks["short-tasks"], data=f"file://{folder}/test.jsonl")
        self.matrix: Matrix = replace(matrix, models=models, benchmarks=benchmarks)
        self.registry = Registry({})
        self.hubs: Any = RealHubs()
        self.images: Any = Images({})
        self.progress = Seen()

    def cells(self, prefix: str = "") -> list[Cell]:
        return [cell for cell in expand(self.matrix) if not cell.excluded and cell.id.startswith(prefix)]

    def relock(self, old: Lock | None = None, prefix: str = "") -> Lock:
        return self.relocked(old, prefix).lock

    def relocked(self, old: Lock | None = None, prefix: str = "") -> relock.Relocked:
        unused: Any = None
        registry: Any = self.registry
        ports = Ports(
            clock=SystemClock(),
            command=no_resolver,
            docker=unused,
            runner=self.images,
            registry=registry,
            hubs=self.hubs,
        )
        return relock.relock(self.matrix, old or Lock(), ports, self.cells(prefix), self.progress)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_available_sources_are_pinned_and_others_are_listed_with_the_reason(world: World) -> None:
    lock = world.relock()

    assert [file.path for file in lock.models["smollm2-135m"].files] == ["model.gguf"]
    assert lock.benchmarks["short-tasks"].rows == 2
    assert lock.chips["cpu"].why
    assert lock.chips["cpu"].digest == ""
    assert set(lock.unresolved) == {
        *(f"models.{name}" for name in {cell.model_name for cell in world.cells()} - {"smollm2-135m"}),
        "wheels.cpu-llama_cpp",
        "wheels.arm-llama_cpp",
        "chips.arm",
        *(f"chips.{name}" for name in ACCELERATORS),
        *(f"wheels.{name}-vllm" for name in ACCELERATORS),
    }
    assert {"metax", "nvidia-h100"} <= ACCELERATORS
    assert lock.unresolved["chips.zhenwu"] == "chips.zhenwu has no base image: its `base` in matrix.yaml is unknown"
    assert "does not exist" in lock.unresolved["models.qwen3-8b"]
    assert all("\n" not in why for why in lock.unresolved.values())


def test_generated_questions_have_no_lock_entry(world: World) -> None:
    world.matrix = replace(world.matrix, benchmarks=matrices.load(MATRIX).benchmarks)
    assert world.matrix.benchmarks["short-tasks"].data.startswith("generated://")
    assert world.relock(prefix="cpu/").benchmarks == {}


def test_reasons_name_no_path_of_the_program_that_failed(world: World) -> None:
    assert world.relock().unresolved["wheels.metax-vllm"] == "no version of flag-gems==3.0"


def test_a_reason_continues_in_a_line() -> None:
    """It is followed by what to do."""
    error = CommandFailed("uv failed", why="cause: Because there is no a==3,\n  it is unsatisfiable.")
    assert relock._reason(error) == "Because there is no a==3, it is unsatisfiable"


def test_reasons_are_redacted_and_the_same_reason_is_no_change(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "version of flag-gems")
    first = world.relock()
    assert first.unresolved["wheels.metax-vllm"] == "no $SOME_TOKEN==3.0"
    path = world.folder / "matrix.lock"
    locks.save(path, first)
    assert locks.changes(locks.load(path), world.relock()) == ()


def test_the_reasons_in_matrix_lock_are_redacted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "open sesame")
    chip = LockedChip(base="open sesame", why="said open sesame")
    locks.save(tmp_path / "matrix.lock", Lock(chips={"c": chip}, unresolved={"models.m": "said\nopen sesame"}))
    read = locks.load(tmp_path / "matrix.lock")
    assert read.unresolved == {"models.m": "said\n$SOME_TOKEN"}
    assert read.chips["c"] == LockedChip(base="open sesame", why="said $SOME_TOKEN"), "what is compared stays"


def test_files_without_a_checksum_are_trusted_or_refused_as_the_matrix_says(world: World) -> None:
    world.hubs = Unverified()
    assert world.relock(prefix="cpu/").models["smollm2-135m"].unverified == ("config.json",)
    assert any("no checksum of config.json" in note for note in world.progress.notes)
    world.matrix = replace(world.matrix, defaults=replace(world.matrix.defaults, unverified_files="refuse"))
    relocked = world.relocked(prefix="cpu/")
    assert "models.smollm2-135m" not in relocked.lock.models
    for name in ("models.smollm2-135m", "benchmarks.short-tasks"):
        assert "the hub lists no checksum of config.json" in relocked.lock.unresolved[name]


def test_a_base_image_is_pinned_to_its_digest(world: World) -> None:
    base = world.matrix.chips["metax"].base
    world.registry = Registry({base: DIGEST})
    lock = world.relock()
    assert lock.chips["metax"] == LockedChip(base=base, digest=DIGEST)
    assert "chips.metax" not in lock.unresolved


@pytest.mark.parametrize(("version", "pinned"), [("3.0", True), ("5.3.3", False)])
def test_what_a_base_image_on_this_machine_brings_is_read_in_it(world: World, version: str, pinned: bool) -> None:
    base = world.matrix.chips["metax"].base
    world.registry = Registry({base: DIGEST})
    printed = f'a warning\n{{"flaggems": {{"version": "{version}", "source": "", "place": "/opt/site"}}}}\n'
    world.images = Images({f"{base.rpartition(':')[0]}@{DIGEST}": printed})
    lock = world.relock()
    if pinned:
        assert lock.chips["metax"].components == {"flaggems": Brought(version="3.0", place="/opt/site")}
    else:
        assert "has FlagGems 5.3.3: matrix.yaml says 3.0" in lock.unresolved["chips.metax"]


def test_a_base_image_that_is_gone_is_unresolved(world: World) -> None:
    world.registry = Registry({world.matrix.chips["metax"].base: None})
    assert "not in its registry" in world.relock().unresolved["chips.metax"]


def test_an_unavailable_source_keeps_its_old_entry(world: World) -> None:
    wheels = LockedWheels(inputs=("a",), requirements=("a==1 --hash=sha256:0",))
    lock = world.relock(Lock(wheels={"cpu-llama_cpp": wheels}))
    assert lock.wheels["cpu-llama_cpp"] == wheels
    assert "wheels.cpu-llama_cpp" in lock.unresolved


def test_only_the_selected_cells_are_relocked(world: World) -> None:
    old = Lock(
        models={"qwen3-8b": LockedModel(source="x", revision="r", files=(), digest="sha256:0")},
        unresolved={"chips.metax": "was away", "models.smollm2-135m": "was away"},
    )
    lock = world.relock(old, "cpu/")
    assert lock.models["qwen3-8b"] == old.models["qwen3-8b"]
    assert lock.unresolved["chips.metax"] == "was away"
    assert "models.smollm2-135m" not in lock.unresolved


def test_failures_of_this_call_only_are_reported_as_failed(world: World) -> None:
    old = Lock(unresolved={"chips.metax": "was away", "models.qwen3-8b": "was away"})
    relocked = world.relocked(old, "cpu/")
    assert set(relocked.failed) == {"wheels.cpu-llama_cpp"}
    assert relocked.failed["wheels.cpu-llama_cpp"].exit_code == CommandFailed.exit_code
    assert set(relocked.lock.unresolved) == {"chips.metax", "models.qwen3-8b", "wheels.cpu-llama_cpp"}


def test_changed_packages_are_named() -> None:
    def wheels(*pins: str, python: str = "3.11") -> Lock:
        lines = tuple(f"{pin} --hash=sha256:{pin[-1] * 64}" for pin in pins)
        return Lock(wheels={"cpu-x": LockedWheels(inputs=(f"python=={python}", "a", "b"), requirements=lines)})

    before = wheels("a==1.0", "b==2.0", "c==1.0", "d==1")
    after = wheels("a==1.1", "b==2.0", "d==1", "e==5")
    again = replace(after.wheels["cpu-x"], requirements=(*after.wheels["cpu-x"].requirements[:2], "d==1 --hash=x"))
    assert locks.changes(before, after) == ("~ wheels.cpu-x  a 1.0 → 1.1, - c 1.0, + e 5",)
    assert locks.changes(after, Lock(wheels={"cpu-x": again})) == ("~ wheels.cpu-x  d 1 with other files, - e 5",)
    other = ("~ wheels.cpu-x  the same packages for other requirements",)
    assert locks.changes(before, wheels("a==1.0", "b==2.0", "c==1.0", "d==1", python="3.12")) == other


def test_a_changed_base_image_is_named() -> None:
    locals_ = [Lock(chips={"cpu": LockedChip(base=base, why="local")}) for base in ("b:1", "b:2")]
    assert locks.changes(*locals_) == ("~ chips.cpu  b:1 local → b:2 local",)


def test_entries_that_left_the_matrix_are_dropped(world: World) -> None:
    gone = LockedModel(source="x", revision="r", files=(), digest="sha256:0")
    lock = world.relock(
        Lock(models={"gone": gone}, chips={"gone": LockedChip(base="x")}, unresolved={"models.old": "?"})
    )
    assert "gone" not in lock.models
    assert "gone" not in lock.chips
    assert "models.old" not in lock.unresolved


def test_locking_again_changes_nothing_and_a_new_file_shows(world: World) -> None:
    first = world.relock()
    assert locks.changes(first, world.relock(first)) == ()

    (world.folder / "model" / "more.bin").write_bytes(b"X")
    (line,) = locks.changes(first, world.relock(first))
    assert line.startswith("~ models.smollm2-135m")


def test_the_lock_survives_its_file(world: World, tmp_path: Path) -> None:
    lock = world.relock()
    locks.save(tmp_path / "matrix.lock", lock)
    assert locks.load(tmp_path / "matrix.lock") == lock
