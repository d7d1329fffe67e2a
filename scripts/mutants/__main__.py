"""Change the code in small ways and count the changes that no test notices; `make mutants`.

    make mutants ARGS="--module redact --sample 50 --seed 1"
    make mutants ARGS="--again"    # those that survived, after new tests

Results are kept in .cache/mutants and continued; a changed file's mutants are new ones. Each trial has a process
namespace of its own, so this runs as root.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import queue
import random
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))

import mutations  # noqa: E402
import summary  # noqa: E402
import trials  # noqa: E402
from mutations import Mutant  # noqa: E402

MODULES = ("verdict", "store", "run/plan", "ports/registry", "evaluation/grading", "redact", "cli/redacted_output")


def main() -> int:
    given = _arguments()
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    cache = Path(given.cache).resolve()
    cache.mkdir(parents=True, exist_ok=True)
    modules = given.module or list(MODULES)
    results = cache / "results.jsonl"
    everything = _plan(modules, given.processes)
    planned = _sample(everything, given.sample, given.seed)
    known = _known(results)
    if given.again:
        todo = [one for one in planned if one.id in known and known[one.id]["state"] in summary.ALIVE]
    else:
        todo = [one for one in planned if one.id not in known]
    print(
        f"{len(everything)} mutants of {len(modules)} modules, {len(planned)} sampled, {len(todo)} to run", flush=True
    )
    if todo and not given.summary:
        with tempfile.TemporaryDirectory(
            prefix="flagrelease-mutants-", dir=given.scratch, ignore_cleanup_errors=True
        ) as folder:
            _run(todo, Path(folder), results, given)
    text = summary.table(everything, planned, _known(results), given)
    print(text)
    if given.write:
        summary.write(Path(given.write), text)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make mutants ARGS=…", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--module", action="append", help="a folder or file, such as verdict/rule; may be repeated")
    parser.add_argument("--sample", type=int, default=0, help="how many mutants, spread evenly over the modules")
    parser.add_argument("--seed", type=int, default=1, help="which ones")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--again", action="store_true", help="only run those that survived once more")
    parser.add_argument("--tests", action="append", help="let only these tests judge; may be repeated")
    parser.add_argument("--summary", action="store_true", help="run nothing, show what is known")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many; the next call continues")
    parser.add_argument("--write", help="a document whose table is replaced")
    parser.add_argument("--cache", default=str(ROOT / ".cache/mutants"))
    parser.add_argument("--scratch", default=None, help="a folder for the copies of the checkout")
    return parser.parse_args()


def _plan(modules: Sequence[str], processes: int) -> list[Mutant]:
    """All mutants, in the order of modules, files and lines."""
    wanted = [(module, path) for module in modules for path in mutations.files(ROOT, module)]
    with multiprocessing.Pool(processes) as pool:
        return [one for found in pool.starmap(_mutants, wanted, chunksize=1) for one in found]


def _mutants(module: str, path: str) -> list[Mutant]:
    return mutations.mutants(module, path, (ROOT / path).read_text())


def _sample(everything: Sequence[Mutant], size: int, seed: int) -> list[Mutant]:
    """As many of each module as possible; small ones whole."""
    groups: dict[str, list[Mutant]] = defaultdict(list)
    for one in everything:
        groups[one.module].append(one)
    if not size:
        return list(everything)
    chosen: set[str] = set()
    left = size
    by_size = sorted(groups.values(), key=len)
    for index, group in enumerate(by_size):
        share = min(len(group), left // (len(by_size) - index))
        chosen |= {one.id for one in random.Random(seed).sample(group, share)}
        left -= share
    return [one for one in everything if one.id in chosen]


def _known(results: Path) -> dict[str, Mapping[str, object]]:
    if not results.exists():
        return {}
    return {entry["id"]: entry for entry in map(json.loads, results.read_text().splitlines())}


def _run(todo: Sequence[Mutant], folder: Path, results: Path, given: argparse.Namespace) -> None:
    master = folder / "tree"
    trials.copy_tree(ROOT, master)
    paths = sorted({one.path for one in todo})
    began = time.monotonic()
    reach = trials.measure(master, paths, given.processes, folder / "coverage", given.tests or trials.TESTS)
    print(f"{len(reach.seconds)} tests measured in {time.monotonic() - began:.0f} s", flush=True)
    trials.preload(reach.libraries)
    gc.collect()
    gc.freeze()
    reach = _fit(master, reach, given.processes)
    # Mutants of one file stay together, since the test that killed one often kills the next.
    waiting: multiprocessing.Queue[Sequence[Mutant]] = multiprocessing.Queue()
    shuffled = [todo[index : index + 8] for index in range(0, len(todo), 8)]
    random.Random(0).shuffle(shuffled)
    for part in shuffled:
        waiting.put(part)
    done: multiprocessing.Queue[dict[str, object]] = multiprocessing.Queue()
    workers = [
        multiprocessing.Process(target=_work, args=(folder / f"worker{number}", master, reach, waiting, done))
        for number in range(given.processes)
    ]
    for worker in workers:
        worker.start()
    deadline = began + 60 * given.minutes
    with results.open("a") as file:
        for number in range(1, len(todo) + 1):
            try:
                entry = done.get(timeout=max(0.1, min(300.0, deadline - time.monotonic())))
            except queue.Empty:
                print("stopped; the next call continues", flush=True)
                break
            file.write(json.dumps(entry) + "\n")
            file.flush()
            if number % 50 == 0:
                print(f"{number} of {len(todo)} after {time.monotonic() - began:.0f} s", flush=True)
    for worker in workers:
        worker.terminate()
        worker.join()
    waiting.cancel_join_thread()


def _fit(master: Path, reach: trials.Reach, processes: int) -> trials.Reach:
    """Leave out the tests that fail in a trial without a mutant."""
    if trials.isolated(lambda: ("works", ""), 30)[0] != "works":
        raise SystemExit("no process namespace can be made here, without which no mutant is run")
    files: dict[str, list[str]] = defaultdict(list)
    for test in reach.seconds:
        files[test.partition("::")[0]].append(test)
    with ProcessPoolExecutor(processes) as pool:  # its processes may have children, as tests do
        work = [
            (master, number, tests, 20 + 5 * sum(map(reach.seconds.__getitem__, tests)))
            for number, tests in enumerate(files.values())
        ]
        failed = {test for tests in pool.map(_unfit, *zip(*work, strict=True)) for test in tests}
    print(f"{len(failed)} tests left out, which fail in a trial without a mutant: {sorted(failed)[:20]}", flush=True)
    return replace(reach, seconds={test: spent for test, spent in reach.seconds.items() if test not in failed})


def _unfit(master: Path, number: int, tests: Sequence[str], limit: float) -> list[str]:
    own = Path(f"{master}.tmp/{number}")
    own.mkdir()
    os.environ["TMPDIR"] = str(own)
    tempfile.tempdir = None
    return [test for test in trials.unfit(master, tests, own / "run", limit) if test]


def _work(
    tree: Path,
    master: Path,
    reach: trials.Reach,
    waiting: multiprocessing.Queue[Sequence[Mutant]],
    done: multiprocessing.Queue[dict[str, object]],
) -> None:
    shutil.copytree(master, tree, symlinks=True)
    runner = trials.Runner(tree=tree, reach=reach)
    os.environ["TMPDIR"] = f"{tree}.tmp"
    Path(f"{tree}.tmp").mkdir()
    tempfile.tempdir = None
    while True:
        try:
            part = waiting.get(timeout=1)
        except queue.Empty:
            return
        for mutant in part:
            try:
                outcome = runner.trial(mutant)
            except Exception as error:  # one trial's trouble is not the others'
                outcome = {"id": mutant.id, "state": "trouble", "killer": repr(error), "tests": 0, "seconds": 0}
            done.put({**asdict(mutant), **outcome})


if __name__ == "__main__":
    sys.exit(main())
