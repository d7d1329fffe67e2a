"""A real model is released for the chip `cpu`, as the README's command does it, with fewer questions."""

import hashlib
import json
import resource
import subprocess

import httpx
import pytest

from support.project import CELL, UserProject, project

pytestmark = [pytest.mark.e2e, pytest.mark.integration, pytest.mark.prefect, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory, base: str, own_registry: str) -> UserProject:
    return project(tmp_path_factory.mktemp("release"), f"{own_registry}/e2e")


def run(user: UserProject, *words: str) -> tuple[int, str, str]:
    return user.call("run", "--chip", "cpu", "--model", "smollm2-135m", "--engine", "prefect", *words)


def test_released(user: UserProject) -> None:
    code, out, err = run(user)
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

    # What is on the card was measured, and what is not upstream's own is said.
    card = (folder / "README.md").read_text()
    assert f"{record['image']['repository']}@{digest}" in card
    for remark in ("FlagGems is not applied", "xllamacpp", "Q4_1"):
        assert remark in card
    (score,) = record["accuracy"]["benchmarks"]
    assert score["course"]["planned"] == 12 >= score["course"]["answers"] >= score["n"] > 0
    assert record["accuracy"]["verdict"] == "PASS"
    likeness = record["accuracy"]["likeness"]
    assert likeness["candidate"], likeness["reason"]
    assert len(likeness["noise"]) == 2
    assert "### Fidelity" in card
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
    code, out, _ = user.call("explain", CELL)
    assert f"{CELL} is released" in out
    (folder,) = (path for path in (user.root / ".flagrelease/releases" / CELL).iterdir() if not path.is_symlink())
    code, out, err = user.call("compare", str(folder), str(folder), "--margin", "0.3", "--json")
    assert code == 0, err
    assert json.loads(out)["verdict"] == "PASS"
