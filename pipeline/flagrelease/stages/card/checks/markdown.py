"""Check the Markdown of any card: front matter, headings, code blocks, tables, links and wording. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from flagrelease.redact import redact
from flagrelease.stages.card.checks import shell
from flagrelease.stages.card.checks.finding import Finding, warning
from flagrelease.stages.card.checks.page import CHINESE, Block, Page, syntax_tree

_HTTPS = re.compile(r"https://[\w.-]+(/[\w./~%+@:?=&#,-]*)?")
_FILLER = re.compile(
    r"\b(TODO|TBD|FIXME|XXX|N/A|lorem ipsum|coming soon)\b|\bEvaluating\b|<[a-z]+_[a-z_]+>|\{\{|\}\}|\{%|%\}"
    r"|待定|待补充",
    re.IGNORECASE,
)
_CODE_FILLER = re.compile(r"<[A-Za-z]+[_-][\w-]+>|\bYOUR[_-]\w+|/path/to/")
_EMPTY_CELLS = frozenset({"", "-", "–", "None", "nan", "NaN", "null", "inf", "undefined"})
_VALUE = re.compile(r":\s*v?\d+(\.\d+)+\b")
_GLUED = re.compile(rf"https?://[!-~]*{CHINESE.pattern}")
_END = re.compile(r"[.!?:;…。！？：；][)\"'”’`*]*$")
_OPEN_ENDS = frozenset({"a", "an", "and", "or", "our", "such", "the", "their", "your"})
"""Words that never end a sentence; prepositions do, as in "what it was made for"."""
_COUNTING = frozenset({"many", "multiple", "numerous", "several", "various"})
_PLURALS = frozenset({"children", "criteria", "data", "hardware", "media", "men", "people", "women"})
_LONG = 8
"""Words from which a paragraph is a sentence and not a label."""


def front_matter(page: Page) -> Iterator[Finding]:
    """What hubs read from the first lines."""
    fields = page.front_matter
    if isinstance(fields, str):
        yield Finding(1, fields)
        return
    if not fields.get("license"):
        yield Finding(1, "front matter: no license")
    models = fields.get("base_model")
    if models is None:
        yield warning(1, "front matter: no base_model")
    elif not all(re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)) for name in _listed(models)):
        yield Finding(1, f"front matter: base_model is {models!r}; hubs need [ORGANISATION/NAME]")
    task = fields.get("pipeline_tag")
    if not isinstance(task, str) or not re.fullmatch(r"[a-z]+(-[a-z]+)+", task):
        yield warning(1, "front matter: pipeline_tag is not a task such as text-generation")
    if not all(re.fullmatch(r"[a-z]{2,3}", str(language)) for language in _listed(fields.get("language", []))):
        yield Finding(1, "front matter: language is not a list of ISO 639 codes")
    tags = fields.get("tags")
    if tags is None:
        yield warning(1, "front matter: no tags")
    elif not _filled(tags):
        yield Finding(1, "front matter: tags is not a list of non-empty strings")


def hub_metadata(page: Page) -> Iterator[Finding]:
    """Hugging Face's own client reads the front matter, and with the same values."""
    fields = page.front_matter
    if isinstance(fields, str):
        return
    from huggingface_hub import ModelCard

    try:
        read = ModelCard(page.text).data.to_dict()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, AttributeError) as error:
        yield Finding(1, f"front matter: Hugging Face's client refuses it: {str(error).splitlines()[0]}")
        return
    lost = [name for name, value in fields.items() if value is not None and read.get(name) != value]
    yield from (Finding(1, f"front matter: Hugging Face's client reads {name} differently") for name in lost)


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _filled(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) and item for item in value)


def headings(page: Page) -> Iterator[Finding]:
    """One title, and no level left out."""
    titles = [line for line, level, _ in page.headings if level == 1]
    if len(titles) != 1:
        yield warning(titles[1] if titles else 1, f"{len(titles)} level-1 headings instead of one")
    previous = 1
    for number, level, text in page.headings:
        if level > previous + 1:
            yield warning(number, f"heading {text!r} skips a level")
        previous = level


def code(page: Page) -> Iterator[Finding]:
    """Code blocks are closed, not empty, and of the language that they name."""
    yield from (Finding(line, "code block is not closed") for line in page.unclosed)
    for block in page.blocks:
        if not block.language:
            yield warning(block.line, "code block has language ''")
        if not block.body.strip():
            yield Finding(block.line, "code block is empty")
        if block.kind == "python" and block.language not in ("python", "py"):
            yield Finding(block.line, f"Python code in a {block.language} block")
        if block.kind == "bash":
            yield from _bash(block)
        elif block.kind == "python":
            try:
                syntax_tree(block.body)
            except SyntaxError as error:
                yield Finding(block.line + (error.lineno or 0), f"not Python: {error.msg}")
        for at, line in enumerate(block.body.splitlines(), 1):
            if match := _CODE_FILLER.search(line):
                yield Finding(block.line + at, f"placeholder {match.group()!r}")


def _bash(block: Block) -> Iterator[Finding]:
    try:
        list(shell.commands(block.body, block.line + 1))
    except ValueError as error:
        yield Finding(block.line, f"not a shell command: {error}")
    for at, line in enumerate(block.body.splitlines(), 1):
        if re.search(r"\\\s+$", line):
            yield Finding(block.line + at, "space after the line-continuation backslash")
        elif re.search(r"[^\s\\]\\$", line):
            yield warning(block.line + at, "no space before the line-continuation backslash")


def tables(page: Page) -> Iterator[Finding]:
    """Tables are complete: header, rows, and a value in every cell."""
    needed = "a table needs a header, a delimiter row and at least one row"
    yield from (Finding(line, needed) for line in page.torn_tables)
    draft = page.record is not None and page.record.verdict != "PASS"
    for table in page.tables:
        if len(table.rows) < 3:
            yield Finding(table.line, needed)
            continue
        values = [cell for cell in table.rows[0] if _VALUE.search(cell)]
        yield from (warning(table.line, f"{cell!r} in the header row is a value") for cell in values)
        for at, row in enumerate(table.rows):
            if len(row) != len(table.rows[0]):
                yield Finding(table.line + at, f"{len(row)} cells in a table of {len(table.rows[0])} columns")
            if not draft or at == 0:
                yield from (Finding(table.line + at, f"cell {cell!r} is empty") for cell in row if cell in _EMPTY_CELLS)


def links(page: Page) -> Iterator[Finding]:
    """Links lead to an https page or to a file next to the card."""
    for number, token in page.inline:
        target = token.attrGet("src" if token.type == "image" else "href")
        inside = page.record is None and str(target).startswith(("#", "mailto:"))
        if target is not None and target not in page.images and not inside and not _HTTPS.fullmatch(str(target)):
            yield Finding(number, f"link to {target!r}: neither https nor a file of the release")
        if token.type == "text" and "**" in token.content:
            yield warning(number, "** is not closed")
    for number, line in page.prose:
        if _GLUED.search(line):
            yield warning(number, "a URL runs into the text after it")


def wording(page: Page) -> Iterator[Finding]:
    """No placeholder, no half sentence, one language, no secret."""
    for number, line in page.prose:
        if match := _FILLER.search(line):
            yield Finding(number, f"placeholder {match.group()!r}")
        if not page.chinese and CHINESE.search(line):
            yield warning(number, "text that is not English")
    for number, item, text in page.paragraphs:
        if not page.chinese and (end := _open_end(text, item)):
            yield warning(number, f"the sentence is cut off after {end!r}")
    leaks = redact(page.text) != page.text
    for number, line in enumerate(page.lines if leaks else (), 1):
        if redact(line) != line:
            yield Finding(number, "contains a secret")


def _open_end(text: str, item: bool) -> str:
    """The last words of a sentence that does not end; empty for one that ends."""
    words = text.split()
    last = [re.sub(r"\W+$", "", word).lower() for word in words[-2:]]
    if len(words) < 2 or text.endswith("|"):
        return ""
    counted = last[0] in _COUNTING and not last[1].endswith("s") and last[1] not in _PLURALS
    unfinished = not item and len(words) >= _LONG and not _END.search(text)
    return " ".join(words[-2:]) if last[1] in _OPEN_ENDS or counted or unfinished else ""
