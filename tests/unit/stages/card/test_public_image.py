"""The card names the image where strangers get it, by the digest with which its commands were run."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

import support.finished_cell as given
from flagrelease.config.targets import Target
from flagrelease.stages.card import chinese, facts, lint, render
from flagrelease.stages.card import stage as card
from flagrelease.stages.card.record import Record
from support.pushed import job

FOLDER = Target(kind="folder", to="/srv/releases")
HARBOR = Target(kind="registry", to="harbor.example/public")
TAGGED = Target(kind="registry", to="other.example/public", name="{model}-{record}")
NAME = f"harbor.example/public/flagrelease_cpu_smollm2_135m@sha256:{'3f' * 32}"


def test_the_first_registry_among_the_targets_is_named() -> None:
    release = given.record()
    assert facts.public_image(release, {}) == facts.public_image(release, {"a": FOLDER}) == ""
    assert facts.public_image(release, {"a": FOLDER, "b": TAGGED, "c": HARBOR}) == NAME
    assert facts.public_image(release, {"b": TAGGED}) == ""
    failed = replace(
        release, smoke=replace(release.smoke, checks=(given.Check(name="chat", passed=False, detail="x", seconds=0.1),))
    )
    assert facts.public_image(failed, {"c": HARBOR}) == ""
    assert facts.public_image(replace(release, unfinished={"speed": "not run"}), {"c": HARBOR}) == ""


def test_another_public_place_is_another_card() -> None:
    plain, named = (card.inputs(job(targets)) for targets in ({"a": FOLDER}, {"a": FOLDER, "c": HARBOR}))
    assert "registries" not in plain
    assert named["registries"] == {"c": ["harbor.example/public", HARBOR.template]}


@pytest.mark.parametrize("rendered", [render.render, chinese.render_card])
def test_the_card_names_the_copy_everywhere_and_its_commands_are_those_that_were_run(rendered: object) -> None:
    release: Record = replace(given.record(), public_image=NAME)
    text: str = rendered(release, given.TEMPLATES)  # type: ignore[operator]
    references = set(re.findall(r"[\w./:-]+@sha256:[0-9a-f]+", text))
    assert references == {NAME}
    assert release.image.repository not in text
    assert f"docker pull {NAME}" in text
    before: str = rendered(given.record(), given.TEMPLATES)  # type: ignore[operator]
    assert "is on the machine that released it" not in text
    assert "copied to this registry" in text or "复制到本页所示的仓库" in text
    assert "copied to this registry" not in before

    def found(card: str) -> set[str]:
        return {finding.text for finding in lint.lint(card, release, {})}

    # The pictures are not beside it, here as for the card of the image as it was evaluated.
    assert found(text) == {finding.text for finding in lint.lint(before, given.record(), {})}
    assert any(
        "image reference" in each for each in found(text.replace("harbor.example/public", "evil.example/public"))
    )
