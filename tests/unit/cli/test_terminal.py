"""On a real terminal, no line of what the verbs print is wider than it."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

from flagrelease.cli.text_table import NARROWEST_TERMINAL, _width
from flagrelease.store.ledger import Entry, Failure, Ledger
from flagrelease.store.workspace import Workspace

ROOT = Path(__file__).parents[3]
CELL = "cpu/smollm2-135m"
VERBS = (["plan"], ["status"], ["explain", CELL], ["history", CELL], ["baseline", "list"], ["plan", "--power", CELL])
PROGRAM = """
import json, sys
from flagrelease.cli.app import main
for verb in json.loads(sys.argv[1]):
    assert main(verb) == 0
"""


def test_no_line_is_wider_than_the_terminal(here: Path) -> None:
    error = Failure(kind="X", code=6, what="a b " * 40, why="c " * 60)
    entry = Entry(at="2026", run="r", cell=CELL, stage="image", state="failed", key="k", process="1@b", error=error)
    Ledger(Workspace(here / ".flagrelease").ledger).append(entry)
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, NARROWEST_TERMINAL, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps(VERBS)],
        stdout=writer,
        env={**environment, "PYTHONPATH": str(ROOT / "pipeline")},
    ) as process:
        os.close(writer)
        printed = b""
        while piece := _read(reader):
            printed += piece
    os.close(reader)
    assert process.returncode == 0
    lines = printed.decode().replace("\r\n", "\n").splitlines()
    assert sum(CELL in line for line in lines) >= 4
    whole = [line for line in lines if not line.startswith("  key ")]
    assert [line for line in whole if _width(line) > NARROWEST_TERMINAL] == []


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""
