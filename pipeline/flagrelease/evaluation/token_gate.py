"""The token gate: compare two served stacks token by token, before any question is asked.

The baseline's stack continues prompts of the benchmarks greedily, and the candidate computes the log-probabilities of
the same tokens (teacher-forced). A faulty stack differs at most tokens, so that a few hundred show it (Token-DiFR,
arXiv 2511.20621). The scale is the distance of the baseline's stack from itself, asked again in another order and with
another number of requests at once: rounding depends on the other requests in a batch (Yuan et al., arXiv 2506.09501).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import msgspec

from flagrelease.config.cell import Cell, fingerprint
from flagrelease.config.engines import ENGINES
from flagrelease.contract import accuracy_results, results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.errors import ComparisonRefused, Corrupt
from flagrelease.evaluation.question import Message
from flagrelease.evaluation.spec import EvalSpec
from flagrelease.ports.logprobs import NotOffered, Probabilities, Scored, ServedProbabilities, TopLogprobs
from flagrelease.ports.openai_client import NoAnswer
from flagrelease.ports.progress import Count
from flagrelease.serving.server import Served
from flagrelease.serving.servers import Servers
from flagrelease.store.evidence import Evidence
from flagrelease.verdict import rule
from flagrelease.verdict.stats.token_distance import TokenDistance, kl_top, token_distance
from flagrelease.verdict.types import Verdict

__all__ = ["LENGTH", "Plan", "Prompt", "Reading", "Reference", "compare", "gate", "prompts_of", "refer"]

T = TypeVar("T")
Rows = Sequence[tuple[TopLogprobs, TopLogprobs]]

LENGTH = 32
"""Tokens of a continuation."""
_LONGEST = 2_000
"""Tokens of the longest prompt that is used."""
_MOST_AT_ONCE = 16
_FLOOR_SHARE = 8
"""The reference is asked again one of so many prompts, but at least as many prompts as this number."""
_FILE = "accuracy/tokens.json"


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A question of a benchmark as a chat."""

    name: str
    """BENCHMARK/SUBSET/QUESTION."""
    messages: tuple[Message, ...]
    """The chat messages."""
    template: dict[str, Any] = field(default_factory=dict)
    """Arguments of the chat template."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is asked, and how."""

    tokens: int
    """Tokens to compare."""
    longest: int
    """Tokens of the longest prompt."""
    at_once: int
    """Requests at once."""
    floor_at_once: int
    """Requests at once when the reference is asked again."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The reference's continuation of one prompt."""

    name: str
    """The prompt's name."""
    prompt_sha256: str
    """sha256 (hex) of the prompt's token ids."""
    tokens: tuple[int, ...]
    """The tokens that it generated."""
    scored: Scored
    """Its log-probabilities there."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The readings of the baseline's stack and their noise."""

    readings: tuple[Reading, ...]
    """One for each prompt."""
    floor: TokenDistance
    """The distance of the stack from itself, asked again."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What is known of the baseline's stack."""

    reference: Reference | None = None
    """None if it cannot be asked."""
    reason: str = ""
    """Why not."""


def prompts_of(job: Job, specs: Sequence[EvalSpec]) -> tuple[Prompt, ...]:
    """The questions of all benchmarks in turn, without password-protected data: continuations may quote questions."""
    public = [spec for spec in specs if "#" not in job.matrix.benchmarks[spec.benchmark].data]
    turns = max((len(spec.questions) for spec in public), default=0)
    return tuple(
        Prompt(
            name=f"{spec.benchmark}/{question.subset}/{question.id}",
            messages=question.messages,
            template=spec.evaluation.parameters.get("chat_template_kwargs", {}),
        )
        for turn in range(turns)
        for spec in public
        for question in spec.questions[turn : turn + 1]
    )


def refer(source: Probabilities, prompts: Sequence[Prompt], plan: Plan, report: Callable[[int], None]) -> Reference:
    """Ask the reference until the tokens are enough, then again in reverse order. Raises NotOffered, NoAnswer."""
    asked: list[tuple[tuple[int, ...], Reading]] = []

    def read(prompt: Prompt) -> tuple[tuple[int, ...], Reading] | None:
        tokens = source.prompt(prompt.messages, prompt.template)
        if len(tokens) > plan.longest:
            return None
        own = source.greedy(tokens, LENGTH)
        reading = Reading(name=prompt.name, prompt_sha256=_digest(tokens), tokens=own.tokens, scored=own.scored)
        return (tokens, reading) if own.tokens else None

    left = list(prompts)
    with ThreadPoolExecutor(plan.at_once) as pool:
        while left and (missing := plan.tokens - sum(len(reading.tokens) for _, reading in asked)) > 0:
            batch, left = left[: -(-missing // LENGTH)], left[-(-missing // LENGTH) :]
            for answer in pool.map(read, batch):
                asked += [answer] if answer is not None else []
                report(sum(len(reading.tokens) for _, reading in asked))
    again = asked[: max(len(asked) // _FLOOR_SHARE, _FLOOR_SHARE)][::-1]
    with ThreadPoolExecutor(plan.floor_at_once) as pool:
        scored = list(pool.map(lambda each: source.forced(each[0], each[1].tokens), again))
    rows = [list(_rows(reading.scored, other)) for (_, reading), other in zip(again, scored, strict=True)]
    floor = token_distance(rows, alpha=rule.TOKEN_ALPHA)
    return Reference(readings=tuple(reading for _, reading in asked), floor=floor)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The candidate's log-probabilities of the reference's tokens."""

    verdict: Verdict
    look: int
    """The number of the look that decided."""
    distance: TokenDistance
    rows: Sequence[Rows]
    """By prompt, the pairs of log-probabilities, the reference's first."""
    other_prompts: tuple[str, ...]
    """The names of the prompts that the candidate renders to other tokens."""


def compare(
    source: Probabilities, prompts: Sequence[Prompt], reference: Reference, plan: Plan, report: Callable[[int], None]
) -> Compared:
    """Ask the candidate, look by look, until it fails or all tokens are asked. Raises NotOffered, NoAnswer."""
    named = {prompt.name: prompt for prompt in prompts}
    rows: list[Rows] = []
    others: list[str] = []

    def read(reading: Reading) -> tuple[bool, Rows]:
        prompt = named[reading.name]
        tokens = source.prompt(prompt.messages, prompt.template)
        return _digest(tokens) == reading.prompt_sha256, tuple(
            _rows(reading.scored, source.forced(tokens, reading.tokens))
        )

    with ThreadPoolExecutor(plan.at_once) as pool:
        for look, batch in enumerate(_looks(reference.readings), 1):  # noqa: B007 - the last one is returned
            for reading, (same, pairs) in zip(batch, pool.map(read, batch), strict=True):
                rows.append(pairs)
                others += [] if same else [reading.name]
                report(sum(map(len, rows)))
            distance = token_distance(rows, alpha=rule.TOKEN_ALPHA)
            verdict = rule.decide_tokens(distance, reference.floor, other_prompts=len(others))
            if verdict is Verdict.FAIL:
                break
    return Compared(verdict=verdict, look=look, distance=distance, rows=rows, other_prompts=tuple(others))


def _looks(readings: Sequence[Reading]) -> Iterator[Sequence[Reading]]:
    """The readings that each look adds; the last has the rest."""
    start, tokens = 0, 0
    for end, reading in enumerate(readings, 1):
        tokens += len(reading.tokens)
        if end == len(readings) or (
            end - start and any(tokens - len(reading.tokens) < n <= tokens for n in rule.TOKEN_LOOKS[:-1])
        ):
            yield readings[start:end]
            start = end


def _rows(reference: Scored, other: Scored) -> Iterator[tuple[TopLogprobs, TopLogprobs]]:
    """Both sides at each position: as computed while decoding if both followed the tokens, else while reading."""
    yield from zip(reference.decoded, other.decoded, strict=False)
    decoded = min(len(reference.decoded), len(other.decoded))
    yield from zip(reference.read[decoded:], other.read[decoded:], strict=False)


def _digest(tokens: Sequence[int]) -> str:
    return hashlib.sha256(json.dumps(list(tokens)).encode()).hexdigest()


def gate(
    job: Job, context: Context, specs: Sequence[EvalSpec], servers: Servers
) -> tuple[accuracy_results.TokenGate, tuple[Evidence, ...]]:
    """Judge the candidate, or give the reason why not. Raises the errors of the servers."""
    cell, plan, prompts = job.cell, _plan(job.cell), prompts_of(job, specs)
    if not plan.tokens or not prompts:
        why = "the profile's benchmarks have no prompts that may be stored" if plan.tokens else "the profile has none"
        return accuracy_results.TokenGate(reason=why), ()
    stored = _reference(job, context, prompts, plan, servers)
    reference = stored.reference
    if reference is None:
        return accuracy_results.TokenGate(reason=f"{cell.baseline.stack}: {stored.reason}"), ()
    total = sum(len(reading.tokens) for reading in reference.readings)
    report = _reporter(context, f"{cell.stack}: token gate", total)
    compared = _ask(context, servers.get(cell.stack), lambda source: compare(source, prompts, reference, plan, report))
    if isinstance(compared, NotMeasured):
        return accuracy_results.TokenGate(reason=f"{cell.stack}: {compared.reason}"), ()
    result = accuracy_results.TokenGate(
        verdict=compared.verdict.value,
        reason=_why(cell, compared, reference.floor),
        planned=total,
        candidate=compared.distance,
        floor=reference.floor,
        tolerance=rule.TOKEN_TOLERANCE,
        look=compared.look,
        other_prompts=len(compared.other_prompts),
    )
    return result, (context.evidence.put(_FILE, _pretty(result, reference, compared)),)


def _why(cell: Cell, compared: Compared, floor: TokenDistance) -> str:
    """The distance and the floor in words."""
    candidate = compared.distance
    others = f"; {len(compared.other_prompts)} prompts have other tokens" if compared.other_prompts else ""
    few = candidate.tokens < rule.PASS_TOKENS and compared.verdict is not Verdict.FAIL
    return (
        f"{_interval(candidate)} nats per token from {cell.baseline.stack} on {cell.baseline.chip}, which differs from "
        f"itself by {_interval(floor)}; tolerance {rule.TOKEN_TOLERANCE:g}; {candidate.tokens:,} tokens of "
        f"{candidate.prompts} prompts{others}" + (f"; a PASS needs {rule.PASS_TOKENS:,}" if few else "")
    )


def _interval(distance: TokenDistance) -> str:
    low, high = distance.interval
    return f"{distance.mean:.4f} [{low:.4f}, {high:.4f}]"


@dataclass(frozen=True)
class NotMeasured:
    """The reason why a server could not be asked, and whether it will be the same next time."""

    reason: str
    lasting: bool = False


def _plan(cell: Cell) -> Plan:
    engine, serve = ENGINES[cell.model.serve.engine], cell.model.serve
    at_once = 1 if engine.batch_changes_answers else min(serve.concurrency, _MOST_AT_ONCE)
    return Plan(
        tokens=cell.profile.gate_tokens,
        longest=min(_LONGEST, serve.max_model_len - LENGTH - 1),
        at_once=at_once,
        floor_at_once=min(serve.concurrency, 4) if at_once == 1 else 1,
    )


def _reference(job: Job, context: Context, prompts: Sequence[Prompt], plan: Plan, servers: Servers) -> Stored:
    """The stored reference of this model on the baseline's chip and stack, or a new one."""
    cell = job.cell
    key = _key(cell, context.result(results.WEIGHTS), prompts, plan)
    try:
        evidence = context.shared.recall(key, Evidence)
        if evidence is not None:
            return msgspec.json.decode(context.evidence.read(evidence), type=Stored)
    except (msgspec.DecodeError, Corrupt) as error:
        context.progress.note(f"the stored reference of the token gate cannot be used: {error}")
    if not cell.own_baseline:
        return Stored(reason=f"it was not asked yet on {cell.baseline.chip}")
    report = _reporter(context, f"{cell.baseline.stack}: token gate", plan.tokens)
    made = _ask(context, servers.get(cell.baseline.stack), lambda source: refer(source, prompts, plan, report))
    stored = Stored(reason=made.reason) if isinstance(made, NotMeasured) else Stored(reference=made)
    if stored.reference or (isinstance(made, NotMeasured) and made.lasting):
        content = msgspec.json.encode(stored)
        context.shared.remember(key, context.evidence.put(f"accuracy/tokens.{cell.baseline.stack}.json", content))
    return stored


def _ask(context: Context, server: Served, ask: Callable[[Probabilities], T]) -> T | NotMeasured:
    """The result, or the reason why there is none. Raises DiedLater if the server has ended."""
    try:
        with context.meter.waiting(), ServedProbabilities(server.base_url, server.model) as source:
            return ask(source)
    except NoAnswer as error:
        server.check()
        return NotMeasured(str(error))
    except NotOffered as error:
        return NotMeasured(str(error), lasting=True)
    except ComparisonRefused as error:
        return NotMeasured(error.line())


def _reporter(context: Context, text: str, total: int) -> Callable[[int], None]:
    return lambda done: context.progress.doing(text, Count(min(done, total), total, "tokens"))


def _key(cell: Cell, weights: results.Weights, prompts: Sequence[Prompt], plan: Plan) -> str:
    """The fingerprint of a reference, which like a baseline depends on neither image nor cell."""
    asked = {"prompts": [asdict(prompt) for prompt in prompts], "length": LENGTH, **asdict(plan)}
    model = {"model": weights.digest, "engine": cell.model.serve.engine}
    return fingerprint({"token gate": asked, **model, "chip": cell.baseline.chip, "stack": cell.baseline.stack})


def _pretty(result: accuracy_results.TokenGate, reference: Reference, compared: Compared) -> bytes:
    """The summary, then each prompt with its distances."""
    rows = [
        {
            "prompt": reading.name,
            "same_tokens": reading.name not in compared.other_prompts,
            "kl": [round(kl_top(*pair), 5) for pair in pairs],
        }
        for reading, pairs in zip(reference.readings, compared.rows, strict=False)
    ]
    return json.dumps({**asdict(result), "prompts": rows}, indent=1, ensure_ascii=False).encode() + b"\n"
