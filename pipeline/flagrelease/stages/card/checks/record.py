"""Compare a card with the record that it was rendered from. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from flagrelease.recipe import user_commands
from flagrelease.stages.card import chinese, render
from flagrelease.stages.card.checks.finding import Finding
from flagrelease.stages.card.checks.page import Page, Table
from flagrelease.stages.card.checks.scores import FORM
from flagrelease.stages.card.files import README
from flagrelease.stages.card.licences import HUB_LICENCES
from flagrelease.stages.card.operators_section import EFFECT_FIRST, EXCLUDED_FIRST, effect_cells
from flagrelease.stages.card.record import Record, dumps
from flagrelease.stages.card.render import METRIC_FIRST, score_cells
from flagrelease.stages.card.speed_section import SPEED_FIRST, speed_cells

_LANGUAGES = frozenset({"bash", "python", "json", "yaml", "text"})
_SHA256 = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_MACHINE = re.compile(r"(?<![\w.])/(root|home|tmp|work|Users|var/tmp)/")


def front_matter(page: Page, record: Record) -> Iterator[Finding]:
    """The licence and the model of the front matter."""
    fields = page.front_matter
    if isinstance(fields, dict):
        yield from (Finding(1, f"front matter: {text}") for text in _fields(fields, record))


def _fields(fields: dict[str, object], record: Record) -> Iterator[str]:
    if fields.get("license") == "other":
        if fields.get("license_name") != record.model.license or not fields.get("license_link"):
            yield "license `other` needs license_name and license_link"
    elif fields.get("license") != record.model.license:
        yield f"license is {fields.get('license')!r}, the record has {record.model.license!r}"
    elif record.model.license not in HUB_LICENCES:
        yield f"hubs do not know the license {record.model.license!r}: write `other` and license_name"
    if fields.get("base_model") != [record.model.upstream]:
        yield f"base_model is {fields.get('base_model')!r}, the record has {[record.model.upstream]!r}"
    if fields.get("pipeline_tag") != "text-generation":
        yield "pipeline_tag is not text-generation"


def sections(page: Page, _record: Record) -> Iterator[Finding]:
    """The sections of the template, and the languages of its code blocks."""
    present = {text for _, _, text in page.headings}
    wanted = chinese.HEADINGS.values() if page.chinese else chinese.HEADINGS
    yield from (Finding(1, f"section {name!r} is missing") for name in wanted if name not in present)
    for block in page.blocks:
        if block.language not in _LANGUAGES:
            yield Finding(block.line, f"code block has language {block.language!r}, not one of {sorted(_LANGUAGES)}")
    for number, token in page.inline:
        if token.type in ("html_inline", "html_block"):
            yield Finding(number, "raw HTML")


def pictures(page: Page, _record: Record) -> Iterator[Finding]:
    """Every picture is a PNG and is shown."""
    shown = {token.attrGet("src") for _, token in page.inline if token.type == "image"}
    for name, data in page.images.items():
        if name == README:
            continue
        if not data.startswith(b"\x89PNG\r\n\x1a\n"):
            yield Finding(1, f"{name} is not a PNG image")
        if name not in shown:
            yield Finding(1, f"{name} is not shown on the card")


def scores(page: Page, record: Record) -> Iterator[Finding]:
    expected = [(f"`{row.metric}`", *score_cells(row)) for row in record.accuracy.benchmarks]
    table = _table(page, METRIC_FIRST)
    if table is None:
        if expected:
            yield Finding(1, "no evaluation table")
        return
    for at, (shown, wanted) in enumerate(zip(table.rows[2:], expected, strict=False), 2):
        if shown != wanted:
            yield Finding(table.line + at, f"the record has {' | '.join(wanted)}")
    if len(table.rows) - 2 != len(expected):
        yield Finding(table.line, f"{len(table.rows) - 2} benchmarks shown, {len(expected)} in the record")
    for at, row in enumerate(record.accuracy.benchmarks, 2):
        if row.candidate == 0 and row.errors + row.truncated >= row.n * row.repeats:
            yield Finding(table.line + at, f"a score of 0 for {row.metric}: every answer failed or was cut")
        if not FORM.fullmatch(row.metric):
            yield Finding(table.line + at, f"metric {row.metric!r} does not match NAME_<n>fewshot_@avg<k>")


def speed(page: Page, record: Record) -> Iterator[Finding]:
    measured, table = record.speed, _table(page, SPEED_FIRST)
    if measured is None or table is None:
        if measured is not None or table is not None:
            yield Finding(table.line if table else 1, "only one of the card and the record has a speed table")
        return
    expected = [speed_cells(point) for point in measured.points]
    if list(table.rows[2:]) != expected:
        wrong = [at for at, pair in enumerate(zip(table.rows[2:], expected, strict=False)) if pair[0] != pair[1]]
        yield Finding(table.line + (wrong[0] + 2 if wrong else 0), "the speeds differ from the record")


def operators(page: Page, record: Record) -> Iterator[Finding]:
    kernels = record.kernels
    effect = [] if kernels is None else [effect_cells(operator) for operator in kernels.operators]
    left_out = [] if kernels is None else [f"`{excluded.operator}`" for excluded in kernels.excluded]
    for first, wanted in ((EFFECT_FIRST, effect), (EXCLUDED_FIRST, [(name,) for name in left_out])):
        table = _table(page, first)
        rows = [] if table is None else [row[: len(wanted[0])] if wanted else row for row in table.rows[2:]]
        if rows != wanted:
            line = table.line if table else 1
            yield Finding(line, f"the table {first!r} differs from the record: {len(rows)} rows, not {len(wanted)}")


def references(page: Page, record: Record) -> Iterator[Finding]:
    known = set(_SHA256.findall(dumps(record).decode()))
    image = record.image
    for number, line in enumerate(page.lines, 1):
        yield from (
            Finding(number, f"digest {digest[:12]}… is not in the record")
            for digest in _SHA256.findall(line)
            if digest not in known
        )
        for reference in re.findall(r"[\w./:-]+@sha256:[0-9a-f]*", line):
            if reference not in (image.reference, image.base):
                yield Finding(number, f"image reference {reference} is not {image.reference}")
        for tag in re.findall(r"tree_[\w.-]+", line):
            if tag != record.tag:
                yield Finding(number, f"tag {tag} is not {record.tag}")


def paths(page: Page, record: Record) -> Iterator[Finding]:
    folder = record.model_dir
    source, downloads = record.model.source, user_commands.source_dir(record.model)
    mounted = user_commands.mounts(record.smoke.docker_run)
    if mounted.get(folder) != folder:
        yield Finding(
            1, f"docker run mounts {mounted.get(folder, 'nothing')} at {folder}, where the weights are downloaded"
        )
    for block in page.blocks:
        for at, line in enumerate(block.body.splitlines(), 1):
            for path in re.findall(r"(?<![\w.])/nfs/[^\s:'\";]*", line):
                if not f"{path}/".startswith((f"{folder}/", f"{downloads}/")) and path not in source:
                    yield Finding(block.line + at, f"path {path} is not under {folder}")
            if _MACHINE.search(line):
                yield Finding(block.line + at, "a path of the machine that built the release")
    started = [block for block in page.blocks if block.body.startswith("docker run") and "--detach" in block.body]
    if len(started) != 1:
        yield Finding(1, f"{len(started)} docker run commands instead of one")
    for block in started:
        if tuple(shlex.split(block.body.replace("\\\n", " "))) != record.smoke.docker_run:
            yield Finding(block.line, "docker run is not the command that started the evaluated service")


def commands(page: Page, record: Record) -> Iterator[Finding]:
    """Every code block is a command that smoke ran, or one that it did not run for a reason that the card gives."""
    if not record.smoke.commands:
        return
    names = {text: name for name, text in render.commands_of(record).items()}
    started = user_commands.docker_run(record.smoke.docker_run)
    for block in page.blocks:
        name = names.get(block.body)
        if block.body == started or name in record.smoke.commands:
            continue
        if name is None:
            yield Finding(block.line, "is not one of the commands of the card that smoke knows")
        elif name not in record.smoke.not_run:
            yield Finding(block.line, f"the command {name!r} was not run, and no reason is given")


def _table(page: Page, first: str) -> Table | None:
    """The table whose first column has this header."""
    names = (first, chinese.LABELS[first])
    return next((table for table in page.tables if table.rows[0][:1] and table.rows[0][0] in names), None)
