"""smoke: the pushed image, pulled by digest and started as users start it, must do what the card says."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from flagrelease.config.cell import Cell
from flagrelease.config.vendors import VENDORS
from flagrelease.contract import results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.contract.stage import Stage
from flagrelease.errors import FlagreleaseError, SmokeFailed
from flagrelease.ports.openai_client import Client, NoAnswer
from flagrelease.ports.progress import Count
from flagrelease.serving.inside import CheckFailed, Inside
from flagrelease.serving.server import Served, ServeRequest, served
from flagrelease.stages.smoke import container_checks, endpoint_checks, operator_checks

_QUERY_SECONDS = 30.0
_REQUEST_SECONDS = 300.0


def inputs(job: Job) -> Mapping[str, Any]:
    cell = job.cell
    return {
        "container": cell.chip.container,
        "device": cell.chip.device,
        "serve": cell.model.serve,
        "stack": cell.stack,
        "source": cell.model.source,
    }


def run(job: Job, context: Context) -> results.Smoke:
    """Raises SmokeFailed, and its kinds from `served`, with all that was seen in its detail."""
    cell = job.cell
    image = context.result(results.IMAGE)
    weights = context.result(results.WEIGHTS)
    kernels = context.optional(results.KERNELS)
    with (
        served(job, context, ServeRequest(image=image, weights=weights, stack=cell.stack)) as server,
        Client(server.base_url, seconds=_REQUEST_SECONDS) as client,
    ):
        at = Inside(cell=cell, context=context, server=server, image=image, weights=weights)
        checks, skipped = _perform(context, server, _checks(cell, server, client, at, kernels))
        commands = container_checks.commands(at)
        log = server.log()
    report = context.evidence.put("smoke.json", msgspec.json.format(msgspec.json.encode(checks), indent=1))
    kept = (report, context.evidence.put("server.log", log.encode()))
    failed = [check for check in checks if not check.passed]
    if failed:
        raise SmokeFailed(
            f"{cell.id} fails {len(failed)} of {len(checks)} smoke checks",
            why=f"{failed[0].name}: {failed[0].detail}",
            hint="nothing is published; the checks and the server's last lines are below",
            detail="\n".join([*(_line(check) for check in checks), "", log]),
        )
    return results.Smoke(
        ready_seconds=server.ready_seconds,
        checks=checks,
        docker_run=container_checks.card_run(cell, image).argv(),
        commands=commands,
        environment=environment(job, context),
        skipped=skipped,
        evidence=kept,
    )


Named = tuple[str, Callable[[], str]]


def _checks(cell: Cell, server: Served, client: Client, at: Inside, kernels: results.Kernels | None) -> Iterable[Named]:
    # Reading a whole window takes a minute on a CPU; its limit is found by the prompt that is too long.
    window = cell.model.serve.max_model_len
    long_tokens = window // 8 if VENDORS[cell.chip.vendor].on_host else window
    on = endpoint_checks.bench(server, client, cell.model, long_tokens=long_tokens)
    yield from endpoint_checks.all_of(on)
    if kernels is not None:
        yield from operator_checks.all_of(at, on, kernels)
    yield from container_checks.all_of(at)


def _perform(
    context: Context, server: Served, checks: Iterable[Named]
) -> tuple[tuple[results.Check, ...], dict[str, str]]:
    """Every check, also after one that failed: a list of all that is wrong is worth more than the first. Then those
    that could not be made, with the reason."""
    clock = context.ports.clock
    done: list[results.Check] = []
    skipped: dict[str, str] = {}
    for name, check in checks:
        context.progress.doing(name, Count(len(done), None, "checks"))
        start = clock.monotonic()
        try:
            with context.meter.waiting():
                passed, detail = True, check()
        except endpoint_checks.Skipped as reason:
            skipped[name] = str(reason)
            continue
        except CheckFailed as wrong:
            passed, detail = False, str(wrong)
        except NoAnswer as trouble:
            server.check()
            passed, detail = False, f"no answer: {trouble}"
        except FlagreleaseError as error:
            server.check()
            passed, detail = False, error.line()
        except (LookupError, TypeError, ValueError) as shape:
            server.check()
            passed, detail = False, f"an answer of another shape: {type(shape).__name__}: {shape}"
        done.append(results.Check(name=name, passed=passed, detail=detail, seconds=clock.monotonic() - start))
    return tuple(done), skipped


def environment(job: Job, context: Context) -> dict[str, str]:
    """The machine that this ran on, for the card's table. What its vendor's tool does not say is a row that says so."""
    host = context.ports.runner.version()
    chip = job.cell.chip
    argv = shlex.split(chip.device.query)
    printed = context.ports.command(argv, seconds=_QUERY_SECONDS, env={"LC_ALL": "C"}).stdout
    name, value = VENDORS[chip.vendor].row(printed)
    if not value:
        value = f"not found in the output of {argv[0]}"
        context.progress.note(f"{name.lower()} of {job.cell.chip_name}: {value}; the card says so")
    return {"Operating system": host.os, "Kernel": host.kernel, host.name: host.version, name: value}


def _line(check: results.Check) -> str:
    return f"{'ok  ' if check.passed else 'FAIL'} {check.name}: {check.detail}"


STAGE = Stage(
    result=results.SMOKE,
    doing="asking the served image",
    inputs=inputs,
    run=run,
    reads=(results.WEIGHTS, results.KERNELS, results.IMAGE),
    on_chip=True,
)
