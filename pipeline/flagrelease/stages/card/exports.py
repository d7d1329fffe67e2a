"""The scores of a release in the formats of others: Hugging Face's `.eval_results` and Every Eval Ever. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from flagrelease import __version__
from flagrelease.config.harness_names import HARNESS_LABELS
from flagrelease.contract.accuracy_results import BenchmarkScore
from flagrelease.contract.results import ACCURACY
from flagrelease.stages.card.record import Record

EVAL_RESULTS = ".eval_results/flagrelease.yaml"
EVERY_EVAL_EVER = "every-eval-ever.json"
SCHEMA_VERSION = "0.3.0"
"""Of Every Eval Ever's eval.schema.json."""

LEADERBOARDS: Mapping[str, tuple[str, str]] = {
    "GPQA_Diamond": ("Idavidrein/gpqa", "gpqa_diamond"),
    "GSM8K": ("openai/gsm8k", "gsm8k"),
    "MMLU-Pro": ("TIGER-Lab/MMLU-Pro", "mmlu_pro"),
}
"""Data set and task of the benchmarks that Hugging Face lists, by their titles in the matrix."""


def files(record: Record) -> dict[str, bytes]:
    """The files by name. None of them is written for a release without scores."""
    written = {}
    if record.accuracy.benchmarks:
        written[EVERY_EVAL_EVER] = every_eval_ever(record)
    if text := eval_results(record):
        written[EVAL_RESULTS] = text
    return written


def eval_results(record: Record) -> bytes:
    """Scores in percent for the model's page on Hugging Face; empty without any.

    Only complete benchmarks that the hub lists: it shows them next to other models' scores.
    """
    listed = [
        (LEADERBOARDS[benchmark.title], row)
        for row in record.accuracy.benchmarks
        if (benchmark := record.benchmarks.get(row.benchmark)) and benchmark.title in LEADERBOARDS and not row.partial
    ]
    if not listed:
        return b""
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    entries = [
        EvalResultEntry(
            dataset_id=dataset,
            task_id=task,
            value=round(100 * row.candidate, 2),
            date=_finished(record)[:10] or None,
            notes=f"{row.metric}, {record.candidate_name}, image {record.image.digest}",
        )
        for (dataset, task), row in listed
    ]
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, width=1000).encode()


def every_eval_ever(record: Record) -> bytes:
    """A record after Every Eval Ever's schema. Values that it has no field for are in `additional_details`."""
    finished = _finished(record)
    stamp = str(int(datetime.fromisoformat(finished).timestamp())) if finished else "unknown"
    model, image = record.model, record.image
    made = {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": f"{record.profile_name}/{record.cell}/{record.tag}",
        "evaluation_timestamp": stamp,
        "retrieved_timestamp": stamp,
        "source_metadata": {
            "source_name": "FlagRelease",
            "source_type": "evaluation_run",
            "source_organization_name": "FlagOS",
            "evaluator_relationship": "third_party",
        },
        "eval_library": {"name": "flagrelease", "version": __version__},
        "model_info": {
            "name": record.name,
            "id": model.upstream,
            "inference_engine": {
                "name": model.serve.engine,
                "version": image.versions.get(model.serve.engine, "unknown"),
            },
            "additional_details": {
                "deployment_type": "self_deployed",
                "model_availability": "open_weights",
                "chip": record.chip.device.name,
                "stack": record.stack,
                "image": image.reference,
                "weights_digest": record.weights.digest,
                "weights_revision": record.weights.revision,
            },
        },
        "evaluation_results": [_result(record, row) for row in record.accuracy.benchmarks],
    }
    return json.dumps(made, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def _result(record: Record, row: BenchmarkScore) -> dict[str, Any]:
    sampling = record.accuracy.sampling
    arguments = {name: sampling[name] for name in ("temperature", "top_p", "top_k", "max_tokens") if name in sampling}
    details = {
        "verdict": row.verdict,
        "margin": row.margin,
        "repeats": row.repeats,
        "failed_requests": row.errors,
        "truncated_answers": row.truncated,
        "baseline_name": record.accuracy.baseline_name,
        "baseline": row.baseline,
        "difference": row.difference,
        "difference_interval90": None if row.interval90 is None else list(row.interval90),
        "partial": row.partial or None,
    }
    return {
        "evaluation_result_id": row.benchmark,
        "evaluation_name": row.metric,
        "source_data": _source(record, row),
        "metric_config": {
            "metric_name": row.metric,
            "metric_kind": "accuracy",
            "metric_unit": "proportion",
            "lower_is_better": False,
            "score_type": "continuous",
            "min_score": 0,
            "max_score": 1,
        },
        "score_details": {
            "score": row.candidate,
            "details": {name: _text(value) for name, value in details.items() if value is not None},
            "uncertainty": {"num_samples": row.n},
        },
        "generation_config": {"generation_args": arguments},
    }


def _source(record: Record, row: BenchmarkScore) -> dict[str, Any]:
    details = {"sha256": row.data_sha256}
    if benchmark := record.benchmarks.get(row.benchmark):
        harness = HARNESS_LABELS[benchmark.harness or record.profile.harness]
        details |= {"source": benchmark.data, "licence": benchmark.license, "harness": harness}
    name = benchmark.title if benchmark else row.benchmark
    return {"dataset_name": name, "source_type": "other", "additional_details": details}


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _finished(record: Record) -> str:
    """When the evaluation ended, ISO 8601; empty in records of versions that did not store it."""
    return next((cost.at for cost in record.stages if cost.stage == ACCURACY.stage), "")
