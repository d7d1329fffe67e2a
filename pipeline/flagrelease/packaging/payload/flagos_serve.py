#!/usr/bin/env python3
"""flagos-serve [flagos|native|doctor] [--host ADDRESS] [--port N]: serve the model of this image, in the foreground.

`doctor` starts nothing: it says whether this machine has the devices that the release is for, and ends with 6 if not.
`flagos` starts the engine through FlagScale, `native` starts it directly with the same arguments. The program exits
when the engine does, and terminates the engine on SIGTERM. FlagScale runs the engine in the background, writes its
output to a file and returns 0 even if it fails, so this program prints that file and watches the process.
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
"""Relative to opt/flagos/bin, so that it also works below another root."""

QUERY_SECONDS = 60.0
REFUSED = 6
"""The exit code of `doctor`, as of flagrelease for a machine that lacks something."""

POLL = 0.1
GRACE = 8.0
PR_SET_CHILD_SUBREAPER = 36


class Stop(Exception):
    """SIGTERM or SIGINT arrived."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="flagos-serve", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("stack", nargs="?", choices=["flagos", "native", "doctor"], default="flagos")
    parser.add_argument("--port", type=int, default=int(os.environ.get("FLAGOS_PORT", "8000")))
    parser.add_argument("--host", default=os.environ.get("FLAGOS_HOST", ""))
    arguments = parser.parse_args()
    manifest = json.loads((CONFIG / "manifest.json").read_text())
    if arguments.stack == "doctor":
        return doctor(manifest["device"])
    serve = manifest["serve"]
    os.environ.update(serve["env"].get(arguments.stack, {}))
    if not os.environ.get("FLAGCX_PATH"):
        os.environ.pop("FLAGCX_PATH", None)  # vllm-plugin-FL selects FlagCX even if it is empty
    # Engines and FlagScale's shell leave orphans: adopt them, as an init process would.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        if arguments.stack == "native":
            # Of an option that is given twice, engines take the last one.
            host = ["--host", arguments.host] if arguments.host else []
            engine = subprocess.Popen([*serve["native"], *host, "--port", str(arguments.port)])
            code = engine.wait()
        else:
            code = through_flagscale(serve, arguments.host, arguments.port)
        sys.stderr.write(f"flagos-serve: the engine exited on its own ({code})\n")
        return code if 0 < code < 256 else 1
    except Stop:
        return 0
    finally:
        end_descendants()
        if "FLAGKERNELS_CACHE" in os.environ:
            shutil.rmtree(os.environ["FLAGKERNELS_CACHE"], ignore_errors=True)


def doctor(device: dict[str, Any]) -> int:
    """Say what the vendor's tool reports, and the reason of each refusal."""
    import device_check  # beside this program; the servers do not need it

    if device["on_host"]:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / device_check.GIB
        say(f"found    {os.uname().machine}, {os.cpu_count()} cores, {memory:.1f} GiB")
        return 0
    query, patterns, wanted = device_check.from_json(device)
    if patterns.device is None:
        say(f"unknown  nobody has published what `{' '.join(query)}` prints, so nothing is compared")
        return 0
    done = subprocess.run(
        device_check.command(query, QUERY_SECONDS), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    code, printed = device_check.answer(done.returncode, done.stdout.decode(errors="replace"))
    found = device_check.read(patterns, printed)
    say(f"needed   {wanted}")
    say(f"found    {found}")
    if failure := device_check.failure(code):
        say(f"refused  `{' '.join(query)}` {failure}: {' '.join(printed.split())[:300]}")
        return REFUSED
    for name in device_check.unproven(wanted, found):
        say(f"unknown  `{query[0]}` does not report the {name}")
    reasons = device_check.refusals(wanted, found)
    for reason in reasons:
        say(f"refused  {reason}")
    return REFUSED if reasons else 0


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def through_flagscale(serve: dict[str, Any], host: str, port: int) -> int:
    logs = Path(serve["logs"])
    output = logs / "host_0_localhost.output"
    pid_file = logs / "pids" / "host_0_localhost.pid"
    for stale in (output, pid_file):
        stale.unlink(missing_ok=True)
    command = ["flagscale", "serve", serve["name"], str(CONFIG / "serve.yaml"), "--port", str(port)]
    if host:
        command += ["--engine-args", json.dumps({"host": host})]
    if serve["operators"]:
        # A fresh, writable copy of the tuning database for each start, so that it holds only what was shipped.
        os.environ["FLAGKERNELS_CACHE"] = tempfile.mkdtemp(prefix="flagkernels-")
        command = [sys.executable, *serve["operators"], *command]
    code = subprocess.run(command, check=False).returncode
    if code or not pid_file.exists():
        sys.stderr.write("flagos-serve: FlagScale started nothing\n")
        return code or 1
    follow(output, int(pid_file.read_text()))
    return 1  # FlagScale does not report the engine's exit code


def follow(output: Path, pid: int) -> None:
    """Copy `output` to stdout as it grows, until process `pid` is gone."""
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
    """Whether `pid` is alive. Reaps all children that ended, adopted orphans included."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    return Path(f"/proc/{pid}").exists()


def end_descendants() -> None:
    """Send SIGTERM to all descendants, and SIGKILL to those still alive after GRACE seconds."""
    deadline = time.monotonic() + GRACE
    signum = signal.SIGTERM
    signalled: set[int] = set()
    while alive := [pid for pid in descendants(os.getpid()) if running(pid)]:
        if time.monotonic() > deadline:
            signum, signalled, deadline = signal.SIGKILL, set(), deadline + GRACE
        for pid in alive:
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
            # The second field is the program's name in parentheses and may contain spaces.
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    below: list[int] = []
    todo = [root]
    while todo:
        direct = children.get(todo.pop(), [])
        below += direct
        todo += direct
    return below


def _stop(_signum: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise Stop


if __name__ == "__main__":
    sys.exit(main())
