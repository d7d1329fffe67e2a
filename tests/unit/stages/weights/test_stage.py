"""The weights stage on local files: completeness, cheap checks and repair."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from flagrelease.config import lockfile as locks
from flagrelease.config import matrix as matrices
from flagrelease.config.cell import expand
from flagrelease.config.lockfile import Lock
from flagrelease.contract.context import Context, Look, Ports
from flagrelease.contract.job import Job
from flagrelease.contract.results import Weights
from flagrelease.errors import ConfigError, HubRefused
from flagrelease.ports import dsse
from flagrelease.ports.clock import SystemClock
from flagrelease.ports.meter import Meter
from flagrelease.serving.inside import CheckFailed, Inside
from flagrelease.stages.smoke import container_checks
from flagrelease.stages.weights import signature
from flagrelease.stages.weights import stage as weights
from flagrelease.stages.weights.folder import seal
from flagrelease.store.evidence import EvidenceStore
from flagrelease.store.workspace import Workspace
from support.hub_cases import Fetch, Seen
from support.model_files import gguf
from support.signing_keys import keys

MATRIX = Path(__file__).parents[4] / "matrix.yaml"
FILES = {"model.gguf": gguf(b"GGUF" * 1000), "sub/config.json": b"{}"}


class Bench:
    """A cell whose model is a local folder."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source"
        for path, content in FILES.items():
            (self.source / path).parent.mkdir(parents=True, exist_ok=True)
            (self.source / path).write_bytes(content)
        matrix = matrices.load(MATRIX)
        model = replace(matrix.models["smollm2-135m"], source=f"file://{self.source}")
        matrix = replace(matrix, models={**matrix.models, "smollm2-135m": model})
        self.fetch = Fetch(folder / "unused")
        lock = Lock(models={"smollm2-135m": self.fetch.lock(model.source)})
        cell = next(cell for cell in expand(matrix) if cell.id == "cpu/smollm2-135m")
        self.job = Job(cell=cell, matrix=matrix, lock=lock, registry="localhost:5000/x", templates=folder)
        self.workspace = Workspace(folder / "workspace")
        self.progress = Seen()
        unused: object = None
        self.context = Context(
            run_id="r1",
            workspace=self.workspace,
            evidence=EvidenceStore(self.workspace.evidence),
            ports=Ports(
                clock=SystemClock(),
                command=unused,  # type: ignore[arg-type]
                docker=unused,  # type: ignore[arg-type]
                runner=unused,  # type: ignore[arg-type]
                registry=unused,  # type: ignore[arg-type]
                hubs=self.fetch.hubs,
            ),
            progress=self.progress,
            meter=Meter(SystemClock()),
        )

    def run(self) -> Weights:
        result = weights.run(self.job, self.context)
        assert isinstance(result, Weights)
        return result

    def trouble(self, result: Weights) -> str:
        return weights.intact(result, Look(workspace=self.workspace, evidence=self.context.evidence))

    def folder(self, result: Weights) -> Path:
        return self.workspace.weights / result.folder


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_matrix_that_refuses_unverified_files_blocks_a_lock_that_has_them(bench: Bench) -> None:
    model = replace(bench.job.lock.models["smollm2-135m"], unverified=("model.gguf",))
    bench.job = replace(bench.job, lock=Lock(models={"smollm2-135m": model}))
    bench.run()
    defaults = replace(bench.job.matrix.defaults, unverified_files="refuse")
    bench.job = replace(bench.job, matrix=replace(bench.job.matrix, defaults=defaults))
    with pytest.raises(ConfigError, match="files that nobody vouches for") as refused:
        weights.inputs(bench.job)
    assert "no checksum of model.gguf" in refused.value.why


def test_the_folder_is_named_by_its_digest_and_holds_the_files_alone(bench: Bench) -> None:
    result = bench.run()
    folder = bench.folder(result)
    assert result.folder == f"smollm2-135m/{result.digest.removeprefix('sha256:')[:12]}"
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == FILES
    assert bench.trouble(result) == ""


def test_a_second_run_reads_nothing_but_the_manifest(bench: Bench) -> None:
    result = bench.run()
    for path in FILES:
        (bench.source / path).unlink()
    assert bench.run() == replace(result, bytes_moved=0)


def rewritten(path: Path) -> None:
    """Another content of the same size, with the old time."""
    before = path.stat()
    path.write_bytes(b"X" + path.read_bytes()[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_manifest_of_an_older_version_is_accepted(bench: Bench) -> None:
    result = bench.run()
    manifest = bench.folder(result).with_name(f"{bench.folder(result).name}.json")
    content = json.loads(manifest.read_text())
    for file in content["files"]:
        del file["inode"], file["ctime"]
    manifest.write_text(json.dumps(content))
    assert bench.trouble(result) == ""


def test_smoke_reads_the_weights_and_what_a_failing_disk_changed_is_fetched_again(bench: Bench) -> None:
    result = bench.run()
    folder = bench.folder(result)
    inside = Inside(
        cell=bench.job.cell,
        context=bench.context,
        weights=result,
        server=None,  # type: ignore[arg-type]  # neither is asked
        image=None,  # type: ignore[arg-type]
    )
    assert container_checks.weights_unchanged(inside) == f"{len(FILES)} files, sha256 verified"
    rewritten(folder / "model.gguf")
    seal(folder, result.digest, result.files)  # a failing disk does not change what the file system says
    assert bench.trouble(result) == ""
    with pytest.raises(CheckFailed, match=r"model\.gguf is not what was verified"):
        container_checks.weights_unchanged(inside)
    bench.run()
    assert (folder / "model.gguf").read_bytes() == FILES["model.gguf"]
    (folder / "model.gguf").unlink()
    with pytest.raises(CheckFailed, match=r"model\.gguf"):
        container_checks.weights_unchanged(inside)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda folder: (folder / "model.gguf").unlink(), "model.gguf is missing"),
        (lambda folder: (folder / "model.gguf").write_bytes(b"X"), "model.gguf has changed"),
        (lambda folder: os.utime(folder / "model.gguf", (1, 1)), "model.gguf has changed"),
        (lambda folder: rewritten(folder / "model.gguf"), "model.gguf has changed"),
        (lambda folder: (folder / "more.bin").write_bytes(b"X"), "more.bin does not belong"),
        (lambda folder: folder.with_name(folder.name + ".json").unlink(), "incomplete"),
        (lambda folder: folder.with_name(folder.name + ".json").write_text('{"digest"'), "cannot be read"),
    ],
)
def test_damage_is_detected_and_repaired(harm: object, says: str, bench: Bench) -> None:
    result = bench.run()
    folder = bench.folder(result)
    assert callable(harm)
    harm(folder)
    assert says in bench.trouble(result)
    bench.run()
    assert bench.trouble(result) == ""
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == FILES


def test_a_flipped_bit_with_the_old_size_is_set_aside_and_fetched(bench: Bench) -> None:
    result = bench.run()
    target = bench.folder(result) / "model.gguf"
    target.write_bytes(b"X" + FILES["model.gguf"][1:])
    bench.run()
    assert target.read_bytes() == FILES["model.gguf"]
    assert any("model.gguf is damaged" in note for note in bench.progress.notes)
    (aside,) = target.parent.with_name(target.parent.name + ".quarantine").iterdir()
    assert aside.read_bytes()[:1] == b"X"


def test_a_source_that_changed_since_the_lock_is_refused(bench: Bench) -> None:
    (bench.source / "model.gguf").write_bytes(b"another model")
    with pytest.raises(HubRefused, match="changed since it was locked"):
        bench.run()


def test_a_lock_for_another_source_is_refused(bench: Bench) -> None:
    entry = replace(bench.job.lock.models["smollm2-135m"], source="file:///elsewhere")
    job = replace(bench.job, lock=Lock(models={"smollm2-135m": entry}))
    with pytest.raises(ConfigError, match="another source") as caught:
        weights.inputs(job)
    assert "flagrelease lock" in caught.value.hint


def test_an_edited_lock_is_refused(bench: Bench) -> None:
    entry = bench.job.lock.models["smollm2-135m"]
    edited = replace(entry, files=(replace(entry.files[0], sha256="0" * 64), *entry.files[1:]))
    with pytest.raises(ConfigError, match="was edited"):
        weights.inputs(replace(bench.job, lock=Lock(models={"smollm2-135m": edited})))


def test_a_model_that_is_not_locked_says_why(bench: Bench) -> None:
    job = replace(bench.job, lock=Lock(unresolved={"models.smollm2-135m": "no network"}))
    with pytest.raises(ConfigError) as caught:
        weights.inputs(job)
    assert caught.value.why == "no network"


def test_the_committed_lock_is_of_the_committed_matrix() -> None:
    matrix, lock = matrices.load(MATRIX), locks.load(MATRIX.with_suffix(".lock"))
    job = Job(
        cell=next(cell for cell in expand(matrix) if cell.id == "cpu/smollm2-135m"),
        matrix=matrix,
        lock=lock,
        registry="localhost:5000/x",
        templates=MATRIX.parent,
    )
    assert weights.inputs(job)["digest"] == lock.models["smollm2-135m"].digest
    assert lock.benchmarks["mmlu-sample"].rows == 2850


def test_a_config_json_stands_in_for_weights_that_are_not_fetched(bench: Bench, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "qwen3"}')
    stage = weights.of_config(config)
    result = stage.run(bench.job, bench.context)
    assert [file.path for file in result.files] == ["config.json"]
    assert (bench.workspace.weights / result.folder / "config.json").read_bytes() == config.read_bytes()
    assert not bench.trouble(result)
    assert stage.inputs(bench.job) != weights.STAGE.inputs(bench.job)
    config.write_text("[]")
    with pytest.raises(ConfigError, match=r"is not a config\.json"):
        weights.of_config(config)


def test_the_signature_of_the_source_is_checked_if_the_matrix_names_a_key(bench: Bench, tmp_path: Path) -> None:
    pytest.importorskip("securesystemslib")
    private, public = keys(tmp_path)
    _, other = keys(tmp_path, "other")
    signer = dsse.signer({"FLAGRELEASE_SIGNING_KEY": str(private)})
    assert signer is not None

    def signed_by(pem: str) -> Weights:
        locked = bench.fetch.lock(f"file://{bench.source}")
        model = replace(bench.job.cell.model, signed_by=pem)
        cell, lock = replace(bench.job.cell, model=model), Lock(models={"smollm2-135m": locked})
        bench.job = replace(bench.job, cell=cell, lock=lock)
        return bench.run()

    with pytest.raises(HubRefused, match=r"is not signed with the key of models\.smollm2-135m\.signed_by") as caught:
        signed_by(public.read_text())
    assert caught.value.why == "it has no model.sig"
    statement = signature.statement("m", bench.job.lock.models["smollm2-135m"].files)
    (bench.source / "model.sig").write_bytes(signature.bundle(statement, signer))
    assert signed_by("").evidence == ()
    assert "offers a signature; models.smollm2-135m.signed_by names no key" in bench.progress.notes[-1]
    (kept,) = signed_by(public.read_text()).evidence
    assert (kept.name, bench.context.evidence.read(kept)) == (
        "weights/model.sig",
        (bench.source / "model.sig").read_bytes(),
    )
    with pytest.raises(HubRefused):
        signed_by(other.read_text())
    with pytest.raises(ConfigError, match="the key that has to have signed the weights cannot be used"):
        signed_by(public.read_text().replace("M", "!", 1))
    (bench.source / "sub/config.json").write_bytes(b'{"other": 1}')
    with pytest.raises(HubRefused) as caught:
        signed_by(public.read_text())
    assert caught.value.why == "sub/config.json has another sha256"
    assert "signed_by" in weights.inputs(bench.job)
