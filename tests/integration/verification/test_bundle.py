"""A complete release in a bundle: verified where there is no network, and loaded by Docker."""

import json
import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import support.finished_cell as given
from flagrelease.ports.registry.layout import Layout
from flagrelease.verification.bundles.write import write
from flagrelease.verification.release import open_release
from support import bundled, released
from support.contexts import SleeplessClock
from support.signing_keys import keys

# The release is evaluated, judged, rendered and published first: ten seconds of processor time.
pytestmark = [pytest.mark.integration, pytest.mark.slow]

ALONE = ["unshare", "--map-root-user", "--net"]
PROGRAM = """
import socket, sys
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=2)
except OSError:
    from flagrelease.cli.app import main
    sys.exit(main(sys.argv[2:]))
sys.exit("there is a network")
"""


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    pytest.importorskip("securesystemslib")
    return keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def bundle(signer: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    registry, repository = Layout(tmp_path_factory.mktemp("registry")), f"localhost:1/test/{uuid.uuid4().hex[:12]}"
    digest, image_id = bundled.push(registry, repository, repository)
    image = given.image(repository=repository, digest=digest, image_id=image_id, labels={"vendor": "cpu"})
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("FLAGRELEASE_SIGNING_KEY", str(signer[0]))
        folder = released.release(tmp_path_factory.mktemp("released"), registry=registry, image=image)
    release = open_release(folder)
    yield write(release, registry, tmp_path_factory.mktemp("bundles") / "bundle", SleeplessClock())
    subprocess.run(["docker", "rmi", f"{repository}:{release.tag}"], capture_output=True, check=False)


def alone(port: int, *words: str) -> subprocess.CompletedProcess[str]:
    """Run flagrelease in a network namespace of its own."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "pipeline")}
    argv = [*ALONE, sys.executable, "-c", PROGRAM, str(port), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)


def test_it_is_verified_without_a_network(bundle: Path, signer: tuple[Path, Path], tmp_path: Path) -> None:
    if subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make network namespaces")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        socket.create_connection(("127.0.0.1", port)).close()  # outside there is a network
        done = alone(port, "verify", str(bundle), "--key", str(signer[1]), "--json")
        assert done.returncode == 0, done.stderr
        checks = json.loads(done.stdout)["checks"]
        agreed = {(check["check"], check["subject"]) for check in checks if check["state"] == "agrees"}
        assert agreed >= {
            ("answers", "short-tasks, flagos on cpu"),
            ("score", "short-tasks"),
            ("card", "README.md"),
            ("signature", signer[1].name),
            ("attestation", "sbom.json"),
            ("image", "labels"),
            ("bundle", "image/"),
        }
        changed = Path(shutil.copytree(bundle, tmp_path / "changed"))
        (samples,) = changed.glob("release/*/evidence/accuracy/accuracy_samples.jsonl")
        samples.write_text(samples.read_text().replace('"correct":true', '"correct":false', 1))
        done = alone(port, "verify", str(changed), "--key", str(signer[1]))
        assert done.returncode == 4
        assert "accuracy_samples.jsonl" in done.stdout


def test_docker_loads_the_image(bundle: Path) -> None:
    if shutil.which("docker") is None:
        pytest.skip("there is no docker CLI")
    (entry,) = json.loads((bundle / "image/manifest.json").read_bytes())
    packed = subprocess.run(["tar", "-C", str(bundle / "image"), "-cf", "-", "."], capture_output=True, check=True)
    subprocess.run(["docker", "load"], input=packed.stdout, capture_output=True, check=True)
    shown = ["docker", "image", "inspect", "--format", "{{.Id}}", *entry["RepoTags"]]
    loaded = subprocess.run(shown, capture_output=True, text=True, check=True).stdout.strip()
    assert loaded == f"sha256:{Path(entry['Config']).name}"
