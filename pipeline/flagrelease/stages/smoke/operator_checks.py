"""What smoke finds out about the operators: that those of the release are in effect and called, and that nobody tunes
them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from flagrelease.contract import results
from flagrelease.serving import operator_status
from flagrelease.serving.inside import CheckFailed, Inside
from flagrelease.serving.server import layout_of
from flagrelease.stages.smoke.endpoint_checks import Bench
from flagrelease.store.digests import sha256_of

REQUESTS = 100
_MOST_WORDS = 512
_AT_ONCE = 8
_LONG = "Tell a long story of a ship and its crew."
"""Asked by many at once, so that all of them are answered at the same time for a while."""


def in_effect(at: Inside, kernels: results.Kernels) -> str:
    """Every process that computes has exactly the operators of operators.yaml, and the bundle that was made."""
    place = f"{layout_of(at.image, at.context.workspace).bundle}/operators.yaml"
    kept = next(one for one in kernels.evidence if one.name == "operators.yaml")
    if sha256_of(at.execute("cat", place).encode()) != kept.sha256:
        raise CheckFailed(f"{place} is not the one that was made")
    found = operator_status.effective(at)
    wanted = sorted(one.name for one in kernels.operators)
    if found.partial:
        raise CheckFailed(f"only some of {len(found.processes)} processes have {', '.join(found.partial)}")
    if list(found.operators) != wanted:
        lost = sorted(set(wanted) - set(found.operators))
        more = sorted(set(found.operators) - set(wanted))
        raise CheckFailed(f"in effect are {len(found.operators)} operators: {lost} are missing, {more} are too many")
    if found.bundles != (kernels.content,):
        raise CheckFailed(f"in effect is bundle {list(found.bundles)}, made was {kernels.content}")
    count, processes = len(wanted), len(found.processes)
    of, inside = f"operator{'s' * (count != 1)}", f"process{'es' * (processes != 1)}"
    return f"{count} {of} in {processes} {inside}, bundle {kernels.content[:12]}"


def no_tuning(at: Inside, on: Bench) -> str:
    """Prompts of many lengths, some at once, half of them drawn: no kernel's candidates are timed while users wait."""
    longest = max(1, min(on.long_tokens // 4, _MOST_WORDS))
    lengths = [1 + round((longest - 1) * (number / (REQUESTS - 1)) ** 2) for number in range(REQUESTS)]
    with ThreadPoolExecutor(min(_AT_ONCE, on.model.serve.concurrency)) as pool:
        asked = zip(lengths, map(_temperature, range(REQUESTS)), strict=True)
        list(pool.map(lambda one: on.ask("day " * one[0], max_tokens=4, temperature=one[1]), asked))
    at.context.ports.clock.sleep(operator_status.STATUS_LAG_S)
    found = operator_status.effective(at)
    events = found.tuning_events
    if events:
        raise CheckFailed(f"{events} candidates of {', '.join(found.tuned)} were timed since the start")
    more = f"{found.filled} sizes took the nearest tuned choice, {found.compilations} kernels were compiled"
    return f"0 tuning events after {REQUESTS} requests; {more}"


def called(at: Inside, on: Bench, kernels: results.Kernels) -> str:
    """Some operator runs while requests are answered, or in a graph that is replayed for them: an image in which none
    does is the native one by another name. What an engine calls to warm up does not count."""
    before = operator_status.effective(at).called
    most = on.model.serve.concurrency
    for at_once in _steps_of_two(most):
        with ThreadPoolExecutor(at_once) as pool:
            temperatures = map(_temperature, range(2 * at_once))
            list(pool.map(lambda temperature: on.ask(_LONG, max_tokens=32, temperature=temperature), temperatures))
    at.context.ports.clock.sleep(operator_status.STATUS_LAG_S)
    after = operator_status.effective(at)
    now = {name for name, count in after.called.items() if count > before.get(name, 0)}
    names = [one.name for one in kernels.operators]
    idle = [name for name in names if name not in now.union(after.captured)]
    if idle == names:
        asked = f"greedy ones and drawn ones, up to {most} at once"
        raise CheckFailed(
            f"no request called {', '.join(names)} ({asked}): all were served by the vendor's kernels alone"
        )
    graphs = sorted(set(after.captured) - now)
    parts = [", ".join(sorted(now)), f"in graphs {', '.join(graphs)}" if graphs else ""]
    return "; ".join([part for part in parts if part] + ([f"not {', '.join(idle)}"] if idle else []))


def _steps_of_two(most: int) -> list[int]:
    """The batches at which operators are qualified and chosen: 1, 2, 4 … and the largest."""
    return [*(1 << power for power in range(most.bit_length()) if 1 << power < most), most]


def _temperature(number: int) -> float:
    """Half of the answers greedy, half drawn, whose kernels differ."""
    return 0.8 if number % 2 else 0.0


def all_of(at: Inside, on: Bench, kernels: results.Kernels) -> Iterator[tuple[str, Callable[[], str]]]:
    """By name, ready to be called."""
    yield "operators in effect", lambda: in_effect(at, kernels)
    yield "no tuning", lambda: no_tuning(at, on)
    yield "operators called", lambda: called(at, on, kernels)
