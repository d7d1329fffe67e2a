"""The wall clock jumps: it is printed and stored, and nothing is measured or waited for by it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PIPELINE = Path(__file__).parents[2] / "pipeline"
READS = {"now", "utcnow", "today", "time", "time_ns", "localtime", "gmtime"}
MAY_READ = re.compile(r"\.(" + "|".join(READS) + r")\(")
CLOCKS = {"time", "datetime", "date"}


def readings(tree: ast.Module) -> Iterator[tuple[ast.Call, ast.AST]]:
    """Each call that reads the wall clock, with what it is part of."""
    for parent in ast.walk(tree):
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in READS:
                on = node.func.value
                clock = isinstance(on, ast.Name) and on.id in CLOCKS
                if clock or node.func.attr == "now":
                    yield node, parent


def printed(parent: ast.AST) -> bool:
    """Whether the time becomes text at once."""
    return isinstance(parent, ast.FormattedValue) or (isinstance(parent, ast.Attribute) and parent.attr == "isoformat")


def test_the_wall_clock_is_only_printed() -> None:
    found = [
        f"{path.relative_to(PIPELINE)}:{call.lineno}"
        for path in sorted(PIPELINE.rglob("*.py"))
        if MAY_READ.search(text := path.read_text())
        for call, parent in readings(ast.parse(text))
        if not printed(parent)
    ]
    # Docker dates its images by the wall clock; one that jumps costs a build from the cache. A waiver ends on a day.
    waivers = ["flagrelease/run/preflight.py", "flagrelease/run/project.py"]
    may = ["flagrelease/ports/clock.py", *waivers, "flagrelease/stages/image/old_images.py"]
    assert [place.partition(":")[0] for place in found] == may, found


def test_a_use_of_the_wall_clock_is_noticed() -> None:
    for text in ("a = time.time() + 3", "d = clock.now() - start", "time.time()", "x = datetime.now(UTC)"):
        assert [printed(parent) for _, parent in readings(ast.parse(text))] == [False], text
    for text in ("f'{datetime.now(UTC):%Y}'", "clock.now().isoformat()"):
        assert [printed(parent) for _, parent in readings(ast.parse(text))] == [True], text
    assert not list(readings(ast.parse("time.monotonic(); time.sleep(1); clock.monotonic()")))
