"""The fidelity probe: measure how closely two served stacks agree. A diagnostic, never part of the verdict.

The reference continues a few fixed prompts greedily; the candidate continues them too, and scores the reference's
tokens. The scale for the distance is that of the reference from itself, asked again one prompt at a time and all at
once: a server's rounding depends on the other requests in a batch (Yuan et al. 2025, arXiv 2506.09501).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TypeVar

import msgspec

from flagrelease.config.cell import Cell, fingerprint
from flagrelease.contract import accuracy_results, results
from flagrelease.contract.context import Context
from flagrelease.errors import ComparisonRefused, Corrupt
from flagrelease.ports.logprobs import Continuation, NotOffered, Probabilities, ServedProbabilities, TopLogprobs
from flagrelease.ports.openai_client import NoAnswer
from flagrelease.serving.server import Served
from flagrelease.store.evidence import Evidence
from flagrelease.verdict.stats.fidelity import Fidelity, divergence, fidelity, kl_top, outside

T = TypeVar("T")

__all__ = ["PROMPTS", "TOKENS", "Reading", "Reference", "compare", "distance", "find", "keep", "refer", "result"]

PROMPTS = (
    "The lighthouse keeper climbed the stairs and",
    "def fibonacci(n):\n    ",
    "12 + 30 = 42. 15 + 27 =",
    "北京是中国的",
    "1. Wash the rice.\n2.",
    "The boiling point of water depends on",
    "Dear Ms. Alvarez,\n\nThank you for",
    "Q: Why is the sky blue?\nA:",
)
TOKENS = 32
_FILE = "accuracy/fidelity.json"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A server's answer to one prompt."""

    prompt: tuple[int, ...]
    """Token ids."""
    own: Continuation
    """The server's greedy continuation."""
    forced: tuple[TopLogprobs, ...]
    """Its log-probabilities at each token of the reference's continuation."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The reference's readings and their noise."""

    method: str
    """How the server provides log-probabilities."""
    readings: tuple[Reading, ...]
    """One for each prompt."""
    noise: tuple[Fidelity, ...]
    """The distance of the reference from itself: one prompt at a time, and all at once."""


def refer(source: Probabilities) -> Reference:
    """Ask the reference: each prompt alone, again alone, then all at once. Raises NotOffered, NoAnswer."""
    first = []
    for text in PROMPTS:
        prompt = source.tokens(text)
        own = source.greedy(prompt, TOKENS)
        first.append(Reading(prompt=prompt, own=own, forced=source.forced(prompt, own.tokens, own)))
    again = [_read(source, reading) for reading in first]
    with ThreadPoolExecutor(len(first)) as pool:
        at_once = list(pool.map(lambda reading: _read(source, reading), first))
    noise = (distance(first, again), distance(first, at_once))
    return Reference(method=source.method, readings=tuple(first), noise=noise)


def compare(source: Probabilities, reference: Reference) -> tuple[Reading, ...]:
    """Ask the candidate the reference's prompts. Raises NotOffered, NoAnswer."""
    return tuple(_read(source, reading) for reading in reference.readings)


def _read(source: Probabilities, reference: Reading) -> Reading:
    own = source.greedy(reference.prompt, TOKENS)
    forced = source.forced(reference.prompt, reference.own.tokens, own)
    return Reading(prompt=reference.prompt, own=own, forced=forced)


def distance(reference: Sequence[Reading], other: Sequence[Reading]) -> Fidelity:
    """The distance of two readings, without positions that one side did not score (its model would have stopped)."""
    pairs = list(zip(reference, other, strict=True))
    forced = [[(a, b) for a, b in zip(mine.forced, theirs.forced, strict=True) if a and b] for mine, theirs in pairs]
    return fidelity(
        [(_names(mine), _names(theirs)) for mine, theirs in pairs],
        [([a for a, _ in rows], [b for _, b in rows]) for rows in forced],
    )


def _names(reading: Reading) -> list[str]:
    return [str(token) for token in reading.own.tokens]


def find(context: Context, cell: Cell, weights: results.Weights) -> Reference | None:
    """The stored reference of this model on the baseline's chip and stack."""
    try:
        evidence = context.shared.recall(_key(cell, weights), Evidence)
        return None if evidence is None else msgspec.json.decode(context.evidence.read(evidence), type=Reference)
    except (msgspec.DecodeError, Corrupt) as error:
        context.progress.note(f"the stored reference of the fidelity probe cannot be used: {error}")
        return None


def keep(context: Context, cell: Cell, weights: results.Weights, server: Served) -> Reference | str:
    """Ask the baseline's stack while it is served, and store the answers for every cell that is compared with it.

    Returns the reason as text if the server does not support the probe. Raises DiedLater.
    """
    context.progress.doing(f"{cell.baseline.stack}: fidelity probe, {len(PROMPTS)} prompts")
    reference = _probe(context, server, refer)
    if isinstance(reference, Reference):
        evidence = context.evidence.put(f"accuracy/fidelity.{cell.baseline.stack}.json", msgspec.json.encode(reference))
        context.shared.remember(_key(cell, weights), evidence)
    return reference


def result(
    context: Context, cell: Cell, reference: Reference | str | None, server: Served
) -> tuple[accuracy_results.Likeness, tuple[Evidence, ...]]:
    """Compare the served candidate with the reference, or give the reason why not. Raises DiedLater."""
    if reference is None:
        return accuracy_results.Likeness(reason=f"{cell.baseline.stack} on {cell.baseline.chip} was never probed"), ()
    if isinstance(reference, str):
        return accuracy_results.Likeness(reason=f"{cell.baseline.stack}: {reference}"), ()
    context.progress.doing(f"{cell.stack}: fidelity probe, {len(PROMPTS)} prompts")
    readings = _probe(context, server, lambda source: compare(source, reference))
    if isinstance(readings, str):
        return accuracy_results.Likeness(reason=f"{cell.stack}: {readings}"), ()
    away = distance(reference.readings, readings)
    likeness = accuracy_results.Likeness(
        method=reference.method,
        tokens=sum(len(reading.own.tokens) for reading in reference.readings),
        candidate=away,
        noise=reference.noise,
        outside=outside(away, reference.noise),
    )
    return likeness, (context.evidence.put(_FILE, _pretty(likeness, reference.readings, readings)),)


def _probe(context: Context, server: Served, ask: Callable[[Probabilities], T]) -> T | str:
    """The result, or the reason why there is none. Raises DiedLater if the server has ended."""
    try:
        with context.meter.waiting(), ServedProbabilities(server.base_url, server.model) as source:
            return ask(source)
    except NoAnswer as error:
        server.check()
        return str(error)
    except NotOffered as error:
        return str(error)
    except ComparisonRefused as error:
        return error.line()


def _key(cell: Cell, weights: results.Weights) -> str:
    """The fingerprint of a reference, which like a baseline depends on neither image nor cell."""
    probe = {"prompts": PROMPTS, "tokens": TOKENS}
    model = {"model": weights.digest, "engine": cell.model.serve.engine}
    return fingerprint({"fidelity": probe, **model, "chip": cell.baseline.chip, "stack": cell.baseline.stack})


def _pretty(likeness: accuracy_results.Likeness, reference: Sequence[Reading], candidate: Sequence[Reading]) -> bytes:
    """The summary, then each prompt with both continuations as token ids."""
    rows = []
    for text, before, after in zip(PROMPTS, reference, candidate, strict=True):
        scored = [(a, b) for a, b in zip(before.forced, after.forced, strict=True) if a and b]
        rows.append(
            {
                "prompt": text,
                "first_divergence": divergence(_names(before), _names(after)),
                "kl": [round(kl_top(a, b), 6) for a, b in scored],
                "reference": before.own.tokens,
                "candidate": after.own.tokens,
            }
        )
    return json.dumps({**asdict(likeness), "prompts": rows}, indent=2, ensure_ascii=False).encode() + b"\n"
