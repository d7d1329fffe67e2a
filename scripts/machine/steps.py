"""Run the steps that prepare a machine, and report them: `python3 scripts/machine up|test|down|STEP …`.

Each step prints one line. Steps that are already done are not repeated.
"""

import argparse
import sys
import threading
import time
from collections.abc import Callable

import base
import engine
import environment
import registry
import sandbox
from host import Done, SetupError, relative, stop_daemon

STEPS: dict[str, tuple[str, Callable[[], Done]]] = {
    "venv": ("virtual environment", environment.ensure),  # from the hash-locked lists
    "prefect": ("prefect database", environment.prefect),  # its migrations, which are slow
    "kernels": ("torch", environment.kernels),  # only for the tests of flagkernels
    "sandbox": ("sandbox", sandbox.ensure),  # only for tests that run programs written by models
    "engine": ("docker engine", engine.ensure),  # uses a running one
    "registry": ("registry", registry.ensure),  # on 127.0.0.1, without a password
    "registry-program": ("registry program", registry.program),  # only for tests with registries of their own
    "base": ("base image", base.ensure),  # of the chip `cpu`
}
GROUPS = {
    "up": ("venv", "prefect", "engine", "registry", "base"),  # for `make release`
    "test": ("venv", "prefect", "kernels", "sandbox", "engine", "registry", "registry-program", "base"),
}


def line(name: str, state: str, detail: str) -> str:
    """One aligned line of the report."""
    return f"{name:<20} {state:<10} {detail}".rstrip()


def perform(name: str, step: Callable[[], Done]) -> None:
    """Run one step; on a terminal, show the elapsed seconds meanwhile."""
    begin = time.monotonic()
    over = threading.Event()

    def tick() -> None:
        while not over.wait(0.2):
            if (seconds := time.monotonic() - begin) > 0.5:
                sys.stdout.write(f"\r{line(name, 'working', f'{seconds:.0f} s')}")
                sys.stdout.flush()

    ticker = threading.Thread(target=tick, daemon=True)
    if sys.stdout.isatty():
        ticker.start()
    try:
        done = step()
    finally:
        over.set()
        if sys.stdout.isatty():
            ticker.join()
            sys.stdout.write("\r\x1b[K")
    seconds = time.monotonic() - begin
    took = f"  ({seconds:.0f} s)" if seconds >= 1 else ""
    print(line(name, done.state, done.detail + took), flush=True)


def fail(name: str, error: SetupError) -> None:
    """Print what failed, why, the end of the log, and what to do next."""
    print(line(name, "FAILED", error.why), file=sys.stderr)
    if error.log and error.log.exists():
        for text in error.log.read_text(errors="replace").splitlines()[-15:]:
            print(f"  | {text}", file=sys.stderr)
        print(f"  full log: {relative(error.log)}", file=sys.stderr)
    print(f"  next: {error.todo}", file=sys.stderr)


def down() -> Done:
    """Stop only the daemons started by this checkout."""
    stopped = [name for name in (registry.DAEMON, engine.DAEMON) if stop_daemon(name)]
    return Done("stopped", " and ".join(stopped)) if stopped else Done("nothing", "this checkout started no daemon")


def main() -> int:
    """Run the steps. Returns 0, or 6 (environment) like flagrelease."""
    verbs = [*GROUPS, *STEPS, "down"]
    parser = argparse.ArgumentParser(prog="machine", description=__doc__)
    parser.add_argument("verbs", nargs="+", choices=verbs, metavar="|".join(verbs))
    name = "machine"
    try:
        for verb in parser.parse_args().verbs:
            for step in GROUPS.get(verb, (verb,)):
                name, action = ("daemons", down) if step == "down" else STEPS[step]
                perform(name, action)
    except SetupError as error:
        fail(name, error)
        return 6
    except KeyboardInterrupt:
        print(line(name, "cancelled", "run again to resume"), file=sys.stderr)
        return 130
    return 0
