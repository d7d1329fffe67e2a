#!/usr/bin/env python3
"""flagos-serve [flagos|native] [--port N]: serve the model of this image, in the foreground.

`flagos` starts it through FlagScale, `native` starts the engine alone with the same arguments. It ends when
the engine ends, and ends the engine on SIGTERM. FlagScale puts the engine into the background, writes its
output to a file and returns 0 whatever becomes of it; so this program shows that file and watches the process.
"""

import argparse
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Any

CONFIG = Path(__file__).resolve().parents[3] / "etc/flagos"
"""From /opt/flagos/bin, wherever that is."""

POLL = 0.1
GRACE = 8.0
PR_SET_CHILD_SUBREAPER = 36


class Stop(Exception):
    """SIGTERM or SIGINT arrived."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="flagos-serve", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("stack", nargs="?", choices=["flagos", "native"], default="flagos")
    parser.add_argument("--port", type=int, default=int(os.environ.get("FLAGOS_PORT", "8000")))
    arguments = parser.parse_args()
    serve = json.loads((CONFIG / "manifest.json").read_text())["serve"]
    os.environ.update(serve["env"].get(arguments.stack, {}))
    # Engines and FlagScale's shell leave orphans; they become our children, as they would be of a real init.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        if arguments.stack == "native":
            engine = subprocess.Popen([*serve["native"], "--port", str(arguments.port)])
            code = engine.wait()
        else:
            code = through_flagscale(serve, arguments.port)
        sys.stderr.write(f"flagos-serve: the engine ended by itself ({code})\n")
        return code if 0 < code < 256 else 1
    except Stop:
        return 0
    finally:
        end_descendants()
        if "FLAGKERNELS_CACHE" in os.environ:
            shutil.rmtree(os.environ["FLAGKERNELS_CACHE"], ignore_errors=True)


def through_flagscale(serve: dict[str, Any], port: int) -> int:
    logs = Path(serve["logs"])
    output = logs / "host_0_localhost.output"
    pid_file = logs / "pids" / "host_0_localhost.pid"
    for stale in (output, pid_file):
        stale.unlink(missing_ok=True)
    command = ["flagscale", "serve", serve["name"], str(CONFIG / "serve.yaml"), "--port", str(port)]
    if serve["operators"]:
        # Each start has its own writable copy of the tuned database: nothing is found there that was not shipped.
        os.environ["FLAGKERNELS_CACHE"] = tempfile.mkdtemp(prefix="flagkernels-")
        command = [sys.executable, *serve["operators"], *command]
    code = subprocess.run(command, check=False).returncode
    if code or not pid_file.exists():
        sys.stderr.write("flagos-serve: FlagScale started nothing\n")
        return code or 1
    follow(output, int(pid_file.read_text()))
    return 1  # FlagScale does not tell how it ended


def follow(output: Path, pid: int) -> None:
    """Copy what is appended to `output` to stdout until process `pid` is gone."""
    position = 0
    while True:
        alive = running(pid)
        if output.exists():
            with output.open("rb") as stream:
                stream.seek(position)
                new = stream.read()
            position += len(new)
            sys.stdout.buffer.write(new)
            sys.stdout.buffer.flush()
        if not alive:
            return
        time.sleep(POLL)


def running(pid: int) -> bool:
    """Whether `pid` is alive. Reaps every child that ended, since orphans end up with us."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    return Path(f"/proc/{pid}").exists()


def end_descendants() -> None:
    """SIGTERM to all our descendants, SIGKILL to those that are still there after a while."""
    deadline = time.monotonic() + GRACE
    signum = signal.SIGTERM
    signalled: set[int] = set()
    while left := [pid for pid in descendants(os.getpid()) if running(pid)]:
        if time.monotonic() > deadline:
            signum, signalled, deadline = signal.SIGKILL, set(), deadline + GRACE
        for pid in left:
            if pid not in signalled:
                signalled.add(pid)
                try:
                    os.kill(pid, signum)
                except ProcessLookupError:
                    continue
        time.sleep(0.05)


def descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The second field is the program's name in parentheses and may hold blanks.
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found: list[int] = []
    todo = [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def _stop(_signum: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise Stop


if __name__ == "__main__":
    sys.exit(main())
