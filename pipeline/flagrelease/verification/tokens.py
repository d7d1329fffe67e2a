"""Compute the distance of the token gate again from the distances of each prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from flagrelease.contract.accuracy_results import TokenGate
from flagrelease.errors import ComparisonRefused
from flagrelease.verdict import rule
from flagrelease.verdict.stats.token_distance import distance_of
from flagrelease.verification.findings import Check, agrees, differs, not_checked
from flagrelease.verification.release import Release
from flagrelease.verification.values import differences

__all__ = ["checks"]

_CHECK = "tokens"
_FILE = "accuracy/tokens.json"
_ROUNDED = 1e-5
"""The distances of tokens are stored with five digits."""


@dataclass(frozen=True, kw_only=True)
class _Prompt:
    prompt: str
    same_tokens: bool
    kl: list[float]
    """The KL divergence at each token, nats."""


@dataclass(frozen=True, kw_only=True)
class _Stored(TokenGate):
    """The file: the gate's result and the prompts from which it follows."""

    prompts: list[_Prompt]


def checks(release: Release) -> Iterator[Check]:
    gate = release.record.accuracy.token_gate
    if gate is None or gate.verdict is None:
        return
    path = release.find("accuracy", _FILE)
    if path is None or not path.is_file():
        yield not_checked(_CHECK, "token gate", f"{_FILE} is not in the folder")
        return
    try:
        stored = msgspec.json.decode(path.read_bytes(), type=_Stored)
        found = list(_differences(gate, stored))
    except (ValueError, ComparisonRefused) as error:
        yield differs(_CHECK, "token gate", f"{path.name} cannot be read: {error}")
        return
    yield from (differs(_CHECK, "token gate", text) for text in found)
    if not found and gate.candidate is not None:
        distance = gate.candidate
        what = f"{distance.mean:.4f} nats over {distance.tokens:,} tokens computed again, {gate.verdict} by the rule"
        yield agrees(_CHECK, "token gate", what)
    why = "the share of equal likeliest tokens and the distance of the baseline from itself: log-probabilities are not "
    yield not_checked(_CHECK, "token gate", f"{why}stored")


def _differences(gate: TokenGate, stored: _Stored) -> Iterator[str]:
    recorded = msgspec.to_builtins(gate)
    yield from differences(recorded, {name: getattr(stored, name) for name in recorded})
    if gate.candidate is None or gate.floor is None:
        return
    kls = [prompt.kl for prompt in stored.prompts]
    computed = distance_of(kls, same_top=gate.candidate.same_top, alpha=rule.TOKEN_ALPHA)
    others = sum(not prompt.same_tokens for prompt in stored.prompts)
    if others != gate.other_prompts:
        yield f"other_prompts is {gate.other_prompts}, computed {others}"
    for name in ("prompts", "tokens"):
        if getattr(computed, name) != getattr(gate.candidate, name):
            yield f"candidate.{name} is {getattr(gate.candidate, name)}, computed {getattr(computed, name)}"
    figures = zip(
        ("mean", "lower bound", "upper bound"),
        (gate.candidate.mean, *gate.candidate.interval),
        (computed.mean, *computed.interval),
        strict=True,
    )
    for name, was, now in figures:
        if abs(was - now) > _ROUNDED:
            yield f"candidate's {name} is {was:.6g}, computed {now:.6g}"
    verdict = rule.decide_tokens(computed, gate.floor, other_prompts=others)
    if verdict.value != gate.verdict:
        yield f"verdict is {gate.verdict}, by the rule {verdict.value}"
