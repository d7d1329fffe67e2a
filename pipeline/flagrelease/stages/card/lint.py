"""Check a rendered card against its record, for the defects seen in published cards. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from flagrelease.errors import GateFailed
from flagrelease.recipe import user_commands
from flagrelease.redact import redact
from flagrelease.stages.card.licences import HUB_LICENCES
from flagrelease.stages.card.operators_section import EFFECT_FIRST, EXCLUDED_FIRST, effect_cells
from flagrelease.stages.card.page import Block, Page
from flagrelease.stages.card.record import Record, dumps
from flagrelease.stages.card.render import score_cells
from flagrelease.stages.card.speed_section import SPEED_FIRST, speed_cells

HEADINGS = (
    "Introduction",
    "Evaluation Results",
    "Benchmark Result",
    "User Guide",
    "Environment Setup",
    "Operation Steps",
    "Service Invocation",
    "AnythingLLM Integration Guide",
    "Technical Overview",
    "Contributing",
    "License",
)
_LANGUAGES = frozenset({"bash", "python", "json", "yaml", "text"})
_SHA256 = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_HTTPS = re.compile(r"https://[\w.-]+(/[\w./~%+@:-]*)?")
_FILLER = re.compile(
    r"\b(TODO|TBD|FIXME|XXX|N/A|lorem ipsum|coming soon)\b|\bEvaluating\b|<[a-z]+_[a-z_]+>|\{\{|\}\}|\{%|%\}",
    re.IGNORECASE,
)
_CHINESE = re.compile(r"[\u3000-\u303f\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]")
_EMPTY_CELLS = frozenset({"", "-", "–", "None", "nan", "NaN", "null", "inf", "undefined"})
_MACHINE = re.compile(r"(?<![\w.])/(root|home|tmp|work|Users|var/tmp)/")


@dataclass(frozen=True)
class Finding:
    """A defect of the card."""

    line: int
    """Line of the card, from 1."""
    text: str


def lint(text: str, record: Record, images: Mapping[str, bytes]) -> list[Finding]:
    """All defects of the card `text`, by line. `images` are the files next to it, by name."""
    page = Page(text, record, images)
    findings = {finding for check in CHECKS.values() for finding in check(page)}
    return sorted(findings, key=lambda finding: (finding.line, finding.text))


def check(text: str, record: Record, images: Mapping[str, bytes], where: str) -> tuple[str, ...]:
    """The names of the checks that the card passed; `where` is its file. Raises GateFailed with all findings."""
    findings = lint(text, record, images)
    if findings:
        raise GateFailed(
            f"the card of {record.cell} has {len(findings)} defect{'s' if len(findings) > 1 else ''}",
            why=f"line {findings[0].line}: {findings[0].text}",
            hint="fix templates/card.md.j2 or the entry in matrix.yaml that the text comes from, and run again",
            detail="\n".join(f"{where}:{finding.line}: {finding.text}" for finding in findings),
        )
    return tuple(CHECKS)


def _front_matter(page: Page) -> Iterator[Finding]:
    import yaml

    if not page.body_starts:
        yield Finding(1, "no front matter between two lines of ---")
        return
    try:
        fields = yaml.safe_load("\n".join(page.lines[1 : page.body_starts - 1]))
    except yaml.YAMLError as error:
        yield Finding(1, f"the front matter is not YAML: {str(error).splitlines()[0]}")
        return
    if not isinstance(fields, dict):
        yield Finding(1, "the front matter is not a mapping")
        return
    yield from (Finding(1, f"front matter: {text}") for text in _fields(fields, page.record))


def _fields(fields: dict[str, object], record: Record) -> Iterator[str]:
    if fields.get("license") == "other":
        if fields.get("license_name") != record.model.license or not fields.get("license_link"):
            yield "license `other` needs license_name and license_link"
    elif fields.get("license") != record.model.license:
        yield f"license is {fields.get('license')!r}, the record has {record.model.license!r}"
    elif record.model.license not in HUB_LICENCES:
        yield f"hubs do not know the license {record.model.license!r}: write `other` and license_name"
    if fields.get("base_model") != [record.model.upstream] or not re.fullmatch(
        r"[\w.-]+/[\w.-]+", record.model.upstream
    ):
        yield f"base_model is {fields.get('base_model')!r}; hubs need [ORGANISATION/NAME]"
    if fields.get("pipeline_tag") != "text-generation":
        yield "pipeline_tag is not text-generation"
    languages = fields.get("language", [])
    if not isinstance(languages, list) or not all(re.fullmatch(r"[a-z]{2,3}", str(language)) for language in languages):
        yield "language is not a list of ISO 639 codes"
    tags = fields.get("tags")
    if not isinstance(tags, list) or not tags or not all(isinstance(tag, str) and tag for tag in tags):
        yield "tags is not a list of non-empty strings"


def _structure(page: Page) -> Iterator[Finding]:
    titles = [text for _, level, text in page.headings if level == 1]
    if len(titles) != 1:
        yield Finding(1, f"{len(titles)} level-1 headings instead of one")
    present = {text for _, _, text in page.headings}
    yield from (Finding(1, f"section {name!r} is missing") for name in HEADINGS if name not in present)
    previous = 1
    for number, level, text in page.headings:
        if level > previous + 1:
            yield Finding(number, f"heading {text!r} skips a level")
        previous = level


def _code(page: Page) -> Iterator[Finding]:
    yield from (Finding(line, "code block is not closed") for line in page.unclosed)
    for block in page.blocks:
        if block.language not in _LANGUAGES:
            yield Finding(block.line, f"code block has language {block.language!r}, not one of {sorted(_LANGUAGES)}")
        if not block.body.strip():
            yield Finding(block.line, "code block is empty")
        if block.language == "bash":
            yield from _bash(block)
        elif block.language == "python":
            try:
                compile(block.body, "card", "exec")
            except SyntaxError as error:
                yield Finding(block.line + (error.lineno or 0), f"not Python: {error.msg}")


def _bash(block: Block) -> Iterator[Finding]:
    if re.search(r"(?m)^(import \w+|from \w+ import )", block.body):
        yield Finding(block.line, "Python code in a bash block")
    try:
        shlex.split(block.body)
    except ValueError as error:
        yield Finding(block.line, f"not a shell command: {error}")
    for at, line in enumerate(block.body.splitlines(), 1):
        if re.search(r"\\\s+$", line):
            yield Finding(block.line + at, "space after the line-continuation backslash")


def _tables(page: Page) -> Iterator[Finding]:
    needed = "a table needs a header, a delimiter row and at least one row"
    yield from (Finding(line, needed) for line in page.torn_tables)
    for table in page.tables:
        if len(table.rows) < 3:
            yield Finding(table.line, needed)
            continue
        for at, row in enumerate(table.rows):
            if len(row) != len(table.rows[0]):
                yield Finding(table.line + at, f"{len(row)} cells in a table of {len(table.rows[0])} columns")
            if page.record.verdict == "PASS" or at == 0:
                yield from (Finding(table.line + at, f"cell {cell!r} is empty") for cell in row if cell in _EMPTY_CELLS)


def _scores(page: Page) -> Iterator[Finding]:
    expected = [(f"`{row.metric}`", *score_cells(row)) for row in page.record.accuracy.benchmarks]
    table = next((table for table in page.tables if table.rows[0][:1] == ("Metric",)), None)
    if table is None:
        if expected:
            yield Finding(1, "no evaluation table")
        return
    for at, (shown, wanted) in enumerate(zip(table.rows[2:], expected, strict=False), 2):
        if shown != wanted:
            yield Finding(table.line + at, f"the record has {' | '.join(wanted)}")
    if len(table.rows) - 2 != len(expected):
        yield Finding(table.line, f"{len(table.rows) - 2} benchmarks shown, {len(expected)} in the record")
    for at, row in enumerate(page.record.accuracy.benchmarks, 2):
        if row.candidate == 0 and row.errors + row.truncated >= row.n * row.repeats:
            yield Finding(table.line + at, f"a score of 0 for {row.metric}: every answer failed or was cut")
        if not re.fullmatch(r"[\w.+-]+_\d+fewshot_@avg\d+", row.metric):
            yield Finding(table.line + at, f"metric {row.metric!r} does not match NAME_<n>fewshot_@avg<k>")


def _speed(page: Page) -> Iterator[Finding]:
    measured = page.record.speed
    table = next((table for table in page.tables if table.rows[0][:1] == (SPEED_FIRST,)), None)
    if measured is None or table is None:
        if measured is not None or table is not None:
            yield Finding(table.line if table else 1, "only one of the card and the record has a speed table")
        return
    expected = [speed_cells(point) for point in measured.points]
    if list(table.rows[2:]) != expected:
        wrong = [at for at, pair in enumerate(zip(table.rows[2:], expected, strict=False)) if pair[0] != pair[1]]
        yield Finding(table.line + (wrong[0] + 2 if wrong else 0), "the speeds differ from the record")


def _operators(page: Page) -> Iterator[Finding]:
    kernels = page.record.kernels
    effect = [] if kernels is None else [effect_cells(operator) for operator in kernels.operators]
    left_out = [] if kernels is None else [f"`{excluded.operator}`" for excluded in kernels.excluded]
    shown = {table.rows[0][0]: table for table in page.tables}
    for first, wanted in ((EFFECT_FIRST, effect), (EXCLUDED_FIRST, [(name,) for name in left_out])):
        table = shown.get(first)
        rows = [] if table is None else [row[: len(wanted[0])] if wanted else row for row in table.rows[2:]]
        if rows != wanted:
            line = table.line if table else 1
            yield Finding(line, f"the table {first!r} differs from the record: {len(rows)} rows, not {len(wanted)}")


def _references(page: Page) -> Iterator[Finding]:
    known = set(_SHA256.findall(dumps(page.record).decode()))
    image = page.record.image
    for number, line in enumerate(page.lines, 1):
        yield from (
            Finding(number, f"digest {digest[:12]}… is not in the record")
            for digest in _SHA256.findall(line)
            if digest not in known
        )
        for reference in re.findall(r"[\w./:-]+@sha256:[0-9a-f]*", line):
            if reference != image.reference:
                yield Finding(number, f"image reference {reference} is not {image.reference}")
        for tag in re.findall(r"tree_[\w.-]+", line):
            if tag != page.record.tag:
                yield Finding(number, f"tag {tag} is not {page.record.tag}")


def _paths(page: Page) -> Iterator[Finding]:
    folder = page.record.model_dir
    source, downloads = page.record.model.source, user_commands.source_dir(page.record.model)
    mounted = user_commands.mounts(page.record.smoke.docker_run)
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
        if tuple(shlex.split(block.body.replace("\\\n", " "))) != page.record.smoke.docker_run:
            yield Finding(block.line, "docker run is not the command that started the evaluated service")


def _links(page: Page) -> Iterator[Finding]:
    shown = set()
    for number, token in page.inline:
        target = token.attrGet("src" if token.type == "image" else "href")
        if token.type == "image":
            shown.add(target)
        if target is not None and target not in page.images and not _HTTPS.fullmatch(str(target)):
            yield Finding(number, f"link to {target!r}: neither https nor a file of the release")
        if token.type in ("html_inline", "html_block"):
            yield Finding(number, "raw HTML")
        if token.type == "text" and "**" in token.content:
            yield Finding(number, "** is not closed")
    for name, data in page.images.items():
        if not data.startswith(b"\x89PNG\r\n\x1a\n"):
            yield Finding(1, f"{name} is not a PNG image")
        if name not in shown:
            yield Finding(1, f"{name} is not shown on the card")


def _wording(page: Page) -> Iterator[Finding]:
    for number, line in page.prose:
        match = _FILLER.search(line)
        if match:
            yield Finding(number, f"placeholder {match.group()!r}")
        if _CHINESE.search(line):
            yield Finding(number, "text that is not English")
    for number, line in enumerate(page.lines, 1):
        if redact(line) != line:
            yield Finding(number, "contains a secret")


CHECKS: Mapping[str, Callable[[Page], Iterator[Finding]]] = {
    "front matter": _front_matter,
    "sections": _structure,
    "code blocks": _code,
    "tables": _tables,
    "scores equal the record": _scores,
    "speeds equal the record": _speed,
    "operators equal the record": _operators,
    "digests and tags equal the record": _references,
    "one path from download to service": _paths,
    "links and images": _links,
    "wording": _wording,
}
