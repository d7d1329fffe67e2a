"""Check a served endpoint before it is evaluated. Each check returns what it observed, or raises CheckFailed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from flagrelease.config.engines import ENGINES
from flagrelease.config.matrix import Model
from flagrelease.ports.openai_client import Answer, Client
from flagrelease.recipe.user_commands import QUESTION
from flagrelease.serving.inside import CheckFailed
from flagrelease.serving.server import Served

_TOKENS = 48
_REPEATS = 5
_SPARE = 64
"""Tokens that a near-full prompt leaves free for the chat template and the answer."""


FACTS = (
    (QUESTION, "7|seven"),
    ("What is the opposite of hot?", "cold"),
    ("What is 2 + 2?", "4|four"),
    ("Which animal says meow?", "cat"),
    ("What color is the sky on a clear day?", "blue"),
)
"""Questions that a model with 135 million parameters answers right at temperature 0, and the words of which its answer
must contain one."""
_RIGHT = 4
"""How many of FACTS must be right: a model may not know one, or its rounding may turn one."""


class Skipped(Exception):
    """A check that is not possible on this machine, with the reason."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A served model under test."""

    server: Served
    client: Client
    model: Model
    reference: Answer
    """The greedy answer to QUESTION from a warm server."""
    long_tokens: int
    """Length of a prompt that the chip reads in reasonable time."""

    def ask(self, prompt: str = QUESTION, **parameters: object) -> Answer:
        return self.client.chat(self.server.model, prompt, **{"temperature": 0, "max_tokens": _TOKENS, **parameters})


def make_bench(server: Served, client: Client, model: Model, *, long_tokens: int) -> Bench:
    """Ask twice: the first request fills the prompt cache, the second answer is the reference."""
    empty = Bench(
        server=server,
        client=client,
        model=model,
        reference=Answer(text="", finish_reason="", model="", usage={}),
        long_tokens=long_tokens,
    )
    empty.ask()
    return Bench(server=server, client=client, model=model, reference=empty.ask(), long_tokens=long_tokens)


def served_name(bench: Bench) -> str:
    names = bench.client.models()
    if names != (bench.model.title,):
        raise CheckFailed(f"it serves {names}, not {bench.model.title}")
    if bench.reference.model != bench.model.title:
        raise CheckFailed(f"it answers as {bench.reference.model!r}, not {bench.model.title}")
    return bench.model.title


def chat(bench: Bench) -> str:
    answer = bench.reference
    if not answer.text.strip():
        raise CheckFailed("the answer is empty")
    if answer.finish_reason not in ("stop", "length"):
        raise CheckFailed(f"finish_reason is {answer.finish_reason!r}")
    return f"{answer.text.strip()[:80]!r} ({answer.finish_reason})"


def answers(bench: Bench) -> str:
    """Judge what is said: a broken operator, precision or chat template still gives fluent answers of every form."""
    switch = ENGINES[bench.model.serve.engine].thinking_switch
    parameters = {"chat_template_kwargs": {"enable_thinking": False}} if switch else {}
    said = {question: bench.ask(question, **parameters).text for question, _ in FACTS}
    wrong = [question for question, words in FACTS if not mentions(said[question], words)]
    right = len(FACTS) - len(wrong)
    if right < _RIGHT:
        shown = "; ".join(f"{question} {said[question].strip()[:60]!r}" for question in wrong)
        raise CheckFailed(
            f"{right} of {len(FACTS)} easy questions are answered right, at least {_RIGHT} must be: {shown}"
        )
    return f"{right} of {len(FACTS)} easy questions are answered right"


def mentions(text: str, words: str) -> bool:
    """Whether one of `words`, separated by |, is in the text as a word."""
    return re.search(rf"\b(?:{words})\b", text, re.IGNORECASE) is not None


def streaming(bench: Bench) -> str:
    streamed = bench.client.stream(bench.server.model, QUESTION, temperature=0, max_tokens=_TOKENS)
    if streamed.chunks < 2 or not streamed.done:
        raise CheckFailed(f"{streamed.chunks} chunks, [DONE] {'received' if streamed.done else 'missing'}")
    if streamed.text != bench.reference.text:
        raise CheckFailed(f"streamed {streamed.text!r}, not streamed {bench.reference.text!r}")
    if streamed.finish_reason != bench.reference.finish_reason:
        raise CheckFailed(
            f"finish_reason is {streamed.finish_reason!r}, not streamed {bench.reference.finish_reason!r}"
        )
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        if streamed.usage.get(name) != bench.reference.usage.get(name):
            counts = f"{streamed.usage.get(name)} streamed, {bench.reference.usage.get(name)} not streamed"
            raise CheckFailed(f"{name} is {counts}")
    return f"{streamed.chunks} chunks, [DONE], the same text and usage as without streaming"


def token_accounting(bench: Bench) -> str:
    usage = bench.reference.usage
    prompt, completion, total = (usage.get(f"{kind}_tokens", -1) for kind in ("prompt", "completion", "total"))
    if not (prompt > 0 and completion > 0 and prompt + completion == total):
        raise CheckFailed(f"{prompt} + {completion} tokens are reported as {total}")
    short = bench.ask(max_tokens=3)
    if short.usage.get("completion_tokens") != 3 or short.finish_reason != "length":
        raise CheckFailed(f"max_tokens 3 gave {short.usage.get('completion_tokens')} tokens, {short.finish_reason!r}")
    return f"{prompt} + {completion} = {total}; max_tokens 3 gives 3 tokens and finish_reason length"


def determinism(bench: Bench) -> str:
    texts = {bench.ask().text for _ in range(_REPEATS)} | {bench.reference.text}
    if len(texts) != 1:
        raise CheckFailed(f"{len(texts)} different answers at temperature 0: {sorted(texts)}")
    return f"{_REPEATS} answers at temperature 0 are the same"


def long_prompt(bench: Bench) -> str:
    window = bench.model.serve.max_model_len
    wanted = min(window - _SPARE, bench.long_tokens)
    answer = bench.ask(_prompt(bench, wanted), max_tokens=1)
    read = answer.usage.get("prompt_tokens", 0)
    if not 0.9 * wanted <= read <= window:
        raise CheckFailed(f"a prompt of about {wanted} tokens was counted as {read}")
    return f"{read} tokens of a window of {window} were read"


def too_long_prompt(bench: Bench) -> str:
    window = bench.model.serve.max_model_len
    prompt = _prompt(bench, window + _SPARE)
    body = {"model": bench.server.model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 1}
    reply = bench.client.post("/chat/completions", body)
    if not 400 <= reply.status < 500:
        raise CheckFailed(f"a prompt longer than the window of {window} got HTTP {reply.status}: {reply.body[:120]!r}")
    return f"more than {window} tokens are rejected with HTTP {reply.status}"


def bad_request(bench: Bench) -> str:
    statuses = []
    for body in ({"model": bench.server.model}, {"model": bench.server.model, "messages": "not a list"}):
        reply = bench.client.post("/chat/completions", body)
        if not 400 <= reply.status < 500:
            raise CheckFailed(f"{json.dumps(body)} got HTTP {reply.status}: {reply.body[:120]!r}")
        statuses.append(str(reply.status))
    bench.server.check()
    if bench.ask().text != bench.reference.text:
        raise CheckFailed("its answer changed after a rejected request")
    rejected = " and ".join(dict.fromkeys(statuses))
    return f"{len(statuses)} malformed requests are rejected with HTTP {rejected}, and the next answer is the same"


def at_once(bench: Bench) -> str:
    count = min(8, bench.model.serve.concurrency)
    prompts = [f"Name {number + 2} colours." for number in range(count)]
    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(lambda prompt: bench.ask(prompt, max_tokens=16), prompts))
    empty = [prompt for prompt, answer in zip(prompts, answers, strict=True) if not answer.text.strip()]
    if empty:
        raise CheckFailed(f"{len(empty)} of {count} answers are empty, the first to {empty[0]!r}")
    return f"{count} concurrent requests, {sum(answer.usage['completion_tokens'] for answer in answers)} tokens"


def _prompt(bench: Bench, tokens: int) -> str:
    """A prompt of about `tokens` tokens, calibrated with the tokens that 64 more words add."""
    few, many = (bench.ask("day " * count, max_tokens=1).usage["prompt_tokens"] for count in (16, 80))
    each = (many - few) / 64
    return "day " * int(16 + (tokens - few) / each)


CHECKS: tuple[tuple[str, Callable[[Bench], str]], ...] = (
    ("served name", served_name),
    ("chat", chat),
    ("answers", answers),
    ("streaming", streaming),
    ("token accounting", token_accounting),
    ("determinism", determinism),
    ("long prompt", long_prompt),
    ("too long prompt", too_long_prompt),
    ("bad request", bad_request),
    ("at once", at_once),
)


def all_of(bench: Bench) -> Iterator[tuple[str, Callable[[], str]]]:
    """The endpoint checks, by name."""
    for name, check in CHECKS:
        yield name, lambda check=check: check(bench)  # type: ignore[misc]
