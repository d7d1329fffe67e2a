"""Start the pushed image as users do, and check what the card documents."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from itertools import chain

import msgspec

from flagrelease.config.cell import Cell
from flagrelease.config.vendors import VENDORS
from flagrelease.contract import results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.errors import DockerUnavailable, FlagreleaseError, SmokeFailed
from flagrelease.ports.openai_client import Client, NoAnswer
from flagrelease.ports.progress import Count
from flagrelease.redact import redact
from flagrelease.serving.inside import CheckFailed, Inside
from flagrelease.serving.server import Served, ServeRequest, served
from flagrelease.stages.smoke import container_checks, endpoint_checks, operator_checks
from flagrelease.stages.smoke.card_commands import CardCommands, card_run

_QUERY_SECONDS = 30.0
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
        docker_run=card_run(cell, image).argv(),
        commands=card.commands(),
        not_run=card.not_run,
        environment=environment(job, context),
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


def environment(job: Job, context: Context) -> dict[str, str]:
    """The card's table of the machine. If the vendor's tool does not report the driver, the row says so."""
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
