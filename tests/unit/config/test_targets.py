"""`targets` of matrix.yaml: what is read, and what is refused with its line."""

from pathlib import Path

import pytest

from flagrelease.config import matrix as matrices
from flagrelease.config.matrix import Matrix
from flagrelease.errors import ConfigError
from support.newcomer_project import ONE_PER_VENDOR, SOURCE

SHIPPED = (SOURCE / "matrix.yaml").read_text() + ONE_PER_VENDOR


def read(tmp_path: Path, targets: str) -> Matrix:
    path = tmp_path / "matrix.yaml"
    path.write_text(f"{SHIPPED}\n{targets}\n")
    return matrices.load(path)


def test_targets_have_places_and_names(tmp_path: Path) -> None:
    made = read(
        tmp_path,
        "targets:\n"
        "  harbor:\n"
        "    {kind: registry, to: 'h.example:8443/flagrelease-public', private: h.example:8443/project, ca: /ca.pem}\n"
        "  share: {kind: folder, to: /srv/releases/, name: '{vendor}/{Model}'}\n",
    )
    harbor, share = made.targets["harbor"], made.targets["share"]
    assert (harbor.place(private=False), harbor.place(private=True)) == (
        "h.example:8443/flagrelease-public",
        "h.example:8443/project",
    )
    assert harbor.template == "flagrelease_{vendor}_{model_}"
    assert (share.place(private=False), share.place(private=True), share.template) == (
        "/srv/releases",
        "",
        "{vendor}/{Model}",
    )


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("kind: regstry, to: h/x", "unknown kind of target 'regstry'"),
        ("kind: registry, to: 'https://h/x'", "which is not a place of kind registry: write HOST[:PORT]/PREFIX"),
        ("kind: folder, to: releases", "which is not a place of kind folder: write /FOLDER"),
        ("kind: folder, to: /x, privat: /y", "unknown key 'targets.t.privat'"),
        ("kind: folder, to: /x, private: /x/", "is the place of releases that passed"),
        ("kind: folder, to: /x, ca: /ca.pem", "is not used by kind folder"),
        ("kind: registry, to: h/x, ca: ca.pem", "which is not an absolute path"),
        ("kind: registry, to: h/x, name: '{vendr}'", "'{vendr}' has {vendr}, which is not a field"),
        ("kind: registry, to: h/x, name: '{vendor}'", "the same name, 'nvidia': add {chip} or {model}"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, target: str, error: str) -> None:
    line = len(SHIPPED.splitlines()) + 3
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, f"targets:\n  t: {{{target}}}")
    assert error in caught.value.what
    assert f"matrix.yaml:{line}: " in caught.value.what


def test_the_name_of_images_is_a_template(tmp_path: Path) -> None:
    assert read(tmp_path, "repository: 'flagrelease_{vendor}_{model_}'").repository.startswith("flagrelease_")
    with pytest.raises(ConfigError, match="and nvidia-h100/qwen3-8b the same name, 'x-nvidia-h100'"):
        read(tmp_path, "repository: 'x-{chip}'")


def test_a_target_has_a_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a name: write lower-case letters"):
        read(tmp_path, "targets:\n  My Harbor: {kind: folder, to: /x}")
