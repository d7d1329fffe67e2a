"""Programs that the pipeline starts end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SOURCE = Path(__file__).parents[3] / "pipeline"

KILLED = """
import sys
from flagrelease.ports import command
command.run(["sh", "-c", "echo $$ > " + sys.argv[1] + "; exec sleep 60"], seconds=60)
"""


def test_a_program_is_killed_with_the_process_that_waits_for_it(tmp_path: Path) -> None:
    """Else it goes on writing to a folder that the next run removes."""
    pid = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(pid)], cwd=SOURCE) as waiting:
        deadline = time.monotonic() + 30
        while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        program = int(pid.read_text())
        waiting.send_signal(signal.SIGKILL)
    while _runs(program) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(program)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
