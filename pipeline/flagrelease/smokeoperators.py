"""What smoke finds out about the operators: that those of the release are in effect and called, and that nobody tunes
them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flagrelease import layout, results, shipped
from flagrelease.smokechecks import Bench, Wrong
from flagrelease.smokeinside import Inside
from flagrelease.wheels import sha256_of

REQUESTS = 100
_MOST_WORDS = 512
_AT_ONCE = 8


def in_effect(at: Inside, kernels: results.Kernels) -> str:
    """Every process that computes has exactly the operators of operators.yaml, and the bundle that was made."""
    place = f"{shipped.bundle(layout.of(at.image, at.context.workspace))}/operators.yaml"
    kept = next(one for one in kernels.evidence if one.name == "operators.yaml")
    if sha256_of(at.execute("cat", place).encode()) != kept.sha256:
        raise Wrong(f"{place} is not the one that was made")
    found = _effective(at)
    wanted = sorted(one.name for one in kernels.operators)
    if found["partial"]:
        raise Wrong(f"only some of {len(found['processes'])} processes have {', '.join(found['partial'])}")
    if found["operators"] != wanted:
        lost = sorted(set(wanted) - set(found["operators"]))
        more = sorted(set(found["operators"]) - set(wanted))
        raise Wrong(f"in effect are {len(found['operators'])} operators: {lost} are missing, {more} are too many")
    if found["bundles"] != [kernels.content]:
        raise Wrong(f"in effect is bundle {found['bundles']}, made was {kernels.content}")
    processes = len(found["processes"])
    return f"{len(wanted)} operators in {processes} process{'es' * (processes != 1)}, bundle {kernels.content[:12]}"


def no_tuning(at: Inside, on: Bench) -> str:
    """Prompts of many lengths, some at once: no kernel's candidates are timed while a user waits."""
    longest = max(1, min(on.long_tokens // 4, _MOST_WORDS))
    lengths = [1 + round((longest - 1) * (number / (REQUESTS - 1)) ** 2) for number in range(REQUESTS)]
    with ThreadPoolExecutor(min(_AT_ONCE, on.model.serve.concurrency)) as pool:
        list(pool.map(lambda words: on.ask("day " * words, max_tokens=4), lengths))
    found = _effective(at)
    events = found["tuning_events"]
    if events:
        raise Wrong(f"{events} candidates of {', '.join(found['tuned'])} were timed since the start")
    more = f"{found['filled']} sizes took the nearest tuned choice, {found['compilations']} kernels were compiled"
    return f"0 tuning events after {REQUESTS} requests; {more}"


def called(at: Inside, kernels: results.Kernels) -> str:
    """Some operator has run by now: an image in which none does is the native one by another name."""
    found = set(_effective(at)["called"])
    names = [one.name for one in kernels.operators]
    if not found:
        raise Wrong(f"none of {', '.join(names)} was called: every request was served by the vendor's kernels alone")
    idle = [name for name in names if name not in found]
    return ", ".join(sorted(found)) + (f"; not {', '.join(idle)}" if idle else "")


def _effective(at: Inside) -> Mapping[str, Any]:
    place = shipped.effective(layout.of(at.image, at.context.workspace))
    argv = ("python3", "-W", "ignore", "-m", "flagkernels", "activate", "--effective", place)
    return told(at.execute(*argv))


def told(printed: str) -> Mapping[str, Any]:
    """The JSON object in what a program printed: a vendor's libraries may have said something around it."""
    try:
        found: Mapping[str, Any] = json.loads(printed[printed.index("{\n") : printed.rindex("}") + 1])
    except ValueError:
        raise Wrong(f"what is in effect cannot be read: {printed.strip()[-200:]}") from None
    return found


def all_of(at: Inside, on: Bench, kernels: results.Kernels) -> Iterator[tuple[str, Callable[[], str]]]:
    """By name, ready to be called."""
    yield "operators in effect", lambda: in_effect(at, kernels)
    yield "no tuning", lambda: no_tuning(at, on)
    yield "operators called", lambda: called(at, kernels)
