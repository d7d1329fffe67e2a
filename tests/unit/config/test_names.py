"""Names by templates: the forms in use, and what is refused."""

import pytest

from flagrelease.config import names
from flagrelease.config.chip import Chip, Components, Device
from flagrelease.errors import ConfigError

METAX = Chip(
    vendor="metax",
    device=Device(name="MetaX C550", code="metax001"),
    base="base:1",
    components=Components(flagscale="0.8.0", flaggems="3.0"),
)
FIELDS = names.of_cell("metax", METAX, "qwen3-8b", "Qwen3-8B")
RELEASE = {
    "tag": "t",
    "record": "0123456789ab",
    "python": "3.10.10",
    "torch": "2.6.0_metax3.0.0.3",
    "sdk": "maca3.0.0.8",
    "arch": "amd64",
    "driver": "3.3.12",
}


def test_the_published_form_and_that_of_the_hubs() -> None:
    assert names.repository(names.render(names.SHORT, FIELDS)) == "flagrelease_metax_qwen3_8b"
    assert names.hub(names.render(names.HUB, FIELDS)) == "Qwen3-8B-Metax-FlagOS"
    assert names.repository(names.render(names.REPOSITORY, FIELDS)) == "qwen3-8b-metax"


def test_the_long_form() -> None:
    assert names.repository(names.render(names.LONG, {**FIELDS, **RELEASE})) == (
        "flagrelease-metax-release-model_qwen3-8b-tree_none-gems_3.0-scale_0.8.0-cx_none-python_3.10.10"
        "-torch_2.6.0_metax3.0.0.3-pcp_maca3.0.0.8-gpu_metax001-arc_amd64-driver_3.3.12"
    )


@pytest.mark.parametrize(
    ("text", "made"),
    [("Qwen3+VL__8B", "qwen3.vl_8b"), ("a_-b--c", "a-b-c"), ("-x.-", "x"), ("A b/C", "a-b/c")],
)
def test_the_name_of_an_image_is_lower_case_with_single_separators(text: str, made: str) -> None:
    assert names.repository(text) == made


def test_what_is_no_name() -> None:
    with pytest.raises(ConfigError, match="cannot name an image"):
        names.repository("a/--")
    with pytest.raises(ConfigError, match="cannot name a repository on a hub"):
        names.hub("x" * 97)
    assert names.hub("Modell Ünï--x") == "Modell-n-x"


@pytest.mark.parametrize(
    ("template", "hint"),
    [("{vendr}", "did you mean 'vendor'?"), ("{vendor!r}", "the fields are"), ("{chip.hosts}", "the fields are")],
)
def test_a_template_has_known_fields_only(template: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        names.check(template)
    assert hint in caught.value.hint


def test_the_image_is_named_before_it_is_built() -> None:
    with pytest.raises(ConfigError, match="which is known only after the image has been built"):
        names.check_repository("{model}-{torch}")
