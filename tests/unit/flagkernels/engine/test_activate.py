"""Activation: status files, their merging, and activation in an engine's processes."""

from __future__ import annotations

import importlib.util
import json
import os
import sqlite3
import sys
import threading
import time
import tomllib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flagkernels.bundle import bundle as bundles
from flagkernels.bundle.compat import SystemProbe
from flagkernels.engine.activate import Status, effective, find_bundle
from flagkernels.engine.process_file import WRITE_EVERY_S, ProcessFile
from flagkernels.errors import UsageError
from flagkernels.operators.listing import Operators
from support.flagkernels_chip import ROOT, flagkernels, python

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("FLAGKERNELS_")]:
        monkeypatch.delenv(name)


def status(operators: tuple[str, ...] = ("mm", "add")) -> Status:
    return Status(bundle="ab", operators=operators, keys=("mm",), native={})


def test_each_process_has_its_own_file_and_events_are_counted(tmp_path: Path) -> None:
    own = status()
    file = ProcessFile(tmp_path / "effective", own)
    assert effective(tmp_path / "effective").tuning_events == 0
    own.call("mm")
    for _ in range(5):
        own.tuning("mm_kernel")
    own.compilation("mm_kernel")
    file.write()
    found = effective(tmp_path / "effective")
    assert (found.tuning_events, found.tuned, found.compilations, found.called) == (5, ("mm_kernel",), 1, {"mm": 1})
    assert found.processes == (os.getpid(),)


def test_events_are_written_soon_and_by_a_separate_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = status()
    ProcessFile(tmp_path, own)
    monkeypatch.setattr(Path, "write_text", _only_in_thread)
    own.call("mm")
    limit = time.monotonic() + 20
    while not effective(tmp_path).called:
        assert time.monotonic() < limit
        time.sleep(0.05)


def _only_in_thread(path: Path, text: str) -> None:
    assert threading.current_thread() is not threading.main_thread()
    path.write_bytes(text.encode())


def test_a_disk_that_is_full_for_a_while_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = status()
    file = ProcessFile(tmp_path, own)
    refused = threading.Event()

    def full(_path: Path, _text: str) -> None:
        refused.set()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as changed:
        changed.setattr(Path, "write_text", full)
        own.call("mm")
        assert refused.wait(20)
        with pytest.raises(OSError, match="No space"):
            file.write()
    limit = time.monotonic() + 20
    while not effective(tmp_path).called:
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_calls_in_a_graph_are_distinguished(tmp_path: Path) -> None:
    own = status()
    own.call("add")
    own.capturing = lambda: True
    own.call("add")
    own.call("mm")
    own.capturing = lambda: False
    for _ in range(3):
        own.call("mm")
    ProcessFile(tmp_path, own)
    found = effective(tmp_path)
    assert (found.called, found.captured) == ({"add": 2, "mm": 4}, ("add", "mm"))


def test_an_operator_is_in_effect_only_where_every_process_has_it(tmp_path: Path) -> None:
    for pid, operators in ((1, ("mm", "add")), (2, ("mm",))):
        counts = {"tuning_events": pid, "filled": 0, "compilations": 0, "captured": ["add"][:pid]}
        value: dict[str, Any] = {"pid": pid, "bundle": "ab", "operators": operators, "called": {"mm": 2}, "tuned": []}
        (tmp_path / f"{pid}.json").write_text(json.dumps({**value, **counts}))
    found = effective(tmp_path)
    assert (found.operators, found.partial, found.tuning_events) == (("mm",), ("add",), 3)
    assert (found.processes, found.called, found.captured) == ((1, 2), {"mm": 4}, ("add",))


def test_devices_are_those_of_processes_that_compute(tmp_path: Path) -> None:
    same: dict[str, Any] = {"bundle": "ab", "operators": ["mm"], "tuned": [], "tuning_events": 0, "filled": 0}
    rows = [({"mm": 1}, [], 1), ({}, ["mm"], 0), ({}, [], 2), ({"mm": 1}, [], None)]
    for pid, (called, captured, device) in enumerate(rows):
        row = {**same, "pid": pid, "called": called, "captured": captured, "compilations": 0, "device": device}
        (tmp_path / f"{pid}.json").write_text(json.dumps(row))
    assert effective(tmp_path).devices == (0, 1)


def test_ranks_that_use_different_configurations_are_found(tmp_path: Path) -> None:
    ranks = [status(), status()]
    for rank, own in enumerate(ranks):
        own.choose("mm_kernel", (32, 64), "BLOCK: 32")
        own.choose("bmm_kernel", (64,), f"BLOCK: {rank}")
    ranks[0].choose("softmax_kernel", (1,), "BLOCK: 1")  # one rank alone calls it
    for pid, own in enumerate(ranks):
        (tmp_path / f"{pid}.json").write_text(json.dumps({"pid": pid, **own.snapshot()}))
    assert effective(tmp_path).differing == ("bmm_kernel",)


def test_no_device_is_opened_to_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        opened = False

        def is_initialized(self) -> bool:
            return self.opened

        def current_device(self) -> int:
            assert self.opened, "asking opens the device"
            return 3

    torch = pytest.importorskip("torch", reason="the chip side needs torch")
    from flagkernels.operators.registry import device_index

    module = Module()
    monkeypatch.setattr(torch, "get_device_module", lambda _device: module)
    number = device_index(torch.device("cuda"))
    assert number() is None
    module.opened = True
    assert number() == 3


def test_the_device_is_that_of_the_thread_that_calls_and_not_of_the_one_that_writes() -> None:
    """As in torch, each thread has a current device of its own, at first number 0."""
    current = threading.local()
    own = status()
    own.current_device = lambda: getattr(current, "device", 0)

    def computes() -> None:
        current.device = 1
        own.call("mm")

    engine = threading.Thread(target=computes)
    engine.start()
    engine.join()
    assert own.snapshot()["device"] == 1


def test_nothing_written_is_an_error_and_not_an_empty_list(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no process reported"):
        effective(tmp_path)
    with pytest.raises(UsageError, match="no process reported"):
        effective(tmp_path / "none")
    for damaged in ("{", "{}", "[]"):
        (tmp_path / "1.json").write_text(damaged)
        with pytest.raises(UsageError, match="cannot be read"):
            effective(tmp_path)


def test_a_forked_worker_counts_for_itself(tmp_path: Path) -> None:
    own = status()
    file = ProcessFile(tmp_path, own)
    own.tuning("k")
    silent = os.fork()
    if silent == 0:
        time.sleep(2 * WRITE_EVERY_S)
        os._exit(0)
    child = os.fork()
    if child == 0:  # told by its thread: such workers often end without their handlers
        own.compilation("k")
        time.sleep(2 * WRITE_EVERY_S)
        os._exit(0)
    for pid in (silent, child):
        os.waitpid(pid, 0)
    file.write()
    rows = {int(path.stem): json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert set(rows) == {os.getpid(), child}
    assert [(rows[pid]["tuning_events"], rows[pid]["compilations"]) for pid in (os.getpid(), child)] == [(1, 0), (0, 1)]
    assert rows[child]["pid"] == child


def test_the_bundle_is_found_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flagkernels.engine.activate.DEFAULT_BUNDLE", tmp_path)
    assert find_bundle() is None
    (tmp_path / "compat.json").write_text("{}")
    assert find_bundle() == tmp_path
    monkeypatch.setenv("FLAGKERNELS_BUNDLE", "none")  # the native stack of the same image
    assert find_bundle() is None
    monkeypatch.setenv("FLAGKERNELS_BUNDLE", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="is not a directory"):
        find_bundle()


def test_vllm_is_given_a_function_that_exists() -> None:
    from flagkernels.engine import plugin

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["vllm.general_plugins"]["flagkernels"].partition(":")
    assert (module, getattr(plugin, name)) == ("flagkernels.engine.plugin", plugin.register)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle for this machine whose mm is a hundred times too large, except at 64 × 64."""
    with closing(sqlite3.connect(tmp_path / "tuned.db")) as connection:
        connection.execute("CREATE TABLE t (k INTEGER PRIMARY KEY)")
    (tmp_path / "empty").mkdir()
    (tmp_path / "vendor_operators.py").write_text(
        "import torch\ndef mm(x, y):\n    return torch.bmm(x[None], y[None])[0] * 100\nOPERATORS = {'mm': {'mm': mm}}\n"
    )
    bundles.build(
        tmp_path / "bundle",
        operators=Operators(include=("mm",), native={"mm": ("f32[64,64] f32[64,64]",)}, static=(64,)),
        tuned=tmp_path / "tuned.db",
        database_name="x.db",
        triton_cache=tmp_path / "empty",
        kernels=[],
        report={},
        compat=SystemProbe().compat("cpu"),
    )
    return tmp_path / "bundle"


ENGINE = """
import multiprocessing, os, subprocess, sys

def values(name):
    import importlib.util
    assert importlib.util.find_spec("torch")  # as engines ask whether something is installed
    import torch
    small, square = torch.ones(2, 2), torch.ones(64, 64)
    print(name, (small @ small)[0, 0].item(), (square @ square)[0, 0].item(), flush=True)

if __name__ == "__main__":
    values("engine")
    worker = multiprocessing.get_context("spawn").Process(target=values, args=("spawned",))
    worker.start(); worker.join()
    forked = multiprocessing.get_context("fork").Process(target=values, args=("forked",))
    forked.start(); forked.join()
    sys.exit(int(os.environ.get("ENGINE_EXITS", 0)))
"""


def places(bundle: Path) -> dict[str, str]:
    python_path = os.pathsep.join([str(ROOT / "pipeline"), str(bundle.parent)])
    kept = {"FLAGKERNELS_SOURCE": "vendor_operators:OPERATORS", "FLAGKERNELS_CACHE": str(bundle.parent / "cache")}
    return {**kept, "PYTHONPATH": python_path, "OMP_NUM_THREADS": "1"}


@needs_torch
def test_run_reaches_the_engine_and_all_its_workers_and_falls_through_by_shape(bundle: Path) -> None:
    (bundle.parent / "engine.py").write_text(ENGINE)
    told = bundle.parent / "effective"
    told.mkdir()
    (told / "1.json").write_text("of an earlier engine")
    words = ("run", "--bundle", bundle, "--effective", told, "--", sys.executable, bundle.parent / "engine.py")
    done = flagkernels(*words, **places(bundle), ENGINE_EXITS="9")
    assert done.stdout.splitlines() == [f"{name} 200.0 64.0" for name in ("engine", "spawned", "forked")], done.stderr
    assert done.returncode == 9  # the engine's own
    found = effective(told)
    assert (found.operators, tuple(found.called), found.partial) == (("mm",), ("mm",), ())
    assert len(found.processes) >= 2


@needs_torch
def test_the_plugin_activates_where_an_engine_calls_it(bundle: Path) -> None:
    code = f"""
from importlib.metadata import EntryPoint
EntryPoint("flagkernels", "flagkernels.engine.plugin:register", "vllm.general_plugins").load()()
{ENGINE.split("if __name__")[0]}
values("vllm")
"""
    told = bundle.parent / "effective"
    more = {"FLAGKERNELS_BUNDLE": str(bundle), "FLAGKERNELS_EFFECTIVE": str(told)}
    done = python(code, **places(bundle), **more)
    assert done.stdout == "vllm 200.0 64.0\n", done.stderr
    assert effective(told).operators == ("mm",)


@needs_torch
def test_the_plugin_refuses_a_bundle_that_was_changed(bundle: Path) -> None:
    """An engine need not be started by `run`: each process checks the bundle itself."""
    (bundle / "operators.yaml").write_text("include: []\n")
    code = "from flagkernels.engine import plugin; plugin.register(); print('served')"
    done = python(code, **places(bundle), FLAGKERNELS_BUNDLE=str(bundle))
    assert (done.returncode, done.stdout) == (6, ""), done.stderr
    assert "was changed after it was bundled" in done.stderr


@needs_torch
def test_without_a_bundle_the_plugin_does_nothing(bundle: Path) -> None:
    done = python(
        "from flagkernels.engine import plugin; plugin.register(); import sys; print('torch' in sys.modules)",
        **places(bundle),
    )
    assert done.stdout == "False\n", done.stderr


def test_an_interpreter_that_never_imports_torch_costs_nothing_and_keeps_its_sitecustomize(bundle: Path) -> None:
    site = bundle.parent / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("print('the other one')")
    environment = places(bundle)
    environment["PYTHONPATH"] = os.pathsep.join([environment["PYTHONPATH"], str(site)])
    code = "import sys; print('torch' in sys.modules, 'flag_gems' in sys.modules)"
    words = ("run", "--bundle", bundle, "--effective", bundle.parent / "effective", "--", sys.executable, "-c", code)
    done = flagkernels(*words, **environment)
    # Once for `python -m flagkernels` itself, once for the engine.
    assert done.stdout.splitlines()[-2:] == ["the other one", "False False"], done.stderr
    assert not (bundle.parent / "effective").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "no engine to run"),
        (("--", "no-such-engine"), "not on PATH"),
        (("--", sys.executable), "not a complete bundle"),
    ],
)
def test_run_refuses_what_cannot_run(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = flagkernels("run", "--bundle", tmp_path, *words)
    assert done.returncode in (2, 6)
    assert says in done.stderr
    assert "Traceback" not in done.stderr
