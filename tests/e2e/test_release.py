"""A real model is released for the chip `cpu` by an installed wheel in an empty folder, with few questions."""

import hashlib
import json
import resource
import subprocess
from pathlib import Path

import httpx
import pytest

from support.nights import night
from support.project import CELL, UserProject
from support.wheels import distributions, install

pytestmark = [pytest.mark.e2e, pytest.mark.integration, pytest.mark.prefect, pytest.mark.timeout(1500)]


CHEAPER = {
    "questions=155": "questions=20",
    "short-tasks: {}": "short-tasks: {}\n    speed: [{input: 16, output: 8, concurrency: [1], requests: 2, gate: 0.1}]",
    "margin: 0.05": "margin: 0.15",  # with so few questions only a wide one can be decided
    "gate_tokens: 320": "gate_tokens: 128",
    "max_model_len: 8192": "max_model_len: 2048",  # an eighth of it is what the check of long prompts reads
    "ready_seconds: 120": "ready_seconds: 120, args: {threads: 1}",  # other tests keep the other core busy
}
TEMPLATES = Path(__file__).parents[2] / "templates"


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory, base: str, own_registry: str) -> UserProject:
    built = distributions(tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist"))
    program = install(built.wheel, tmp_path_factory.mktemp("environment") / "venv")
    return UserProject(tmp_path_factory.mktemp("release"), f"{own_registry}/e2e", program)


def run(user: UserProject, *words: str) -> tuple[int, str, str]:
    return user.call("run", "--chip", "cpu", "--model", "smollm2-135m", "--engine", "prefect", *words, seconds=1400)


def test_a_first_project_plans(user: UserProject, base: str) -> None:
    code, out, err = user.call("init")
    assert code == 0, err
    assert f"docker build --tag {base} base" in out
    assert (user.root / "base/Dockerfile").read_text() == (TEMPLATES / "base.Dockerfile").read_text()
    assert "blocked" in user.call("plan")[1]
    matrix = (user.root / "matrix.yaml").read_text()
    for old, new in CHEAPER.items():
        assert old in matrix
        matrix = matrix.replace(old, new)
    (user.root / "matrix.yaml").write_text(matrix)
    code, out, err = user.call("lock")
    assert code == 0, err
    assert "models.smollm2-135m" in out
    assert "never run" in user.call("plan")[1]


def test_released(user: UserProject) -> None:
    code, out, err = run(user, "--reason", "the first of its kind")
    assert code == 0, err + out
    assert "✓ done" in out
    assert "released" in out.splitlines()[-1]
    (folder,) = (path for path in (user.root / ".flagrelease/releases" / CELL).iterdir() if not path.is_symlink())
    record = json.loads((folder / "release.json").read_text())
    digest = record["image"]["digest"]

    # The registry has what the record names, under the record's tag and as latest.
    host, _, prefix = user.registry.partition("/")
    repository = record["image"]["repository"].removeprefix(f"{host}/")
    assert repository.startswith(prefix)
    for reference in (digest, folder.name, "latest"):
        answer = httpx.head(
            f"http://{host}/v2/{repository}/manifests/{reference}",
            headers={"Accept": "application/vnd.docker.distribution.manifest.v2+json"},
            trust_env=False,
        )
        assert answer.headers["Docker-Content-Digest"] == digest, reference

    # The folder is whole: every file is what its sum says, and the tag names the record.
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    assert folder.name.endswith(hashlib.sha256((folder / "release.json").read_bytes()).hexdigest()[:12])

    lineage = {"revision": 1, "reason": "the first of its kind", "parent": "", "parent_image": "", "parent_yanked": ""}
    assert record["lineage"] == lineage

    # What is on the card was measured, and what is not upstream's own is said.
    card = (folder / "README.md").read_text()
    assert f"{record['image']['repository']}@{digest}" in card
    for remark in ("FlagGems is not applied", "xllamacpp", "Q4_1"):
        assert remark in card
    (score,) = record["accuracy"]["benchmarks"]
    assert score["course"]["planned"] == 20 >= score["course"]["answers"] >= score["n"] > 0
    assert record["accuracy"]["verdict"] == "PASS"
    gate = record["accuracy"]["token_gate"]
    assert gate["candidate"], gate["reason"]
    assert (gate["verdict"], gate["candidate"]["tokens"], gate["candidate"]["mean"]) == ("INCONCLUSIVE", 128, 0)
    assert gate["floor"]["prompts"] == 4
    assert "### Token Gate" in card
    assert {cost["stage"] for cost in record["stages"]} >= {"weights", "image", "smoke", "accuracy"}
    assert user.leftovers() == []


def test_again_there_is_nothing_to_do(user: UserProject) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code, out, err = run(user)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert code == 0, err
    assert "nothing to do: " in out
    assert "Prefect" not in err
    assert seconds < 5, "processor time, which other work on the machine hardly changes"


def test_what_users_ask_afterwards(user: UserProject) -> None:
    assert "released" in user.call("status", CELL)[1]
    code, card, _ = user.call("card", CELL)
    assert code == 0
    assert card.startswith("---\nlicense: apache-2.0\n")
    code, out, err = user.call("index")
    assert code == 0, err
    page = (user.root / ".flagrelease/index/cells" / CELL / "index.html").read_text()
    assert "the first of its kind" in page
    assert "answers-0.html" in page
    code, out, _ = user.call("explain", CELL)
    assert f"{CELL} is released" in out
    (folder,) = (path for path in (user.root / ".flagrelease/releases" / CELL).iterdir() if not path.is_symlink())
    code, out, err = user.call("compare", str(folder), str(folder), "--margin", "0.15", "--json")
    assert code == 0, err
    assert json.loads(out)["verdict"] == "PASS"


def test_a_night_without_changes_starts_no_job(user: UserProject) -> None:
    """The workflow's own shell, for the cell that was released before."""
    code, before, err = user.call("status", "--json")
    assert code == 0, err
    (plan,) = night(user)
    assert (plan.job, plan.code) == ("plan", 0), plan.printed
    assert "1 unchanged" in plan.summary
    assert user.call("status", "--json")[1] == before
