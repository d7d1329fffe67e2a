"""The models of matrix.yaml: what is known of them has its source beside it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flagrelease.config import matrix as matrices
from flagrelease.config.cell import expand
from flagrelease.config.matrix import Sampling
from flagrelease.recipe.devices import check_devices

PATH = Path(__file__).parents[3] / "matrix.yaml"
MATRIX = matrices.load(PATH)
TEXT = PATH.read_text()
PUBLISHED = dict(re.findall(r"(?m)^  # published: (.+)\n  ([a-z0-9.-]+):$", TEXT))


def test_twenty_models_name_a_release_that_is_published() -> None:
    assert len(PUBLISHED) == 20
    assert set(PUBLISHED.values()) <= MATRIX.models.keys()


@pytest.mark.parametrize("name", PUBLISHED.values())
def test_sampling_parameters_have_their_source_or_are_left_out(name: str) -> None:
    stanza = re.search(rf"(?ms)^  {re.escape(name)}:\n(.*?)(?=^  \S|^\S)", TEXT)
    assert stanza is not None
    sourced = "\n    # sampling: " in stanza[1]
    assert (MATRIX.models[name].sampling != Sampling()) == sourced == ("\n    sampling: " in stanza[1])


def test_cells_on_several_devices_are_possible_on_the_chips_of_this_matrix() -> None:
    for cell in expand(MATRIX):
        if cell.chip_name in ("nvidia-h100", "metax"):
            check_devices(cell.chip, cell.chip_name, cell.model.serve.devices)
