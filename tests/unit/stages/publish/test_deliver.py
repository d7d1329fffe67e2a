"""Targets that fail, what is checked before anything runs, and the report of a release that did not pass."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import support.finished_cell as given
from flagrelease.config import names
from flagrelease.config.targets import TARGETS, Target
from flagrelease.contract import results
from flagrelease.contract.context import Look
from flagrelease.contract.results import Check
from flagrelease.errors import EnvironmentFault, GateFailed, Inconclusive, RegistryDenied, UpstreamRefused
from flagrelease.ports.clock import SystemClock
from flagrelease.ports.meter import Meter
from flagrelease.ports.registry import OciRegistry
from flagrelease.run.plan import CellPlan, Step
from flagrelease.run.preflight import check_machine, refusal
from flagrelease.run.project import Options, Project, open_project
from flagrelease.stages.publish import deliver, index, issue
from flagrelease.stages.publish import stage as publish
from flagrelease.stages.publish.publisher import Shipment, Steps
from flagrelease.stages.publish.targets import PUBLISHERS
from flagrelease.store.evidence import Evidence
from support.contexts import Shown
from support.newcomer_project import ONE_PER_VENDOR, SOURCE
from support.pushed import finished, job
from support.registry_stand_in import Store, standing_in


@pytest.fixture
def source() -> Iterator[str]:
    with standing_in(Store()) as running:
        yield f"{running}/staging/model-cpu"


def test_every_kind_has_a_publisher() -> None:
    assert set(PUBLISHERS) == set(TARGETS)


def test_a_target_that_fails_keeps_no_other_from_its_release(tmp_path: Path, source: str) -> None:
    context = finished(tmp_path / "workspace", OciRegistry(), source)
    (tmp_path / "full").write_text("a file where the folder should be")
    targets = {name: Target(kind="folder", to=str(tmp_path / name)) for name in ("full", "share", "other")}
    with pytest.raises(EnvironmentFault) as caught:
        publish.run(job(targets), context)
    error = caught.value
    assert (error.exit_code, error.what) == (6, "cpu/smollm2-135m is not published to full")
    assert error.why == f"{tmp_path / 'full'} cannot be written: {tmp_path / 'full'}: Not a directory"
    assert error.hint.endswith("`flagrelease run` publishes only what is missing")
    (tag,) = [one.name for one in (tmp_path / "share/cpu/smollm2-135m").iterdir() if not one.is_symlink()]
    assert error.detail.splitlines() == [
        f"{name}: published, {tmp_path / name / 'cpu/smollm2-135m' / tag}" for name in ("share", "other")
    ]
    (listed,) = index.load(context.workspace).releases
    assert set(listed.targets) == {"share", "other"}
    written = (tmp_path / "share/cpu/smollm2-135m" / tag).stat().st_mtime_ns
    (tmp_path / "full").unlink()
    made = publish.run(job(targets), context)
    assert [one.target for one in made.targets] == list(targets)
    assert (tmp_path / "share/cpu/smollm2-135m" / tag).stat().st_mtime_ns == written
    (listed,) = index.load(context.workspace).releases
    assert set(listed.targets) == set(targets)
    look = Look(workspace=context.workspace, evidence=context.evidence)
    assert publish.intact(made, look) == ""
    shutil.rmtree(tmp_path / "other/cpu")
    assert publish.intact(made, look) == "its copy at other is missing"


def test_the_error_is_of_the_most_severe_kind_and_names_all() -> None:
    failed = {
        "a": EnvironmentFault("a is full", hint="free some space"),
        "b": UpstreamRefused("b refused", why="HTTP 413", hint="raise its limit"),
    }
    error = deliver.failure("cpu/m", (), failed)
    assert (error.exit_code, error.what, error.why) == (7, "cpu/m is not published to a and b", "b refused: HTTP 413")
    assert error.hint == "raise its limit; `flagrelease run` publishes only what is missing"
    assert error.detail == "a: a is full"


def test_the_steps_of_a_publisher_have_one_order() -> None:
    shown = Shown()
    steps = Steps("harbor", shown)
    for name in ("blobs", "blobs", "tag"):
        steps.begin(name)  # type: ignore[arg-type]  # mypy widens the tuple
    with pytest.raises(AssertionError, match="harbor: evidence comes too late"):
        steps.begin("evidence")
    assert shown.texts == ["publishing to harbor: blobs", "publishing to harbor: blobs", "publishing to harbor: tag"]


def test_the_long_name_has_the_versions_of_what_is_inside(tmp_path: Path, source: str) -> None:
    registry, clock = OciRegistry(), SystemClock()
    pushed = finished(tmp_path, registry, source).result(results.IMAGE)
    image = replace(pushed, versions={"Python": "3.10.10", "torch": "2.6.0+metax3.0.0.3"})
    release = given.record(image=image)
    chip = replace(release.chip, base="harbor.example/flagos-base-metax-maca3.7.2.1:2.1.2")
    environment = {**release.smoke.environment, "Driver": "3.3.12"}
    release = replace(release, chip=chip, smoke=replace(release.smoke, environment=environment))
    shipment = Shipment(
        release=release, tag="v-0123456789ab", files={}, registry=registry, clock=clock, meter=Meter(clock)
    )
    target = Target(kind="registry", to="h.example/x", name=f"{names.LONG}:{{record}}")
    (place,) = deliver.places({"harbor": target}, private=False)
    assert shipment.name(place) == (
        "flagrelease-cpu-release-model_smollm2-135m-tree_none-gems_none-scale_0.8.0-cx_none-python_3.10.10"
        "-torch_2.6.0_metax3.0.0.3-pcp_maca3.7.2.1-gpu_cpu-arc_amd64-driver_3.3.12:0123456789ab"
    )


def project(tmp_path: Path, registry: str, targets: str) -> Project:
    shipped = (SOURCE / "matrix.yaml").read_text()
    (tmp_path / "matrix.yaml").write_text(f"{shipped}{ONE_PER_VENDOR}\ntargets:\n  {targets}\n")
    (tmp_path / "matrix.lock").write_text((SOURCE / "matrix.lock").read_text())
    return open_project(Options(matrix=tmp_path / "matrix.yaml", registry=registry))


def test_plan_says_what_a_target_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = project(tmp_path, "localhost:1/x", "my-harbor: {kind: registry, to: h.example/x}")
    (cell,) = [one for one in opened.cells if one.id == "cpu/smollm2-135m"]
    assert refusal(cell, opened) is None
    monkeypatch.setenv("FLAGRELEASE_TARGET_MY_HARBOR_USER", "robot$x")
    plan = refusal(cell, opened)
    assert plan is not None
    assert plan.blocked == (
        "the credentials of targets.my-harbor are incomplete: only FLAGRELEASE_TARGET_MY_HARBOR_USER is set"
    )
    assert "FLAGRELEASE_TARGET_MY_HARBOR_PASSWORD" in plan.hint


@pytest.mark.parametrize(
    ("kind", "hub", "token"),
    [("huggingface", "Hugging Face", "HF_TOKEN"), ("modelscope", "ModelScope", "MODELSCOPE_API_TOKEN")],
)
def test_plan_asks_for_the_token_of_a_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, hub: str, token: str
) -> None:
    monkeypatch.delenv(token, raising=False)
    opened = project(tmp_path, "localhost:1/x", f"hub: {{kind: {kind}, to: FlagRelease}}")
    (cell,) = [one for one in opened.cells if one.id == "cpu/smollm2-135m"]
    plan = refusal(cell, opened)
    assert plan is not None
    assert (plan.blocked, f"set {token} to a token" in plan.hint) == (f"{hub} needs {token}: it is not set", True)
    monkeypatch.setenv(token, "t")
    assert refusal(cell, opened) is None


def test_the_right_to_write_is_checked_before_anything_runs(tmp_path: Path) -> None:
    ports: Any = None
    with standing_in(Store()) as own, standing_in(Store(login=("robot$x", "p"))) as harbor:
        opened = project(tmp_path, f"{own}/x", f"harbor: {{kind: registry, to: '{harbor}/public'}}")
        plan = CellPlan(cell=opened.cells[0], steps=(Step(stage="publish", action="run", reason="never run"),))
        with pytest.raises(RegistryDenied) as caught:
            check_machine([plan], opened, ports)
        assert caught.value.what.startswith(f"nothing can be published to targets.harbor ({harbor}/public): access")
        assert check_machine([replace(plan, steps=())], opened, ports) is None


def test_a_robot_account_gets_a_token_from_its_own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Harbor wants it: the account is sent for the token, and the token with everything else."""
    monkeypatch.setenv("FLAGRELEASE_TARGET_HARBOR_USER", "robot$x")
    monkeypatch.setenv("FLAGRELEASE_TARGET_HARBOR_PASSWORD", "p")
    store = Store(login=("robot$x", "p"), bearer=True)
    with standing_in(store) as harbor:
        (place,) = deliver.places({"harbor": Target(kind="registry", to=f"{harbor}/public")}, private=False)
        PUBLISHERS["registry"].check(place)
    sent = {
        (call.split("?")[0].split()[1].split("/")[1], headers.get("Authorization", "").split(" ")[0])
        for call, headers in zip(store.calls, store.headers, strict=True)
    }
    assert sent == {("v2", ""), ("token", "Basic"), ("v2", "Bearer")}


def test_a_target_that_does_not_answer_may_do_so_later(tmp_path: Path) -> None:
    ports: Any = None
    down = Store(trouble=lambda _method, _path: (503, {}))
    with standing_in(Store()) as own, standing_in(down) as harbor:
        opened = project(tmp_path, f"{own}/x", f"harbor: {{kind: registry, to: '{harbor}/public'}}")
        plan = CellPlan(cell=opened.cells[0], steps=(Step(stage="publish", action="run", reason="never run"),))
        check_machine([plan], opened, ports)
        assert down.calls


SAMPLES = Evidence("flipped.jsonl", "7" * 64, 31_337)
STORED = {
    "evidence/accuracy/accuracy_flipped.jsonl": SAMPLES,
    "evidence/accuracy/accuracy_tokens.json": SAMPLES,
    "evidence/smoke/server.log": SAMPLES,
    "evidence/speed/speed_requests.jsonl": SAMPLES,
}


def test_the_report_names_the_numbers_and_the_evidence_of_what_failed() -> None:
    row = given.score(verdict="FAIL", reason="worse | <b>", difference=-0.1, interval90=(-0.15, -0.052))
    release = given.record(accuracy=given.accuracy(row, verdict="FAIL", reason="worse"))
    error = GateFailed("cpu/smollm2-135m is not published: worse", why="mmlu-sample: 0.185", hint="look at them")
    text = issue.report(release, error, STORED).decode()
    assert text.startswith("# cpu/smollm2-135m: FAIL\n")
    assert "| accuracy: mmlu-sample | FAIL | 0.290 versus 0.285 over 200 questions, difference -0.100" in text
    assert r"worse \| &lt;b&gt;" in text
    assert f"| `evidence/accuracy/accuracy_flipped.jsonl` | `{'7' * 64}` | 31,337 |" in text
    assert not [name for name in STORED if "flipped" not in name and name in text]
    assert "Look at them." in text
    assert issue.report(release, error, STORED).decode() == text


def test_the_report_of_a_failed_check_and_of_open_tokens() -> None:
    smoke = given.smoke(given.image().reference)
    failed = replace(
        smoke, checks=(*smoke.checks, Check(name="long prompt", passed=False, detail="HTTP 500", seconds=1))
    )
    text = issue.report(given.record(smoke=failed), GateFailed("x"), STORED).decode()
    assert "| smoke: long prompt | FAIL | HTTP 500 |" in text
    assert "evidence/smoke/server.log" in text
    passed = given.accuracy()
    assert passed.token_gate is not None
    gate = replace(passed.token_gate, verdict="INCONCLUSIVE", reason="too few tokens")
    open_ = replace(passed, verdict="INCONCLUSIVE", reason="too few tokens", token_gate=gate)
    text = issue.report(given.record(accuracy=open_), Inconclusive("x"), STORED).decode()
    assert text.startswith("# cpu/smollm2-135m: INCONCLUSIVE\n")
    assert "| accuracy: tokens | INCONCLUSIVE | too few tokens |" in text
    assert "accuracy_tokens.json" in text
    assert "accuracy_flipped" not in text
