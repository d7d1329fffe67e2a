"""The supervisor of attribution: an operator that kills or hangs the worker is guilty."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from flagkernels.attribute.attribute import read_record
from flagkernels.attribute.worker import supervise
from flagkernels.errors import ChipFault

# Measures a, b, c …, goes on where its record ends, and does to each what it is told.
WORKER = """
import json, os, sys, time
path, deeds = sys.argv[1], dict(word.split("=") for word in sys.argv[2:])
rows = [json.loads(line) for line in open(path)] if os.path.exists(path) else []
measured = [row["operators"][0] for row in rows if "begun" not in row]
def append(row):
    with open(path, "a") as stream:
        stream.write(json.dumps(row) + chr(10))
for name in "abc":
    if name in measured:
        continue
    append({"begun": [name]})
    deed = deeds.get(name)
    if deed == "abort": os.abort()
    if deed == "hang": time.sleep(60)
    lost = deed == "lose"
    excess = None if lost else 1.0
    append({"operators": [name], "excess": excess, "shift": 0.0, "sigmas": 0.0, "guilty": lost, "note": ""})
    if lost: sys.exit(70)
sys.exit(int(deeds.get("exit", 0)))
"""


def worker(record: Path, *deeds: str) -> list[str]:
    return [sys.executable, "-S", "-c", WORKER, str(record), *deeds]


def test_each_death_is_one_measurement_and_the_others_are_made(tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    assert supervise(worker(record, "a=abort", "b=hang", "c=lose"), record, seconds=1.0, poll=0.05) == 0
    found = read_record(record)
    assert [found[name,].note for name in "abc"] == ["died of SIGABRT", "no answer within 1 s", ""]
    assert all(one.guilty for one in found.values())


def test_an_error_that_the_worker_told_is_passed_on(tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    assert supervise(worker(record, "exit=2"), record, seconds=5.0) == 2
    assert [one.guilty for one in read_record(record).values()] == [False] * 3


def test_a_death_without_an_operator_is_the_model_s_own(tmp_path: Path) -> None:
    with pytest.raises(ChipFault, match="native kernels") as caught:
        supervise([sys.executable, "-S", "-c", "import os; os.abort()"], tmp_path / "none.jsonl", seconds=5.0)
    assert "SIGABRT" in caught.value.why


def test_log_probabilities_come_from_a_prefill_from_steps_and_from_parts_in_steps() -> None:
    torch = pytest.importorskip("torch", reason="the chip side needs torch")
    transformers = pytest.importorskip("transformers", reason="the model is transformers'")
    from flagkernels.model.logprobs import BATCH, BATCHED, DECODED, log_probabilities

    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.AutoConfig.for_model("qwen3", num_key_value_heads=2, head_dim=16, vocab_size=64, **small)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    ids = torch.randint(0, 64, (1, 256))
    found = log_probabilities(model, ids)

    def direct(row: Any, last: int) -> Any:
        with torch.inference_mode():
            logits = model(input_ids=row[None]).logits[0, :-1].log_softmax(-1)
        return logits.gather(-1, row[1:, None])[-last:, 0]

    parts = ids.view(BATCH, -1)
    expected = [direct(ids[0], 255), direct(ids[0], DECODED - 1), *(direct(part, BATCHED - 1) for part in parts)]
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-4, rtol=1e-4)
