"""Check that the release's operators are in effect and called, and that serving tunes no kernel."""

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
_MAX_WORDS = 512
_AT_ONCE = 8
_LONG = "Tell a long story of a ship and its crew."
"""Asks for answers long enough that concurrent requests overlap."""


def in_effect(container: Inside, kernels: results.Kernels) -> str:
    """Check that every computing process has exactly the operators of operators.yaml, and the release's bundle."""
    path = f"{layout_of(container.image, container.context.workspace).bundle}/operators.yaml"
    expected = next(file for file in kernels.evidence if file.name == "operators.yaml")
    if sha256_of(container.execute("cat", path).encode()) != expected.sha256:
        raise CheckFailed(f"{path} differs from the one in the bundle")
    found = operator_status.effective(container)
    wanted = sorted(operator.name for operator in kernels.operators)
    if found.partial:
        raise CheckFailed(f"only some of {len(found.processes)} processes have {', '.join(found.partial)}")
    if list(found.operators) != wanted:
        missing = sorted(set(wanted) - set(found.operators))
        extra = sorted(set(found.operators) - set(wanted))
        raise CheckFailed(f"{len(found.operators)} operators are in effect: missing {missing}, unexpected {extra}")
    if found.bundles != (kernels.content,):
        raise CheckFailed(f"bundle {list(found.bundles)} is in effect instead of {kernels.content}")
    count, processes = len(wanted), len(found.processes)
    of, inside = f"operator{'s' * (count != 1)}", f"process{'es' * (processes != 1)}"
    return f"{count} {of} in {processes} {inside}, bundle {kernels.content[:12]}"


def no_tuning(container: Inside, bench: Bench) -> str:
    """Check that no kernel is tuned while serving, with concurrent prompts of many lengths, half of them sampled, and
    that all processes use the same configurations."""
    longest = max(1, min(bench.long_tokens // 4, _MAX_WORDS))
    lengths = [1 + round((longest - 1) * (number / (REQUESTS - 1)) ** 2) for number in range(REQUESTS)]
    with ThreadPoolExecutor(min(_AT_ONCE, bench.model.serve.concurrency)) as pool:
        requests = zip(lengths, map(_temperature, range(REQUESTS)), strict=True)
        list(pool.map(lambda request: bench.ask("day " * request[0], max_tokens=4, temperature=request[1]), requests))
    container.context.ports.clock.sleep(operator_status.STATUS_LAG_S)
    found = operator_status.effective(container)
    events = found.tuning_events
    if events:
        raise CheckFailed(f"{events} candidates of {', '.join(found.tuned)} were timed since startup")
    if found.differing:
        raise CheckFailed(f"two processes use different configurations of {', '.join(found.differing)}")
    details = f"{found.filled} sizes used the nearest tuned configuration, {found.compilations} kernels were compiled"
    return f"0 tuning events after {REQUESTS} requests; {details}"


def called(container: Inside, bench: Bench, kernels: results.Kernels) -> str:
    """Check that requests call at least one operator, directly or in a graph that is replayed for them: otherwise the
    image is indistinguishable from the native one. Calls during the engine's warm-up do not count."""
    before = operator_status.effective(container).called
    most = bench.model.serve.concurrency
    for at_once in _steps_of_two(most):
        with ThreadPoolExecutor(at_once) as pool:
            temperatures = map(_temperature, range(2 * at_once))
            list(pool.map(lambda temperature: bench.ask(_LONG, max_tokens=32, temperature=temperature), temperatures))
    container.context.ports.clock.sleep(operator_status.STATUS_LAG_S)
    after = operator_status.effective(container)
    now = {name for name, count in after.called.items() if count > before.get(name, 0)}
    names = [operator.name for operator in kernels.operators]
    idle = [name for name in names if name not in now.union(after.captured)]
    if idle == names:
        requests = f"greedy and sampled, up to {most} concurrent"
        raise CheckFailed(f"no request called {', '.join(names)} ({requests}): only the vendor's kernels were used")
    graphs = sorted(set(after.captured) - now)
    parts = [", ".join(sorted(now)), f"in graphs {', '.join(graphs)}" if graphs else ""]
    return "; ".join([part for part in parts if part] + ([f"not {', '.join(idle)}"] if idle else []))


def on_every_device(container: Inside) -> str:
    """Check that the operators were called on every device of the model, by an engine that has answered requests. Of
    several groups of layers, only the last one computes logits: one group with operators is enough."""
    serve, found = container.cell.model.serve, operator_status.effective(container).devices
    wanted = serve.devices
    if len(found) < (wanted if serve.ranks.pipeline == 1 else serve.ranks.tensor):
        on = f"devices {', '.join(map(str, found))}" if found else "none"
        raise CheckFailed(f"the model has {wanted} devices, and operators were called on {on}")
    return f"called on devices {', '.join(map(str, found))}"


def _steps_of_two(most: int) -> list[int]:
    """The batch sizes at which operators are qualified and selected: 1, 2, 4 … and the largest."""
    return [*(1 << power for power in range(most.bit_length()) if 1 << power < most), most]


def _temperature(number: int) -> float:
    """Alternate greedy decoding and sampling, which call different kernels."""
    return 0.8 if number % 2 else 0.0


def all_of(container: Inside, bench: Bench, kernels: results.Kernels) -> Iterator[tuple[str, Callable[[], str]]]:
    """The operator checks, by name."""
    yield "operators in effect", lambda: in_effect(container, kernels)
    yield "no tuning", lambda: no_tuning(container, bench)
    yield "operators called", lambda: called(container, bench, kernels)
    if bench.model.serve.devices > 1:
        yield "operators on every device", lambda: on_every_device(container)
