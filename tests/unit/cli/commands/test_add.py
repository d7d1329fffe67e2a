"""add: a stanza goes into the text of matrix.yaml, which is valid before and after; the hub is a stand-in."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from flagrelease.cli import hub_facts
from flagrelease.cli.app import main
from flagrelease.cli.stanza import inserted
from flagrelease.config import matrix as matrices
from flagrelease.config.matrix import Matrix
from flagrelease.errors import ConfigError
from support.hub_stand_in import Fault, HubStandIn
from support.model_files import safetensors_of

ROOT = Path(__file__).parents[4]
CONFIG = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "max_position_embeddings": 40960}
CARD = "---\nlicense: apache-2.0\nlanguage: [en, zh]\n---\n# Toy\n"
GENERATION = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(shutil.copyfile(ROOT / "matrix.yaml", tmp_path / "matrix.yaml"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStandIn]:
    with HubStandIn().running() as stand_in:
        stand_in.files = {
            "README.md": CARD.encode(),
            "config.json": json.dumps(CONFIG).encode(),
            "generation_config.json": json.dumps(GENERATION).encode(),
            "model.safetensors": safetensors_of(b"x" * 5000),
        }
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", stand_in.url)
        monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "modelscope-home"))
        monkeypatch.setenv("HF_ENDPOINT", stand_in.url)
        yield stand_in


def added(path: Path, *argv: str) -> Matrix:
    assert main(["add", *argv, "--matrix", str(path)]) == 0
    return matrices.load(path)


def kept(before: str, after: str) -> bool:
    """Whether all lines are still there, in the same order."""
    rest = iter(after.splitlines())
    return all(line in rest for line in before.splitlines())


@pytest.mark.parametrize("scheme", ["modelscope", "hf"])
def test_a_model_is_added_as_its_hub_describes_it(
    path: Path, hub: HubStandIn, scheme: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = path.read_text()
    model = added(path, "model", "toy-1b", "--source", f"{scheme}://ORG/Toy-1B").models["toy-1b"]
    assert (model.title, model.upstream, model.license, model.languages) == (
        "Toy-1B",
        "ORG/Toy-1B",
        "apache-2.0",
        ("en", "zh"),
    )
    assert (model.serve.engine, model.serve.max_model_len, model.serve.devices) == ("vllm", 40960, 1)
    assert (model.sampling.temperature, model.sampling.top_p, model.sampling.top_k) == (0.6, 0.95, 20)
    assert kept(before, path.read_text())
    assert "new cells: " in (shown := capsys.readouterr().out)
    assert "nvidia-h100/toy-1b" in shown
    assert not any("safetensors" in request for request in map(str, hub.requests) if "resolve" in request)


def test_flags_prevail_over_the_hub(path: Path, hub: HubStandIn) -> None:
    flags = "--license mit --temperature 0 --max-model-len 8192 --devices 2 --title Toy --languages de --thinking"
    model = added(path, "model", "toy", "--source", "hf://ORG/Toy-1B", *flags.split()).models["toy"]
    assert (model.license, model.serve.max_model_len, model.serve.devices, model.title) == ("mit", 8192, 2, "Toy")
    assert (model.sampling.temperature, model.sampling.top_p, model.sampling.thinking) == (0.0, 1.0, True)
    assert model.languages == ("de",)


def test_without_its_hub_a_model_is_added_from_flags(
    path: Path, hub: HubStandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults = [Fault(where="", status=404, times=99)]
    model = added(path, "model", "toy", "--source", "hf://ORG/Toy-1B", "--license", "mit").models["toy"]
    assert (model.license, model.sampling.temperature) == ("mit", 0.0)
    assert "note: the hub was not read: " in capsys.readouterr().out
    assert main(["add", "model", "other", "--source", "hf://ORG/Toy-1B", "--matrix", str(path)]) == 2
    assert "a model also needs --license" in capsys.readouterr().err


CHIP = "--vendor nvidia --code nvidia005 --base registry.example/base:1 --flagscale 0.8.0 --flaggems 5.0.2"


def test_a_chip_is_added(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = path.read_text()
    more = "--gpus all --shm 32gb --host-devices 8 --memory 141 --python 3.12"
    argv = ["chip", "nvidia-b200", "--device-name", "NVIDIA B200", *CHIP.split(), *more.split()]
    assert main(["add", *argv, "--dry-run", "--json", "--matrix", str(path)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["written"], path.read_text()) == (False, before)
    chip = added(path, *argv).chips["nvidia-b200"]
    assert (chip.device.name, chip.device.memory, chip.host_devices, chip.python) == ("NVIDIA B200", 141.0, 8, "3.12")
    assert (chip.container.gpus, chip.container.shm, chip.components.flaggems) == ("all", "32gb", "5.0.2")
    assert kept(before, path.read_text())
    assert shown["stanza"] in path.read_text()


def test_what_is_missing_is_asked_for(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    argv = ["add", "chip", "new", *CHIP.split()[:8], "--matrix", str(path)]
    monkeypatch.setattr("sys.stdin", Terminal("NVIDIA H200\n"))
    assert main(argv) == 2, "the answers end before all is known"
    assert "a chip also needs --flaggems" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", Terminal("NVIDIA H200\n5.0.2\n"))
    assert main(argv) == 0
    chip = matrices.load(path).chips["new"]
    assert (chip.device.name, chip.components.flaggems) == ("NVIDIA H200", "5.0.2")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["model", "qwen3-8b", "--source", "hf://A/B"], "models.qwen3-8b exists"),
        (["model", "Toy", "--source", "hf://A/B", "--license", "mit", "--offline"], "models.Toy is not a name"),
        (["model", "toy", "--source", "hf:/A/B", "--license", "mit"], "'hf:/A/B'"),
        (["model", "toy", "--source", "file:///t", "--license", "mit", "--offline"], "upstream"),
        (["chip", "new", *CHIP.replace("nvidia ", "nvida ").split(), "--device-name", "x"], "unknown vendor 'nvida'"),
        (["chip", "new"], "a chip also needs --vendor, --device-name, --code, --base, --flagscale, --flaggems"),
    ],
)
def test_what_is_not_valid_is_not_written(
    path: Path, argv: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = path.read_bytes()
    assert main(["add", *argv, "--matrix", str(path)]) == 2
    assert expected in capsys.readouterr().err
    assert path.read_bytes() == before


def test_a_stanza_goes_before_the_comments_of_the_next_section() -> None:
    text = "models:\n  a: {x: 1}   # of a\n\n# of the next\nprofiles:\n  p: {}\n"
    assert inserted(text, "models", "  b: 1\n") == text.replace("# of a\n", "# of a\n\n  b: 1\n")
    assert inserted("x: 1\nmodels:\n  a: 1", "models", "  b: 1\n") == "x: 1\nmodels:\n  a: 1\n\n  b: 1\n"
    for wrong in ("models: {}\n", "chips:\n  a: 1\n"):
        with pytest.raises(ConfigError):
            inserted(wrong, "models", "  b: 1\n")


def test_files_of_a_hub_that_are_not_what_they_seem_say_nothing() -> None:
    nothing = hub_facts.Facts()
    for text in ("[]", "{", "null", "\x00", '{"max_position_embeddings": true}'):
        assert hub_facts.of_texts({"config.json": text, "generation_config.json": text, "README.md": text}) == nothing
    odd = {
        "README.md": "---\nlicense: [a]\nlanguage: {x: 1}\n---\n",
        "generation_config.json": '{"do_sample": false, "temperature": 1}',
    }
    assert hub_facts.of_texts(odd) == nothing
    nested = {"config.json": json.dumps({"model_type": "gemma3", "text_config": {"max_position_embeddings": 131072}})}
    assert hub_facts.of_texts(nested).max_model_len == 131072
