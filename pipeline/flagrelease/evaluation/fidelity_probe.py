"""The fidelity probe: how alike two served stacks compute. A diagnostic beside the verdict, never a gate.

The reference answers a few fixed prompts greedily; the candidate answers them as well, and scores the reference's
tokens. How far the reference is from itself, asked once more alone and then all at once, is the range to read that
against: a server's own rounding depends on what shares a batch (Yuan et al. 2025, arXiv 2506.09501).
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
    """One prompt, as one server continued it and as it scored the reference's continuation."""

    prompt: tuple[int, ...]
    own: Continuation
    forced: tuple[TopLogprobs, ...]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The reference's readings, and how far it is from itself: alone, and with all prompts at once."""

    method: str
    readings: tuple[Reading, ...]
    noise: tuple[Fidelity, ...]


def refer(source: Probabilities) -> Reference:
    """Ask the reference: each prompt alone, once more, then all at once. Raises NotOffered, NoAnswer."""
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
    """Ask the candidate what the reference was asked. Raises NotOffered, NoAnswer."""
    return tuple(_read(source, reading) for reading in reference.readings)


def _read(source: Probabilities, reference: Reading) -> Reading:
    own = source.greedy(reference.prompt, TOKENS)
    forced = source.forced(reference.prompt, reference.own.tokens, own)
    return Reading(prompt=reference.prompt, own=own, forced=forced)


def distance(reference: Sequence[Reading], other: Sequence[Reading]) -> Fidelity:
    """Positions that one side did not score (its model would have ended there) are left out."""
    pairs = list(zip(reference, other, strict=True))
    forced = [[(a, b) for a, b in zip(one.forced, two.forced, strict=True) if a and b] for one, two in pairs]
    return fidelity(
        [(_names(one), _names(two)) for one, two in pairs],
        [([a for a, _ in rows], [b for _, b in rows]) for rows in forced],
    )


def _names(reading: Reading) -> list[str]:
    return [str(token) for token in reading.own.tokens]


def find(context: Context, cell: Cell, weights: results.Weights) -> Reference | None:
    """The kept reference of this model on the baseline's chip and stack."""
    try:
        found = context.shared.recall(_key(cell, weights), Evidence)
        return None if found is None else msgspec.json.decode(context.evidence.read(found), type=Reference)
    except (msgspec.DecodeError, Corrupt) as error:
        context.progress.note(f"the kept reference of the fidelity probe cannot be used: {error}")
        return None


def keep(context: Context, cell: Cell, weights: results.Weights, server: Served) -> Reference | str:
    """Ask the baseline's stack while it is served, and keep the answers for every cell that is compared with it.

    Gives the reason in words where the server does not offer what the probe needs. Raises DiedLater.
    """
    context.progress.doing(f"{cell.baseline.stack}: fidelity probe, {len(PROMPTS)} prompts")
    found = _asking(context, server, refer)
    if isinstance(found, Reference):
        evidence = context.evidence.put(f"accuracy/fidelity.{cell.baseline.stack}.json", msgspec.json.encode(found))
        context.shared.remember(_key(cell, weights), evidence)
    return found


def result(
    context: Context, cell: Cell, reference: Reference | str | None, server: Served
) -> tuple[accuracy_results.Likeness, tuple[Evidence, ...]]:
    """Compare the served candidate with the reference. Says why where there is nothing to compare. Raises DiedLater."""
    if reference is None:
        return accuracy_results.Likeness(reason=f"{cell.baseline.stack} on {cell.baseline.chip} was never probed"), ()
    if isinstance(reference, str):
        return accuracy_results.Likeness(reason=f"{cell.baseline.stack}: {reference}"), ()
    context.progress.doing(f"{cell.stack}: fidelity probe, {len(PROMPTS)} prompts")
    found = _asking(context, server, lambda source: compare(source, reference))
    if isinstance(found, str):
        return accuracy_results.Likeness(reason=f"{cell.stack}: {found}"), ()
    away = distance(reference.readings, found)
    likeness = accuracy_results.Likeness(
        method=reference.method,
        tokens=sum(len(reading.own.tokens) for reading in reference.readings),
        candidate=away,
        noise=reference.noise,
        outside=outside(away, reference.noise),
    )
    return likeness, (context.evidence.put(_FILE, _pretty(likeness, reference.readings, found)),)


def _asking(context: Context, server: Served, ask: Callable[[Probabilities], T]) -> T | str:
    """The answer, or in words why there is none. A server that ended is no matter of a diagnostic: DiedLater."""
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
    """What a reference depends on; like a baseline not on the image, nor on the cell."""
    asked = {"prompts": PROMPTS, "tokens": TOKENS}
    model = {"model": weights.digest, "engine": cell.model.serve.engine}
    return fingerprint({"fidelity": asked, **model, "chip": cell.baseline.chip, "stack": cell.baseline.stack})


def _pretty(likeness: accuracy_results.Likeness, reference: Sequence[Reading], found: Sequence[Reading]) -> bytes:
    """The summary, then each prompt with both continuations as token ids."""
    rows = []
    for text, one, two in zip(PROMPTS, reference, found, strict=True):
        scored = [(a, b) for a, b in zip(one.forced, two.forced, strict=True) if a and b]
        rows.append(
            {
                "prompt": text,
                "first_divergence": divergence(_names(one), _names(two)),
                "kl": [round(kl_top(a, b), 6) for a, b in scored],
                "reference": one.own.tokens,
                "candidate": two.own.tokens,
            }
        )
    return json.dumps({**asdict(likeness), "prompts": rows}, indent=2, ensure_ascii=False).encode() + b"\n"
