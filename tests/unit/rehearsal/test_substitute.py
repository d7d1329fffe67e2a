"""A rehearsal keeps what it can of the cell, and names everything else."""

from __future__ import annotations

from dataclasses import replace

import pytest

import support.served_cell as given
from flagrelease.config.cell import Cell
from flagrelease.rehearsal import small_model
from flagrelease.rehearsal.report import Exercised, Failed, LeftOut, Report
from flagrelease.rehearsal.substitute import NOTE, RANDOM, Here, substituted

HERE = Here(
    python="3.11",
    base="127.0.0.1:1/rehearsal/base:vllm",
    source="file:///models/qwen3-8b",
    exists=lambda path: path in ("/dev/dri", "/here"),
    reported="MetaX C550\n",
    env={"VLLM_CPU_KVCACHE_SPACE": "1"},
)


def played(name: str, lacking: dict[str, str] | None = None, **container: object) -> tuple[Cell, tuple[LeftOut, ...]]:
    cell = given.cell(name)
    flags = replace(cell.chip.container, **container)  # type: ignore[arg-type]
    return substituted(replace(cell, chip=replace(cell.chip, container=flags)), HERE, lacking or {})


def test_flags_that_this_machine_cannot_have_are_named() -> None:
    cell, left_out = played("metax/qwen3-8b", mounts=("/here:/a", "/absent:/b:ro"), runtime="metax")
    flags = cell.chip.container
    assert flags.devices == ("/dev/dri",)
    assert flags.mounts == ("/here:/a",)
    assert flags.runtime == ""
    assert (flags.privileged, flags.groups, flags.shm) == (True, ("video",), "100gb")
    told = {one.what for one in left_out if one.part == "container"}
    assert {"--device=/dev/mxcd", "--volume=/absent:/b:ro", "--runtime=metax"} < told
    assert not any("/dev/dri" in what for what in told)


def test_flags_that_the_engine_refuses_here_are_named() -> None:
    cell = given.cell("metax/qwen3-8b")
    played, left_out = substituted(cell, replace(HERE, refused={"--ulimit=memlock=-1": "not permitted"}), {})
    assert played.chip.container.ulimits == {}
    assert LeftOut(part="container", what="--ulimit=memlock=-1", why="not permitted") in left_out


def test_the_engine_gets_the_arguments_of_the_cell() -> None:
    real, (cell, left_out) = given.cell("metax/qwen3-8b"), played("metax/qwen3-8b")
    assert cell.model.serve.args == {**real.model.serve.args, "enforce_eager": True}
    assert (cell.model.serve.concurrency, cell.model.serve.port) == (64, 8000)
    assert cell.model.serve.colocate, "each further start would take a minute"
    assert any("enforce_eager is added" in one.what for one in left_out)
    assert any("40,960 tokens: 16,384" in one.what for one in left_out)


def test_a_few_questions_of_every_benchmark_with_data_are_asked() -> None:
    cell, left_out = played("metax/qwen3-8b", {"gpqa": "no data"})
    real = given.cell("metax/qwen3-8b").profile
    assert set(cell.profile.benchmarks) == set(real.benchmarks) - {"gpqa"}
    assert {(share.limit, share.repeats) for share in cell.profile.benchmarks.values()} == {(3, 1)}
    assert (cell.model.sampling.max_tokens, cell.model.sampling.temperature) == (32, 0)
    assert any("sampling at temperature 0.6: greedy" in one.what for one in left_out)
    assert LeftOut(part="accuracy", what="the questions of gpqa", why="no data") in left_out
    (load,) = cell.profile.speed
    assert len(load.concurrency) == 2


def test_questions_are_drawn_if_no_benchmark_has_data() -> None:
    cell = given.cell("metax/qwen3-8b")
    lacking = dict.fromkeys(cell.profile.benchmarks, "no data")
    played, left_out = substituted(cell, replace(HERE, generated="short-tasks"), lacking)
    assert list(played.profile.benchmarks) == ["short-tasks"]
    assert any("short-tasks is asked instead" in one.what for one in left_out)
    assert not substituted(cell, HERE, lacking)[0].profile.benchmarks


def test_a_smaller_share_stays_as_it_is() -> None:
    cell = given.cell("metax/qwen3-8b")
    share = replace(cell.profile.benchmarks["aime"], limit=2)
    cell = replace(cell, profile=replace(cell.profile, benchmarks={"aime": share}))
    assert substituted(cell, HERE, {})[0].profile.benchmarks["aime"].limit == 2


def test_what_the_vendor_s_base_brings_is_not_installed_from_elsewhere() -> None:
    cell, left_out = played("metax/qwen3-8b")
    assert (cell.chip.components.flaggems, cell.chip.brought) == ("none", ())
    assert any(one.what == "flaggems 3.0 of the base image: none" for one in left_out)
    assert any(one.what == "Python 3.12 of the base image: 3.11" for one in left_out)
    assert played("nvidia-h100/qwen3-8b")[0].chip.components.flaggems == "5.0.2"


def test_the_card_of_a_rehearsal_says_that_it_is_one() -> None:
    cell, _ = played("metax/qwen3-8b")
    assert cell.model.notes[:2] == (NOTE, RANDOM)
    real = given.cell()
    cell, _ = substituted(real, replace(HERE, source=real.model.source), {})
    assert cell.model.notes == (NOTE, *real.model.notes), "these weights are the model's own"


@pytest.mark.parametrize(
    ("config", "made"),
    [
        (small_model.STAND_IN, {"num_hidden_layers": 2, "hidden_size": 256, "num_key_value_heads": 2}),
        (
            {"num_hidden_layers": 3, "layer_types": ["a", "b", "c"], "num_experts": 128, "num_experts_per_tok": 8},
            {"num_hidden_layers": 2, "layer_types": ["a", "b"], "num_experts": 8, "num_experts_per_tok": 2},
        ),
        ({"hidden_size": 7168, "kv_lora_rank": 512, "num_hidden_layers": 61}, {"hidden_size": 7168}),
        ({"text_config": {"num_hidden_layers": 40}}, {"text_config": {"num_hidden_layers": 2}}),
    ],
)
def test_the_architecture_stays(config: dict[str, object], made: dict[str, object]) -> None:
    found = small_model.small({**config, "quantization_config": {}, "architectures": ["A"]})
    assert made.items() <= found.items()
    assert found["architectures"] == ["A"]
    assert "quantization_config" not in found


def test_the_stand_in_s_tokenizer_has_a_token_for_each_byte(tmp_path: object) -> None:
    from tokenizers import Tokenizer

    files, entries, printable = small_model.byte_tokenizer(64)
    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    text = "Wie viele Tage hat 周? \x00\n"
    encoded = tokenizer.encode(f"<|im_start|>{text}<|im_end|>")
    assert encoded.ids[1:-1] == list(text.encode())
    assert (encoded.ids[0], encoded.ids[-1]) == (257, entries["eos_token_id"])
    assert tokenizer.decode(encoded.ids) == text
    assert tokenizer.decode(printable) == " abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize(("codes", "code"), [((), 0), ((6,), 6), ((4, 2), 2)])
def test_a_report_ends_with_its_most_severe_failure(codes: tuple[int, ...], code: int) -> None:
    failed = tuple(Failed(part="smoke", here=False, why="w", hint="h", code=each) for each in codes)
    done = (Exercised(part="lock", what="w", seconds=1.0),)
    report = Report(cell="a/b", seconds=1.0, exercised=done, left_out=(), failed=failed, folder="f")
    assert report.code == code
    assert report.as_json()["exit_code"] == code
