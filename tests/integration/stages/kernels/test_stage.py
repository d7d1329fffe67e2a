"""The kernels stage in real containers: killed, resumed, its bundle in an image, in effect, and damaged."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

import support.kernels_cell as given
from flagrelease.contract import results
from flagrelease.errors import ConfigError, DiedBeforeReady, GateFailed
from flagrelease.packaging import operator_bundle
from flagrelease.ports.container_runner import WORKSPACE_LABEL
from flagrelease.ports.docker.engine import Engine
from flagrelease.ports.openai_client import Client
from flagrelease.serving.inside import CheckFailed, Inside
from flagrelease.serving.operator_status import Counting
from flagrelease.serving.server import Served, ServeRequest, served
from flagrelease.stages.image import build_context
from flagrelease.stages.kernels import stage as kernels
from flagrelease.stages.smoke import endpoint_checks, operator_checks
from flagrelease.stages.smoke.endpoint_checks import Bench
from support import served_cell
from support.contexts import after
from support.flagkernels_chip import require_stand_in

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]  # six starts of torch in containers


PROGRAM = Path(sys.executable).parent / "flagrelease"


@dataclass(frozen=True)
class Prepared:
    """`root` is the project's folder."""

    root: Path
    result: results.Kernels
    rows_when_killed: int

    @property
    def bundle(self) -> Path:
        return self.root / ".flagrelease" / self.result.folder


def tune(root: Path, *words: str) -> subprocess.Popen[str]:
    argv = [str(PROGRAM), "tune", "--chip", "stand-in", "--model", "tiny", *words]
    environment = {name: text for name, text in os.environ.items() if not name.startswith("FLAG")}
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, cwd=root, env=environment, stdout=pipe, stderr=pipe, text=True)


def tuned(root: Path, *words: str) -> tuple[int, str, str]:
    with tune(root, *words) as process:
        out, err = process.communicate(timeout=900)
    return process.returncode, out, err


def steps(root: Path) -> Path:
    return root / ".flagrelease/work/stand-in--tiny/kernels/work"


@pytest.fixture(scope="module")
def prepared(engine: Engine, base: str, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Killed in the middle of qualifying, then run again to its end."""
    require_stand_in()
    root = tmp_path_factory.mktemp("kernels")
    given.write_project(root, base)
    verdicts = steps(root) / "verdicts.jsonl"
    with tune(root) as killed:
        while killed.poll() is None and not (verdicts.exists() and "\n" in verdicts.read_text()):
            time.sleep(0.05)
        assert killed.poll() is None, killed.communicate()
        killed.send_signal(signal.SIGKILL)
    rows = verdicts.read_text().count("\n")
    assert len(left(root)) == 1  # the container goes on by itself, until the next run
    code, out, err = tuned(root, "--json")
    assert code == 0, err
    (cell,) = json.loads(out)["cells"]
    result = msgspec.convert(cell["kernels"], results.Kernels)
    assert cell["bundle"] == str(root / ".flagrelease" / result.folder)
    return Prepared(root, result, rows)


def left(root: Path) -> list[str]:
    label = f"label={WORKSPACE_LABEL}={(root / '.flagrelease').resolve()}"
    listed = subprocess.run(["docker", "ps", "-aq", "--filter", label], capture_output=True, text=True, check=True)
    return listed.stdout.split()


def test_a_killed_run_goes_on_with_what_is_missing(prepared: Prepared) -> None:
    rows = [json.loads(line) for line in (steps(prepared.root) / "verdicts.jsonl").read_text().splitlines()]
    assert prepared.rows_when_killed < 3
    assert sorted(row["operator"] for row in rows) == ["mm", "neg", "silu"]  # none of them twice
    assert not left(prepared.root)


def test_what_is_wrong_is_left_out_and_the_figures_are_told(prepared: Prepared) -> None:
    found = prepared.result
    assert [one.name for one in found.operators] == ["mm", "neg"]
    (out,) = found.excluded
    assert (out.operator, out.verdict) == ("silu", "wrong")
    assert "out of bound" in out.reason
    assert found.verdicts == {"correct": 2, "wrong": 1}
    assert found.tuning.kernels == 1
    assert found.tuning.candidates > found.tuning.keys > 1
    assert found.served.keys() == {"decode:1x16"}
    assert {one.name for one in found.evidence} >= {"verdicts.jsonl", "operators.yaml", "report.json", "bundle.tar"}


def test_nothing_is_done_twice_and_the_table_names_every_operator(prepared: Prepared) -> None:
    start = time.monotonic()
    code, out, _ = tuned(prepared.root)
    assert code == 0
    assert time.monotonic() - start < 30
    lines = [line.split() for line in out.splitlines()]
    assert ["mm", "correct", "yes"] in [line[:3] for line in lines]
    assert ["silu", "wrong", "no"] in [line[:3] for line in lines]
    assert ["bundle", str(prepared.bundle)] in lines


def test_a_bundle_that_was_changed_in_the_workspace_is_made_again(prepared: Prepared) -> None:
    look: Any = given.context(prepared.root)
    assert kernels.intact(replace(prepared.result, folder="kernels/none"), look) == "the bundle is missing"
    assert kernels.intact(prepared.result, look) == ""
    listed = prepared.bundle / "operators.yaml"
    before = listed.read_bytes()
    listed.write_text("include: [mm, neg, silu]\n")
    assert kernels.intact(prepared.result, look) == "the bundle was changed after it was made"
    code, _out, err = tuned(prepared.root)
    assert code == 0, err
    assert listed.read_bytes() == before
    assert kernels.intact(prepared.result, look) == ""


@pytest.mark.slow  # all steps again
def test_a_config_json_is_tuned_under_a_name_of_its_own(prepared: Prepared) -> None:
    config = prepared.root / "model/config.json"
    code, out, err = tuned(prepared.root, "--config", str(config), "--json")
    assert code == 0, err
    (cell,) = json.loads(out)["cells"]
    assert cell["cell"] == "stand-in/tiny.config"
    assert [one["name"] for one in cell["kernels"]["operators"]] == ["mm", "neg"]
    code, out, _ = tuned(prepared.root, "--config", str(config))
    assert (code, out.split()[0]) == (0, "stand-in/tiny.config"), "nothing is done twice"
    ledger = (prepared.root / ".flagrelease/ledger.jsonl").read_text().splitlines()
    assert {json.loads(line)["cell"] for line in ledger} == {"stand-in/tiny", "stand-in/tiny.config"}


def test_an_excluded_operator_that_does_not_exist_is_met_with_the_nearest(prepared: Prepared) -> None:
    with pytest.raises(ConfigError, match="has no operator 'nge'") as caught:
        kernels.STAGE.run(given.job(prepared.root, exclude={"nge": "typed in haste"}), given.context(prepared.root))
    assert "did you mean 'neg'" in caught.value.hint


def test_weights_that_are_no_model_are_refused(prepared: Prepared) -> None:
    context = given.context(prepared.root, "none")
    config = prepared.root / ".flagrelease/weights/none/config.json"
    config.parent.mkdir()
    with pytest.raises(ConfigError, match=r"have no config\.json"):
        kernels.STAGE.run(given.job(prepared.root), context)
    config.write_text('{"model_type": "qwne3"}')
    with pytest.raises(ConfigError, match="does not know the architecture 'qwne3'"):
        kernels.STAGE.run(given.job(prepared.root), context)


def test_where_every_operator_is_out_the_gate_fails(prepared: Prepared) -> None:
    everything = dict.fromkeys(("mm", "neg", "silu"), "by hand")
    with pytest.raises(GateFailed, match="every operator that the model calls is excluded"):
        kernels.STAGE.run(given.job(prepared.root, exclude=everything), given.context(prepared.root))


@dataclass(frozen=True)
class Up:
    server: Served
    at: Inside
    on: Bench


class Images:
    """Images of the real Dockerfile, with bundles as they are or damaged."""

    def __init__(self, engine: Engine, registry: str, base: str, prepared: Prepared, folder: Path) -> None:
        self.engine, self.base, self.prepared = engine, base, prepared
        self.repository = f"{registry}/test/kernels"
        self.house = given.wheelhouse(folder / "house")

    def build(self, folder: Path) -> results.Image:
        job = given.job(self.prepared.root)
        bundle = operator_bundle.Shipped(self.prepared.result, folder)
        plan = build_context.draw(job, self.house, self.base, "", operators=bundle)
        packed = io.BytesIO()
        build_context.write(plan, packed)
        packed.seek(0)
        self.engine.build(packed, tag=f"{self.repository}:test", args={"BASE": self.base}, line=lambda _text: None)
        pushed = self.engine.push(self.repository, "test", lambda _done, _total: None)
        return served_cell.image(self.repository, pushed.digest)

    @contextmanager
    def up(self, image: results.Image) -> Iterator[Up]:
        job = given.job(self.prepared.root)
        context = given.context(self.prepared.root)
        weights = context.result(results.WEIGHTS)
        with (
            served(job, context, ServeRequest(image=image, weights=weights, stack="flagos")) as server,
            Client(server.base_url, seconds=60) as client,
        ):
            at = Inside(cell=job.cell, context=context, server=server, image=image, weights=weights)
            yield Up(server, at, endpoint_checks.make_bench(server, client, job.cell.model, long_tokens=256))


@pytest.fixture(scope="module")
def images(
    engine: Engine, own_registry: str, base: str, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory
) -> Images:
    return Images(engine, own_registry, base, prepared, tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def up(images: Images) -> Iterator[Up]:
    with images.up(images.build(images.prepared.bundle)) as served_image:
        yield served_image


@pytest.mark.slow  # an image with a bundle of its own, and its server
def test_the_image_serves_with_its_operators_and_tunes_nothing(up: Up, prepared: Prepared) -> None:
    assert up.on.reference.text == "-64"  # by the replaced product and negation
    told = {name: check() for name, check in operator_checks.all_of(up.at, up.on, prepared.result)}
    assert told["operators in effect"] == f"2 operators in 1 process, bundle {prepared.result.content[:12]}"
    assert told["no tuning"].startswith("0 tuning events after 100 requests")
    assert told["operators called"] == "mm, neg"


@pytest.mark.slow  # an image with a bundle of its own, and its server
def test_what_operators_do_while_questions_are_asked_is_counted(up: Up, prepared: Prepared) -> None:
    context = after(given.context(prepared.root), kernels=prepared.result)
    counting = Counting(lambda *_where, **_what: nullcontext(up.server))
    request = ServeRequest(image=up.at.image, weights=up.at.weights, stack="flagos")
    with counting(given.job(prepared.root), context, request):
        up.on.ask("day")
    assert counting.called is not None
    assert set(counting.called) == {"mm", "neg"}
    request = ServeRequest(image=up.at.image, weights=up.at.weights, stack="flagos")
    with counting(given.job(prepared.root), context, request):
        pass
    assert min(counting.called.values()) > 0


@pytest.mark.slow  # an image with a bundle of its own, and its server
def test_the_native_stack_of_the_same_image_has_none(up: Up) -> None:
    serve = json.loads(up.at.execute("cat", "/etc/flagos/manifest.json"))["serve"]
    off = [f"{name}={value}" for name, value in serve["env"]["native"].items()]
    program = "from flagkernels.engine import activate, plugin; plugin.register(); print(activate.find_bundle())"
    assert up.at.execute("env", *off, "python3", "-c", program) == "None\n"


@pytest.mark.slow  # an image with a bundle of its own, and its server
def test_vllms_plugins_find_it_in_every_python(up: Up) -> None:
    found = "entry_points(group='vllm.general_plugins')['flagkernels'].load()"
    said = up.at.execute("python3", "-c", f"from importlib.metadata import entry_points; print({found})")
    assert "function register" in said
    assert "flagkernels" in up.at.packages()


@pytest.mark.slow  # an image of its own
def test_a_bundle_that_was_changed_never_serves(images: Images, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(images.prepared.bundle, folder)
    (folder / "operators.yaml").write_text("include: [mm, neg, silu]\n")
    with pytest.raises(DiedBeforeReady) as caught, images.up(images.build(folder)):
        pass
    assert "was changed after it was bundled" in caught.value.detail


@pytest.mark.slow  # an image of its own
def test_a_database_that_misses_is_found(images: Images, tmp_path: Path) -> None:
    from flagkernels.bundle import bundle as bundles

    folder = tmp_path / "bundle"
    shutil.copytree(images.prepared.bundle, folder)
    with closing(sqlite3.connect(folder / "tuned.db")) as connection:
        (table,) = connection.execute("SELECT name FROM sqlite_master WHERE type='table'").fetchone()
        connection.execute(f'DELETE FROM "{table}"')  # noqa: S608 -- the name is SQLite's own
        connection.commit()
    label = {**json.loads((folder / "compat.json").read_text()), "content": bundles.content(folder)}
    (folder / "compat.json").write_text(json.dumps(label))
    with images.up(images.build(folder)) as up:
        with pytest.raises(CheckFailed, match="is in effect instead of"):
            operator_checks.in_effect(up.at, images.prepared.result)
        with pytest.raises(CheckFailed, match="12 candidates of product_kernel were timed since startup"):
            operator_checks.no_tuning(up.at, up.on)
