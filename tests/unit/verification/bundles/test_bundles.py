"""A release in one folder: complete, and each change to it is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flagrelease.errors import ConfigError, EnvironmentFault, UpstreamRefused
from flagrelease.ports.registry import MANIFEST_TYPE
from flagrelease.ports.registry.layout import Layout, blob_path
from flagrelease.verification import image
from flagrelease.verification.attached import statements
from flagrelease.verification.bundles.read import Bundle, checks, is_bundle, opened
from flagrelease.verification.bundles.write import write
from flagrelease.verification.findings import State
from flagrelease.verification.release import Release
from support import bundled
from support.contexts import SleeplessClock


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, Release]:
    """What serves as the registry, and the release in it."""
    registry = Layout(tmp_path_factory.mktemp("registry"))
    return registry, bundled.publish(registry, tmp_path_factory.mktemp("releases"))


@pytest.fixture(scope="module")
def made(source: tuple[Layout, Release], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    weights = bundled.weights_folder(root / "weights")
    return write(source[1], source[0], root / "bundle", SleeplessClock(), weights)


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy to tamper with."""
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def wrong(bundle: Bundle) -> list[str]:
    return [f"{check.subject}: {check.detail}" for check in checks(bundle) if check.state is State.DIFFERS]


def test_a_bundle_is_complete(made: Path, source: tuple[Layout, Release]) -> None:
    bundle = opened(made)
    assert bundle.release.raw == source[1].raw
    found = list(checks(bundle))
    found += image.checks(bundle.release, bundle.reference, bundle.layout)
    found += statements.checks(bundle.release, None, bundle.reference, bundle.layout)
    assert {check.state for check in found} == {State.AGREES}
    assert {check.subject for check in found} >= {"image/", "weights/", "IMAGES", "README.md", "sbom.json", "labels"}
    assert sorted(path.name for path in made.parent.iterdir()) == ["bundle", "weights"]


def test_the_instructions_start_the_image_by_its_tag(made: Path, source: tuple[Layout, Release]) -> None:
    text, record = (made / "README.md").read_text(), source[1].record
    assert f"{record.image.repository}:{source[1].tag}\n" in text
    assert record.image.reference not in text
    (entry,) = json.loads((made / "image/manifest.json").read_bytes())
    assert entry["RepoTags"] == [f"{record.image.repository}:{source[1].tag}"]
    assert (made / "image" / entry["Config"]).is_file()
    first, base = (made / "IMAGES").read_text().splitlines()
    assert first == f"{record.image.repository}:{source[1].tag}@{record.image.digest}"
    assert base.startswith("base: flagrelease-base:bookworm")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def flipped_layer(folder: Path) -> None:
    layer = json.loads((folder / "image/manifest.json").read_bytes())[0]["Layers"][0]
    flip(folder / "image" / layer)


def lost_layer(folder: Path) -> None:
    (folder / "image" / json.loads((folder / "image/manifest.json").read_bytes())[0]["Layers"][0]).unlink()


def another_image_for_docker(folder: Path) -> None:
    path = folder / "image/manifest.json"
    content = json.loads(path.read_bytes())
    content[0]["Layers"] = []
    path.write_text(json.dumps(content))


def lost_manifest(folder: Path) -> None:
    blob_path(folder / "image", opened(folder).release.record.image.digest).unlink()


def another_list(folder: Path) -> None:
    flip(folder / "IMAGES")


def other_instructions(folder: Path) -> None:
    (folder / "README.md").write_text("curl example.com | sh\n")


def lost_sums(folder: Path) -> None:
    (folder / "weights.sha256").unlink()


def flipped_weights(folder: Path) -> None:
    flip(folder / "weights/sub/model.gguf")


def one_more_weight(folder: Path) -> None:
    (folder / "weights/config.json").write_text("{}")


def one_more_file(folder: Path) -> None:
    (folder / "install.sh").write_text("true\n")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (flipped_layer, "the blob is sha256:"),
        (lost_layer, "the image names this blob, and the bundle does not have it"),
        (another_image_for_docker, "image/manifest.json: Docker would load something else"),
        (lost_manifest, "image/manifest.json: "),
        (another_list, "IMAGES: is not what the record gives"),
        (other_instructions, "README.md: is not what the record gives"),
        (lost_sums, "weights.sha256: missing"),
        (flipped_weights, "weights/sub/model.gguf: is not the file of the record"),
        (one_more_weight, "weights/config.json: is not the file of the record"),
        (one_more_file, "install.sh: is not part of a bundle"),
    ],
)
def test_a_changed_bundle_is_named(folder: Path, change: Callable[[Path], None], named: str) -> None:
    change(folder)
    found = wrong(opened(folder))
    assert len(found) == 1
    assert named in found[0]


def test_without_weights_that_is_said(source: tuple[Layout, Release], tmp_path: Path) -> None:
    bundle = opened(write(source[1], source[0], tmp_path / "bundle", SleeplessClock()))
    states = {check.subject: check.state for check in checks(bundle)}
    assert states.pop("weights") is State.NOT_CHECKED
    assert set(states.values()) == {State.AGREES}
    assert "The files are not in this folder." in (tmp_path / "bundle/README.md").read_text()


def test_a_failed_bundle_leaves_nothing_behind(source: tuple[Layout, Release], tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="are not complete"):
        write(source[1], source[0], tmp_path / "bundle", SleeplessClock(), tmp_path / "no weights")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "bundle").mkdir()
    with pytest.raises(ConfigError, match="exists"):
        write(source[1], source[0], tmp_path / "bundle", SleeplessClock())


def test_a_moved_tag_is_not_bundled(source: tuple[Layout, Release], tmp_path: Path) -> None:
    registry = Layout(tmp_path / "registry")
    digest, _ = bundled.push(registry, "r", "another image")
    body = registry.manifest("r", digest).body
    registry.put_manifest("r", source[1].tag, body, MANIFEST_TYPE)
    with pytest.raises(UpstreamRefused, match="is not the image of the release"):
        write(source[1], registry, tmp_path / "bundle", SleeplessClock())


def test_a_folder_without_a_release_is_damaged(folder: Path, tmp_path: Path) -> None:
    assert is_bundle(folder)
    assert not is_bundle(tmp_path)
    shutil.rmtree(folder / "release")
    with pytest.raises(ConfigError, match="is damaged"):
        opened(folder)
