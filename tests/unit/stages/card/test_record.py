import math
from dataclasses import dataclass, replace

import msgspec
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

import support.finished_cell as given
from flagrelease.contract.handles import Done, Finished
from flagrelease.errors import ConfigError, FlagreleaseError
from flagrelease.stages.card import record
from flagrelease.store.evidence import Evidence
from flagrelease.store.ledger import Spent


def test_a_record_comes_back_as_it_was_written() -> None:
    written = record.dumps(given.record())
    assert record.dumps(record.loads(written)) == written
    assert record.loads(written).accuracy == given.accuracy()


def test_the_json_is_canonical() -> None:
    written = record.dumps(given.record())
    plain = msgspec.json.decode(written)
    assert written == msgspec.json.format(msgspec.json.encode(plain, order="sorted"), indent=2) + b"\n"
    assert plain["accuracy"]["benchmarks"][0]["candidate"] == 0.29


def test_it_holds_time_and_bytes_of_each_stage() -> None:
    costs = {cost.stage: cost for cost in given.record().stages}
    assert list(costs) == ["weights", "image", "smoke", "accuracy"]
    assert (costs["weights"].seconds, costs["weights"].outside, costs["weights"].moved) == (10.5, 10.0, 92_900_000)


def test_it_says_what_is_not_upstreams_own() -> None:
    assert given.record().differences == (
        "FlagGems is not applied: needs an active Triton driver, and Triton has none for CPUs.",
        "FlagScale starts a program llama-server; the one in this image is flagrelease's own around xllamacpp.",
        "The weights are a Q4_1 quantisation in GGUF, not the original bfloat16 weights.",
    )


def test_hosts_are_not_published() -> None:
    assert b"secret-host" not in record.dumps(given.record())


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused_with_its_place(number: float) -> None:
    broken = given.record(accuracy=given.accuracy(given.score(candidate=number)))
    with pytest.raises(ValueError, match=r"release\.json\.accuracy\.benchmarks\[0\]\.candidate"):
        record.dumps(broken)


def test_a_newer_version_is_refused() -> None:
    raw = record.dumps(replace(given.record(), version=2))
    with pytest.raises(ConfigError, match="has version 2"):
        record.loads(raw)


@drawn(cut=st.integers(min_value=0, max_value=4000))
def test_a_record_that_was_cut_is_damaged(cut: int) -> None:
    with pytest.raises(ConfigError, match="is damaged"):
        record.loads(record.dumps(given.record())[:cut])


def test_what_has_not_finished_is_named() -> None:
    finished = Finished(one for one in given.finished() if one.stage not in ("smoke", "accuracy"))
    with pytest.raises(FlagreleaseError) as caught:
        record.build(given.job(), finished, "0" * 64)
    assert caught.value.why == "not finished: smoke, accuracy"


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """The result of a stage that this version of the record does not know."""

    tuned: float

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        return ()

    @property
    def summary(self) -> str:
        return f"{self.tuned}"


def test_stages_without_a_field_of_their_own_are_kept() -> None:
    quantised = Done(stage="quantise", key="5" * 64, result=Quantised(tuned=0.97), spent=Spent(seconds=1))
    finished = Finished([*given.finished(), quantised])
    made = record.build(given.job(), finished, "0" * 64)
    assert made.further == {"quantise": {"tuned": 0.97}}
    assert record.loads(record.dumps(made)) == made


class TestTag:
    def test_the_same_record_has_the_same_tag(self) -> None:
        assert given.record().tag == given.record().tag
        assert given.record().tag.startswith("tree_none-gems_none-scale_0.8.0-cx_none-")

    def test_another_answer_is_another_release(self) -> None:
        other = given.record(accuracy=given.accuracy(given.score(candidate=0.295)))
        assert other.tag != given.record().tag

    def test_a_local_version_fits_into_a_tag(self) -> None:
        made = given.record()
        patched = replace(made, chip=replace(made.chip, components=replace(made.chip.components, flagtree="0.4.0+3.3")))
        assert "tree_0.4.0.3.3-" in patched.tag

    def test_what_no_tag_can_hold_is_a_configuration_error(self) -> None:
        made = given.record()
        broken = replace(made, chip=replace(made.chip, components=replace(made.chip.components, flagcx="a b/c")))
        with pytest.raises(ConfigError, match="is not a valid image tag"):
            _ = broken.tag
