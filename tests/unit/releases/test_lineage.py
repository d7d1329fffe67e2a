"""Lineage of releases, and their maturity."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import support.finished_cell as given
from flagrelease.releases import facts
from flagrelease.releases.facts import Facts
from flagrelease.releases.lineage import Lineage, Previous, lineage
from flagrelease.releases.maturity import maturity
from flagrelease.stages.card import record

ROOT = Path(__file__).parents[3]
KEYS = {"weights": "w", "image": "i", "smoke": "s"}
FIRST = Lineage(revision=1, reason="first release")
EARLIER = Previous(tag="tag-1", image="host/x@sha256:1", keys=KEYS, rendered_by="r", lineage=FIRST)


def test_the_first_release_has_no_parent() -> None:
    assert lineage(None, KEYS, "r") == FIRST
    assert lineage(None, KEYS, "r", "asked for by a vendor").reason == "asked for by a vendor"


def test_a_new_release_names_what_it_replaces_and_why() -> None:
    made = lineage(EARLIER, {**KEYS, "image": "i2", "smoke": "s2"}, "r")
    assert made == Lineage(
        revision=2, reason="image changed, and 1 later stage with it", parent="tag-1", parent_image="host/x@sha256:1"
    )
    assert lineage(EARLIER, {**KEYS, "smoke": "s2"}, "r").reason == "smoke changed"
    assert lineage(EARLIER, {**KEYS, "smoke": "s2"}, "r", "fixed").reason == "fixed"
    assert lineage(replace(EARLIER, yanked="garbage"), {}, "r2").parent_yanked == "garbage"


def test_a_card_of_another_version_is_a_release_of_its_own() -> None:
    made = lineage(EARLIER, KEYS, "r2")
    assert (made.revision, made.parent, made.reason) == (2, "tag-1", "the card is written by another version")


def test_the_same_release_made_again_keeps_its_lineage() -> None:
    second = replace(EARLIER, lineage=Lineage(revision=2, reason="fixed", parent="tag-0"))
    assert lineage(second, KEYS, "r", "another reason") == second.lineage


def test_a_release_of_a_version_without_lineage_counts_as_the_first() -> None:
    made = lineage(replace(EARLIER, lineage=None, keys={}), KEYS, "r")
    assert (made.revision, made.parent) == (2, "tag-1")
    assert made.reason == "the record of the release before it is not available"


def test_the_record_has_it_and_a_resumed_run_writes_the_same_bytes() -> None:
    job = replace(given.job(), previous=EARLIER, reason="driver update")
    first, again = (record.build(job, given.finished(), "0" * 64) for _ in range(2))
    assert record.dumps(first) == record.dumps(again)
    assert first.lineage is not None
    assert (first.lineage.parent, first.lineage.revision, first.lineage.reason) == ("tag-1", 2, "driver update")
    read = facts.read(record.dumps(first))
    published = Previous(
        tag=first.tag,
        image="host/x@sha256:2",
        keys={each.stage: each.key for each in read.stages},
        rendered_by=read.rendered_by,
        lineage=read.lineage,
    )
    forced = record.build(replace(given.job(), previous=published), given.finished(), "0" * 64)
    assert forced.tag == first.tag


def example(change: Callable[[dict[str, Any]], None] = lambda _: None) -> Facts:
    """The H100 example with a complete evaluation, changed."""
    plain = json.loads((ROOT / "docs/example-h100/release.json").read_bytes())
    for row in plain["accuracy"]["benchmarks"]:
        row |= {"partial": "", "verdict": "PASS"}
    plain["accuracy"]["token_gate"] = {"verdict": "PASS", "reason": ""}
    plain["smoke"]["skipped"] = {}
    plain["image"]["runner"] = "docker"
    change(plain)
    return facts.read(json.dumps(plain).encode())


@pytest.mark.parametrize(
    ("change", "level", "missing"),
    [
        (dict.copy, "complete", ""),
        (lambda plain: plain.update(speed=None), "functional", "speed was not measured"),
        (lambda plain: plain["accuracy"].pop("token_gate"), "functional", "the token gate was not measured"),
        (
            lambda plain: plain["accuracy"]["token_gate"].update(verdict="INCONCLUSIVE"),
            "functional",
            "the token gate is INCONCLUSIVE",
        ),
        (
            lambda plain: plain["accuracy"]["benchmarks"][0].update(partial="100 of 541"),
            "functional",
            "ifeval was asked in part (100 of 541)",
        ),
        (
            lambda plain: plain["accuracy"]["benchmarks"][0].update(verdict="INCONCLUSIVE"),
            "functional",
            "ifeval is INCONCLUSIVE",
        ),
        (lambda plain: plain["smoke"].update(skipped={"download": "offline"}), "functional", "download was not made"),
        (lambda plain: plain["speed"].update(verdict="FAIL"), "experimental", "speed is FAIL"),
        (lambda plain: plain["accuracy"].update(verdict="FAIL"), "experimental", "accuracy is FAIL"),
        (lambda plain: plain.update(unfinished={"speed": "was stopped"}), "experimental", "speed was stopped"),
        (lambda plain: plain["image"].update(runner="process"), "experimental", "there is no image"),
        (lambda plain: plain["smoke"]["checks"][0].update(passed=False), "experimental", "failed"),
    ],
)
def test_maturity_follows_from_what_the_evidence_covers(
    change: Callable[[dict[str, Any]], None], level: str, missing: str
) -> None:
    found = maturity(example(change))
    assert found.level == level
    assert missing in "; ".join(found.missing)
    assert bool(found.missing) == bool(missing)
