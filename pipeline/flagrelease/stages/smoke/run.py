"""Start the pushed image as users do, and check what the card documents."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import chain

import msgspec

from flagrelease.config.cell import Cell
from flagrelease.config.vendors import VENDORS
from flagrelease.contract import results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.errors import DockerUnavailable, EnvironmentFault, FlagreleaseError, SmokeFailed
from flagrelease.ports.openai_client import Client, NoAnswer
from flagrelease.ports.progress import Count
from flagrelease.recipe.devices import on_card
from flagrelease.redact import redact
from flagrelease.serving import chip_proof
from flagrelease.serving.inside import CheckFailed, Inside
from flagrelease.serving.server import Served, ServeRequest, served
from flagrelease.stages.smoke import container_checks, endpoint_checks, operator_checks
from flagrelease.stages.smoke.card_commands import CardCommands, card_run

_QUERY_SECONDS = 30.0
_PROCESSOR = {"Architecture": r"^Architecture:\s+(\S+)", "Cores": r"^CPU\(s\):\s+(\d+)"}
"""By row of the card's table, where lscpu prints it."""
_REQUEST_SECONDS = 300.0


def check_image(job: Job, context: Context, left_out: Mapping[str, str] | None = None) -> results.Smoke:
    """`left_out` has the checks that are not made, by name with the reason.

    Raises SmokeFailed with the results of all checks in its detail, and the SmokeFailed subclasses of `served`."""
    cell = job.cell
    image = context.result(results.IMAGE)
    weights = context.result(results.WEIGHTS)
    kernels = context.optional(results.KERNELS)
    with (
        served(job, context, ServeRequest(image=image, weights=weights, stack=cell.stack)) as server,
        Client(server.base_url, seconds=_REQUEST_SECONDS) as client,
    ):
        container = Inside(cell=cell, context=context, server=server, image=image, weights=weights)
        card = CardCommands(container=container)
        named = chain(_checks(cell, server, client, container, kernels), card.all_of())
        checks, skipped = _perform(context, server, named, left_out or {})
        rows = environment(job, context, server)
        log = server.log()
    report = context.evidence.put("smoke.json", msgspec.json.format(msgspec.json.encode(checks), indent=1))
    evidence = (
        report,
        context.evidence.put("card-commands.json", redact(card.report().decode()).encode()),
        context.evidence.put("server.log", log.encode()),
    )
    failed = [check for check in checks if not check.passed]
    if failed:
        raise SmokeFailed(
            f"{cell.id} failed {len(failed)} of {len(checks)} smoke checks",
            why=f"{failed[0].name}: {failed[0].detail}",
            hint="nothing is published; the checks and the end of the server's log are below",
            detail="\n".join([*(_line(check) for check in checks), "", log]),
        )
    return results.Smoke(
        ready_seconds=server.ready_seconds,
        checks=checks,
        docker_run=card_run(cell, image, on_card(cell.chip, cell.model.serve.devices)).argv(),
        commands=card.commands(),
        not_run=card.not_run,
        environment=rows,
        device=server.found,
        skipped=skipped,
        evidence=evidence,
    )


Named = tuple[str, Callable[[], str]]


def _checks(
    cell: Cell, server: Served, client: Client, container: Inside, kernels: results.Kernels | None
) -> Iterable[Named]:
    # Reading a full window takes a minute on a CPU; the check with a too long prompt covers the limit.
    window = cell.model.serve.max_model_len
    long_tokens = window // 8 if VENDORS[cell.chip.vendor].on_host else window
    try:
        bench = endpoint_checks.make_bench(server, client, cell.model, long_tokens=long_tokens)
    except NoAnswer as error:
        server.check()
        raise SmokeFailed(
            f"{cell.id} did not answer its first question",
            why=str(error),
            hint="the end of the server's log is below",
            detail=server.log(),
        ) from error
    yield from endpoint_checks.all_of(bench)
    if kernels is not None:
        yield from operator_checks.all_of(container, bench, kernels)
    yield from container_checks.all_of(container)


def _perform(
    context: Context, server: Served, checks: Iterable[Named], left_out: Mapping[str, str]
) -> tuple[tuple[results.Check, ...], dict[str, str]]:
    """Run every check, also after a failure, to report all defects at once. Returns the results, and the reasons of
    skipped checks."""
    clock = context.ports.clock
    done: list[results.Check] = []
    skipped: dict[str, str] = {}
    for name, check in checks:
        if name in left_out:
            skipped[name] = left_out[name]
            continue
        context.progress.doing(name, Count(len(done), None, "checks"))
        start = clock.monotonic()
        try:
            with context.meter.waiting():
                passed, detail = True, check()
        except endpoint_checks.Skipped as reason:
            skipped[name] = str(reason)
            continue
        except CheckFailed as failure:
            passed, detail = False, str(failure)
        except NoAnswer as failure:
            server.check()
            passed, detail = False, f"no answer: {failure}"
        except DockerUnavailable:
            raise  # it says nothing of the image
        except FlagreleaseError as error:
            server.check()
            passed, detail = False, error.line()
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            server.check()
            passed, detail = False, f"unexpected response schema: {type(error).__name__}: {error}"
        done.append(results.Check(name=name, passed=passed, detail=detail, seconds=clock.monotonic() - start))
    return tuple(done), skipped


def environment(job: Job, context: Context, server: Served) -> dict[str, str]:
    """The card's table of the machine, as the container sees it. If the vendor's tool does not report the driver, the
    row says so."""
    host, chip = context.ports.runner.version(), job.cell.chip
    rows = {"Operating system": host.os, "Kernel": host.kernel, host.name: host.version}
    if VENDORS[chip.vendor].on_host:
        return rows | _processor(job, context, server)
    driver = server.found.driver if server.found else ""
    if not driver:
        driver = f"not found in the output of {chip.device.query.split()[0]}"
        context.progress.note(f"driver of {job.cell.chip_name}: {driver}; the card says so")
    found = {"Accelerator": str(replace(server.found, driver=""))} if server.found else {}  # it has a row of its own
    return found | rows | {"Driver": driver}


def _processor(job: Job, context: Context, server: Served) -> dict[str, str]:
    """The rows of the host's processor: model, architecture, cores and memory."""
    try:
        printed = chip_proof.ask(job.cell, server.running.execute)
    except EnvironmentFault as error:
        context.progress.note(f"{error.line()}; the card says so")
        printed = ""
    name, model = VENDORS[job.cell.chip.vendor].row(printed)
    rows = {name: model or f"not found in the output of {job.cell.chip.device.query.split()[0]}"}
    for row, pattern in _PROCESSOR.items():
        if match := re.search(pattern, printed, re.MULTILINE):
            rows[row] = match[1]
    _code, memory = server.running.execute(["cat", "/proc/meminfo"], seconds=_QUERY_SECONDS)
    if match := re.search(r"^MemTotal:\s+(\d+) kB", memory, re.MULTILINE):
        rows["Memory"] = f"{int(match[1]) / 1024**2:.1f} GiB"
    return rows


def _line(check: results.Check) -> str:
    return f"{'ok  ' if check.passed else 'FAIL'} {check.name}: {check.detail}"
