"""What a served image has to do before anybody evaluates it. Each check says what it saw, or raises CheckFailed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from flagrelease.config.matrix import Model
from flagrelease.ports.openai_client import Answer, Client
from flagrelease.recipe.user_commands import QUESTION
from flagrelease.serving.inside import CheckFailed
from flagrelease.serving.server import Served

_TOKENS = 48
_REPEATS = 5
_SPARE = 64
"""Tokens of the window that a near-full prompt leaves to the chat template and the answer."""


class Skipped(Exception):
    """Why a check cannot be made here."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A served model on the bench. `reference` is its greedy answer to QUESTION, warm; `long_tokens` is how long a
    prompt the chip reads in reasonable time."""

    server: Served
    client: Client
    model: Model
    reference: Answer
    long_tokens: int

    def ask(self, prompt: str = QUESTION, **parameters: object) -> Answer:
        return self.client.chat(self.server.model, prompt, **{"temperature": 0, "max_tokens": _TOKENS, **parameters})


def bench(server: Served, client: Client, model: Model, *, long_tokens: int) -> Bench:
    """Ask twice: the first answer fills the prompt cache, the second is what later ones are compared with."""
    empty = Bench(
        server=server,
        client=client,
        model=model,
        reference=Answer(text="", finish_reason="", model="", usage={}),
        long_tokens=long_tokens,
    )
    empty.ask()
    return Bench(server=server, client=client, model=model, reference=empty.ask(), long_tokens=long_tokens)


def served_name(on: Bench) -> str:
    names = on.client.models()
    if names != (on.model.title,):
        raise CheckFailed(f"it serves {names}, not {on.model.title}")
    if on.reference.model != on.model.title:
        raise CheckFailed(f"it answers as {on.reference.model!r}, not {on.model.title}")
    return on.model.title


def chat(on: Bench) -> str:
    answer = on.reference
    if not answer.text.strip():
        raise CheckFailed("the answer is empty")
    if answer.finish_reason not in ("stop", "length"):
        raise CheckFailed(f"finish_reason is {answer.finish_reason!r}")
    return f"{answer.text.strip()[:80]!r} ({answer.finish_reason})"


def streaming(on: Bench) -> str:
    streamed = on.client.stream(on.server.model, QUESTION, temperature=0, max_tokens=_TOKENS)
    if streamed.chunks < 2 or not streamed.done:
        raise CheckFailed(f"{streamed.chunks} chunks, [DONE] {'came' if streamed.done else 'did not come'}")
    if streamed.text != on.reference.text:
        raise CheckFailed(f"streamed {streamed.text!r}, whole {on.reference.text!r}")
    if streamed.finish_reason != on.reference.finish_reason:
        raise CheckFailed(f"finish_reason is {streamed.finish_reason!r}, whole {on.reference.finish_reason!r}")
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        if streamed.usage.get(name) != on.reference.usage.get(name):
            raise CheckFailed(f"{name} is {streamed.usage.get(name)} streamed, {on.reference.usage.get(name)} whole")
    return f"{streamed.chunks} chunks, [DONE], the same text and usage as in one piece"


def token_accounting(on: Bench) -> str:
    usage = on.reference.usage
    prompt, completion, total = (usage.get(f"{kind}_tokens", -1) for kind in ("prompt", "completion", "total"))
    if not (prompt > 0 and completion > 0 and prompt + completion == total):
        raise CheckFailed(f"{prompt} + {completion} tokens are said to be {total}")
    short = on.ask(max_tokens=3)
    if short.usage.get("completion_tokens") != 3 or short.finish_reason != "length":
        raise CheckFailed(f"max_tokens 3 gave {short.usage.get('completion_tokens')} tokens, {short.finish_reason!r}")
    return f"{prompt} + {completion} = {total}; max_tokens 3 gives 3 tokens and finish_reason length"


def determinism(on: Bench) -> str:
    texts = {on.ask().text for _ in range(_REPEATS)} | {on.reference.text}
    if len(texts) != 1:
        raise CheckFailed(f"{len(texts)} different answers at temperature 0: {sorted(texts)}")
    return f"{_REPEATS} answers at temperature 0 are the same"


def long_prompt(on: Bench) -> str:
    window = on.model.serve.max_model_len
    wanted = min(window - _SPARE, on.long_tokens)
    answer = on.ask(_words(on, wanted), max_tokens=1)
    read = answer.usage.get("prompt_tokens", 0)
    if not 0.9 * wanted <= read <= window:
        raise CheckFailed(f"a prompt of about {wanted} tokens was counted as {read}")
    return f"{read} tokens of a window of {window} are read"


def too_long_prompt(on: Bench) -> str:
    window = on.model.serve.max_model_len
    prompt = _words(on, window + _SPARE)
    body = {"model": on.server.model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 1}
    reply = on.client.post("/chat/completions", body)
    if not 400 <= reply.status < 500:
        raise CheckFailed(f"a prompt longer than the window of {window} got HTTP {reply.status}: {reply.body[:120]!r}")
    return f"more than {window} tokens are refused with HTTP {reply.status}"


def bad_request(on: Bench) -> str:
    seen = []
    for body in ({"model": on.server.model}, {"model": on.server.model, "messages": "no list"}):
        reply = on.client.post("/chat/completions", body)
        if not 400 <= reply.status < 500:
            raise CheckFailed(f"{json.dumps(body)} got HTTP {reply.status}: {reply.body[:120]!r}")
        seen.append(str(reply.status))
    on.server.check()
    if on.ask().text != on.reference.text:
        raise CheckFailed("after a refused request it answers differently")
    return f"refused with HTTP {' and '.join(seen)}; it goes on answering"


def at_once(on: Bench) -> str:
    count = min(8, on.model.serve.concurrency)
    prompts = [f"Name {number + 2} colours." for number in range(count)]
    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(lambda prompt: on.ask(prompt, max_tokens=16), prompts))
    empty = [prompt for prompt, answer in zip(prompts, answers, strict=True) if not answer.text.strip()]
    if empty:
        raise CheckFailed(f"{len(empty)} of {count} answers are empty, the first to {empty[0]!r}")
    return f"{count} requests at once, {sum(answer.usage['completion_tokens'] for answer in answers)} tokens"


def _words(on: Bench, tokens: int) -> str:
    """A prompt of about `tokens` tokens, by what 64 more words add."""
    few, many = (on.ask("day " * count, max_tokens=1).usage["prompt_tokens"] for count in (16, 80))
    each = (many - few) / 64
    return "day " * int(16 + (tokens - few) / each)


CHECKS: tuple[tuple[str, Callable[[Bench], str]], ...] = (
    ("served name", served_name),
    ("chat", chat),
    ("streaming", streaming),
    ("token accounting", token_accounting),
    ("determinism", determinism),
    ("long prompt", long_prompt),
    ("too long prompt", too_long_prompt),
    ("bad request", bad_request),
    ("at once", at_once),
)


def all_of(on: Bench) -> Iterator[tuple[str, Callable[[], str]]]:
    """The checks of an endpoint, by name, ready to be called."""
    for name, check in CHECKS:
        yield name, lambda check=check: check(on)  # type: ignore[misc]
