"""A published release with answers, tokens and speed, made by the real functions of the stages, without servers."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import support.finished_cell as given
from flagrelease.config.matrix import Benchmark, Profile, Share, Traffic
from flagrelease.contract.accuracy_results import Accuracy, TokenGate
from flagrelease.contract.context import Context
from flagrelease.contract.handles import Finished
from flagrelease.contract.job import Job
from flagrelease.contract.results import Image
from flagrelease.contract.speed_results import Speed, Spread
from flagrelease.evaluation.attempts import Turn
from flagrelease.evaluation.collect import Pair
from flagrelease.evaluation.datasets import load
from flagrelease.evaluation.question import Question, Reply
from flagrelease.evaluation.spec import EvalSpec, build_spec
from flagrelease.evaluation.tasks import task_named
from flagrelease.evaluation.transcripts import Replies
from flagrelease.ports.registry import MANIFEST_TYPE, Manifest, Registry
from flagrelease.stages.accuracy import evidence
from flagrelease.stages.accuracy.judge import attempt, judge, score
from flagrelease.stages.card import record
from flagrelease.stages.card import stage as card
from flagrelease.stages.card.files import RECORD
from flagrelease.stages.publish import release_folder
from flagrelease.stages.publish import stage as publish
from flagrelease.stages.publish.release_folder import evidence_paths
from flagrelease.stages.speed.load import Load, LoadPoint, Request
from flagrelease.stages.speed.pairs import Pair as Runs
from flagrelease.stages.speed.pairs import Starts
from flagrelease.stages.speed.points import load_points
from flagrelease.stages.speed.report import Measured, report
from flagrelease.store.digests import sha256_of
from flagrelease.store.ledger import evidence_of
from flagrelease.verdict import group_sequential, rule
from flagrelease.verdict.attempts import judged_answers, level
from flagrelease.verdict.samples import SAMPLES, Sample
from flagrelease.verdict.speed import speed_so_far
from flagrelease.verdict.stats.token_distance import distance_of
from flagrelease.verdict.types import BASELINE_WEIGHT, RESERVE
from support.contexts import after

SHORT = Benchmark(
    title="ShortTasks",
    task="exact",
    data="generated://short-tasks?seed=7&questions=120",
    license="Apache-2.0",
    shots=1,
    margin=0.2,
)
TRAFFIC = Traffic(input=16, output=8, concurrency=(1,), requests=2)


@dataclass
class Shelf:
    """A registry in memory with one image, without the API for referrers."""

    image: str
    manifests: dict[str, bytes] = field(default_factory=dict)
    """By digest and by tag."""
    blobs: dict[str, bytes] = field(default_factory=dict)

    def digest(self, _repository: str, reference: str) -> str | None:
        if reference == self.image:
            return self.image
        found = self.manifests.get(reference)
        return None if found is None else f"sha256:{sha256_of(found)}"

    def manifest(self, _repository: str, reference: str) -> Manifest:
        body = self.manifests.get(reference, b"{}")
        return Manifest(digest=reference, media_type=MANIFEST_TYPE, body=body)

    def put_manifest(self, _repository: str, reference: str, body: bytes, _media_type: str) -> str:
        digest = f"sha256:{sha256_of(body)}"
        self.manifests |= {reference: body, digest: body}
        return digest

    def tag(self, repository: str, digest: str, tag: str) -> None:
        self.manifests[tag] = self.manifest(repository, digest).body

    def blob(self, _repository: str, digest: str) -> bytes:
        return self.blobs[digest]

    def push_blob(self, _repository: str, data: bytes) -> str:
        digest = f"sha256:{sha256_of(data)}"
        self.blobs[digest] = data
        return digest

    def referrers(self, _repository: str, _digest: str) -> bytes | None:
        return None

    def check_push(self, repository: str) -> None:
        raise AssertionError(repository)


def job_of(benchmarks: dict[str, Benchmark], **changes: Any) -> Job:
    """The finished cell's job with these benchmarks, one load point and no token limit."""
    job = given.job()
    profile = Profile(benchmarks=dict.fromkeys(benchmarks, Share()), speed=(TRAFFIC,), **changes)
    cell = replace(job.cell, profile=profile)
    matrix = replace(job.matrix, benchmarks=benchmarks, profiles={"embedded": profile})
    return replace(job, cell=cell, matrix=matrix)


def release(
    root: Path,
    benchmarks: dict[str, Benchmark] | None = None,
    *,
    data: Path | None = None,
    sequential: bool = True,
    registry: Registry | None = None,
    image: Image | None = None,
) -> Path:
    """Publish a release to a workspace at `root`, and to a registry. Its folder."""
    job = replace(job_of(benchmarks or {"short-tasks": SHORT}, sequential=sequential), data_dir=data)
    pushed = image or given.image()
    empty = given.context(root, registry or Shelf(pushed.digest), image=pushed, smoke=given.smoke(pushed.reference))
    context = replace(empty, finished=Finished([done for done in empty.finished if done.stage != "accuracy"]))
    judged = _accuracy(job, context)
    measured = _speed(job, context)
    context = after(context, accuracy=judged, speed=measured)
    context = after(context, card=card.run(job, context))
    return context.workspace.root / publish.run(job, context).folder


def evaluated(root: Path, benchmarks: dict[str, Benchmark], *, data: Path) -> Path:
    """The folder of a release with answers, without speed, card and charts."""
    job = replace(job_of(benchmarks, sequential=False), data_dir=data)
    empty = given.context(root, None)
    context = replace(empty, finished=Finished([done for done in empty.finished if done.stage != "accuracy"]))
    context = after(context, accuracy=_accuracy(job, context))
    stored = evidence_paths((done.stage, evidence_of(done.result)) for done in context.finished)
    sources = {path: context.evidence.path(file) for path, file in stored.items()}
    written = root / RECORD
    written.write_bytes(record.dumps(record.build(job, context.finished, rendered_by="0" * 64)))
    release_folder.write(root / "release", {**sources, RECORD: written})
    return root / "release"


def _accuracy(job: Job, context: Context) -> Accuracy:
    specs = [_spec(job, name) for name in job.matrix.benchmarks]
    pairs = [_pair(job, context, spec, sequential=job.cell.profile.sequential) for spec in specs]
    judged = judge(pairs)
    rows = tuple(
        replace(
            score(pair, judged[pair.spec.benchmark]),
            attempts=(attempt(job, context, pair.turn, judged[pair.spec.benchmark]),) if pair.turn else (),
        )
        for pair in pairs
    )
    gate, tokens = _tokens(context)
    verdict = rule.decide_cell(rows)
    return replace(
        given.accuracy(*rows),
        verdict=verdict.value,
        reason="; ".join(f"{row.benchmark}: {row.reason}" for row in rows if row.verdict == verdict.value),
        token_gate=gate,
        evidence=(*evidence.write(job, context, pairs, judged), tokens),
    )


def _spec(job: Job, name: str) -> EvalSpec:
    benchmark = job.matrix.benchmarks[name]
    data = load(name, benchmark, job.lock, job.data_dir, lambda locked: Path(locked.file.path))
    return build_spec(name, benchmark, task_named(benchmark.task, name), Share(), data, job.cell.model)


def _pair(job: Job, context: Context, spec: EvalSpec, *, sequential: bool) -> Pair:
    """Both sides are right on about two thirds of the questions, and disagree on some."""
    sides = [_answered(job, context, spec, role, seed) for role, seed in (("baseline", 1), ("candidate", 2))]
    if not sequential:
        judged = judged_answers(spec.margin, *sides)
        turn = Turn(lineage="", earlier=(), number=1, judged=judged)
        return Pair(spec=spec, baseline=sides[0], candidate=sides[1], turn=turn)
    reference = spec.repeats > 1
    planned = group_sequential.PlannedLooks(
        questions=tuple((question.subset, question.id) for question in spec.questions),
        margin=spec.margin,
        repeats=spec.repeats,
        fail_alpha=0.01,
        reference=reference,
        chance=spec.chance,
        population=spec.total,
        reserve=RESERVE,
        alpha=level(1),
        baseline_weight=BASELINE_WEIGHT if reference else 0.0,
    )
    decision = planned.evaluation.next(*map(group_sequential.scores, sides))
    assert not isinstance(decision, group_sequential.Ask)
    before, after_ = group_sequential.judged(planned, decision, *sides)
    turn = Turn(lineage="", earlier=(), number=1, judged=judged_answers(planned.record(), before, after_))
    return Pair(spec=spec, baseline=before, candidate=after_, planned=planned, decision=decision, turn=turn)


def _answered(job: Job, context: Context, spec: EvalSpec, role: str, seed: int) -> list[Sample]:
    """One stack's answers, graded by the benchmark's grader; the replies are kept for the evidence."""
    into = context.workspace.scratch(job.cell.slug, "accuracy") / role / spec.benchmark / SAMPLES
    into.parent.mkdir(parents=True)
    task, samples = spec.evaluation.task, []
    with Replies(into) as replies:
        for repeat in range(spec.repeats):
            for question in spec.questions:
                lot = random.Random(f"{question.id}{repeat}{seed if int(question.prompt_sha256, 16) % 6 == 0 else ''}")
                reply = _reply(question, right=lot.random() < 0.67, letter=task.scoring == "letter")
                graded = task.grade(question, reply)
                sample = Sample(
                    benchmark=spec.benchmark,
                    subset=question.subset,
                    question_id=question.id,
                    prompt_sha256=question.prompt_sha256,
                    repeat=repeat,
                    correct=graded.correct,
                    answer=graded.answer,
                    finish_reason="stop",
                    completion_tokens=10,
                    latency_s=0.5,
                    error=None,
                )
                samples.append(sample)
                if task.scoring == "text":
                    replies.keep(sample.key, reply.text)
    return samples


def _reply(question: Question, *, right: bool, letter: bool) -> Reply:
    reference: Any = question.reference
    if isinstance(reference, tuple):  # the letters and the right one
        letters, wanted = reference
        said = wanted if right else next(each for each in letters if each != wanted)
        text = f"The choices differ in one point, which decides. I compare them one by one.\n\nANSWER: {said}"
        return Reply(text=text, finish_reason="stop", completion_tokens=10, letters={said: -0.1} if letter else None)
    said = str(reference) if right else f"no {question.id}"
    return Reply(text=said, finish_reason="stop", completion_tokens=10)


def _tokens(context: Context) -> tuple[TokenGate, Any]:
    lot = random.Random(3)
    prompts = [[round(lot.random() / 100, 5) for _ in range(32)] for _ in range(20)]
    distance = distance_of(prompts, same_top=0.99, alpha=rule.TOKEN_ALPHA)
    verdict = rule.decide_tokens(distance, distance)
    gate = TokenGate(
        reason="0.0050 nats per token",
        verdict=verdict.value,
        planned=640,
        candidate=distance,
        floor=distance,
        tolerance=rule.TOKEN_TOLERANCE,
        look=2,
    )
    rows = [{"prompt": f"short-tasks/{n}", "same_tokens": True, "kl": kl} for n, kl in enumerate(prompts)]
    stored = context.evidence.put("accuracy/tokens.json", json.dumps({**asdict(gate), "prompts": rows}).encode())
    return gate, stored


def _speed(job: Job, context: Context) -> Speed:
    loads, starts = load_points(job), Starts(context.workspace.scratch(job.cell.slug, "speed"))
    lot = random.Random(5)
    for number in range(5):
        starts.keep(number, "toy", {point: [_runs(point, lot) for _ in range(3)] for point in loads})
    judged = {
        point: speed_so_far(
            [pair.baseline.output_tokens_per_s for _, pair in starts.at(point)],
            [pair.candidate.output_tokens_per_s for _, pair in starts.at(point)],
            starts=[start for start, _ in starts.at(point)],
            gate=traffic.gate,
        )
        for point, traffic in loads.items()
    }
    return report(job, context, Measured(tool="toy", starts=starts, judged=judged, seed="5"))


def _runs(point: LoadPoint, lot: random.Random) -> Runs:
    sides = [_load(point, 1 + lot.random() / 50) for _ in range(2)]
    return Runs(baseline=sides[0], candidate=sides[1], baseline_cpu_s=1.5, candidate_cpu_s=1.25)


def _load(point: LoadPoint, seconds: float) -> Load:
    requests: Sequence[Request] = [
        Request(
            start_s=0.001 * n,
            ttft_s=0.1,
            e2e_s=round(seconds / 2, 6),
            input_tokens=point.input_tokens,
            output_tokens=point.output_tokens,
        )
        for n in range(point.requests)
    ]
    return Load(requests=tuple(requests), seconds=seconds, itl_s=Spread(median=0.05, p99=0.06))
