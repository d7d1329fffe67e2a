"""What flagkernels writes for other programs, from fixed inputs by its real code: golden/ has one file of each.

`python tests/support/kernels_golden.py`, with `pipeline` on PYTHONPATH, writes them again after an intended change.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flagkernels.bundle import bundle, report
from flagkernels.bundle.compat import Compat
from flagkernels.engine import activate
from flagkernels.files import append_line, write_json
from flagkernels.measure.figures import Figure
from flagkernels.measure.roofline import Ceilings
from flagkernels.measure.select import Choice, Step
from flagkernels.measure.timing import Ratio
from flagkernels.model.trace import Point, Trace, TracedCall
from flagkernels.operators.calls import Call, TensorSpec
from flagkernels.operators.listing import Operators
from flagkernels.qualify.pool import Outcome
from flagkernels.qualify.rows import Limits, Row, row_of
from flagkernels.qualify.worker import Job
from flagkernels.tuning.journal import Report, Tuned

GOLDEN = Path(__file__).with_name("golden")
COMPAT = Compat(
    vendor="nvidia",
    device="NVIDIA H100 80GB HBM3",
    driver="580.159.04",
    triton="3.6.0",
    flaggems="5.0.2",
    source="5f" * 32,
)
VERSIONS = {"torch": "2.10.0", "transformers": "5.1.0", "flag_gems": "5.0.2"}
WIDE = TensorSpec((8, 64), (64, 1), "bfloat16")
SQUARE = TensorSpec((64, 64), (64, 1), "bfloat16")
LOAD = "decode:8x512"


def _trace() -> Trace:
    calls = [("mm", Call("mm", (WIDE, SQUARE))), ("silu", Call("silu", (WIDE,))), ("rsqrt", Call("rsqrt", (WIDE,)))]
    return Trace(
        model="qwen3",
        config_sha256="c0" * 32,
        view="engine",
        execution="compiled",
        dtype="bfloat16",
        versions=VERSIONS,
        points=(Point(phase="prefill", batch=1, length=16), Point(phase="decode", batch=8, length=512)),
        static=frozenset({64}),
        calls=tuple(TracedCall(operator, call, (2, 2)) for operator, call in calls),
        native_only={"add.Tensor": 4},
        layers=2,
        device="meta",
    )


def _outcome(operator: str, *results: dict[str, Any], ended: str = "done", **more: Any) -> Outcome:
    job = Job(
        operator=operator, source="flag_gems", device="cuda", cases=({}, {}), repeats=3, seed=0, memory=8 << 30,
        device_fraction=0.5, configs=2, log=f"{operator}.log",
    )  # fmt: skip
    rest = {"reason": "", "at": "", "dropped": 0, "short": 0, "log_tail": "", **more}
    return Outcome(job=job, ended=ended, results=results, seconds=4.25, peak_bytes=900 << 20, **rest)


def rows() -> list[Row]:
    """One that is correct and shipped, one that is correct and not chosen, one that crashed."""
    right = {"case": "mm real spread", "verdict": "correct", "error": 0.41, "native": 0.4, "relative": 0.0021}
    outcomes = [
        _outcome("mm", {**right, "gain": 0.0001, "seconds": 0.02}, {**right, "error": 0.55}),
        _outcome("silu", {**right, "case": "silu real spread"}, dropped=1),
        _outcome(
            "rsqrt", ended="crash", reason="killed by SIGSEGV", at="rsqrt real spread", log_tail="Segmentation fault"
        ),
    ]
    return [row_of(one, f"{number:016x}", Limits(width=2)) for number, one in enumerate(outcomes)]


def _choice() -> Choice:
    kept = Ratio(median=1.0213, low=1.0151, high=1.0274, pairs=21)
    slow = Ratio(median=0.9542, low=0.9496, high=0.9588, pairs=21)
    return Choice(
        operators=Operators(
            include=("mm",), policy="express", native={"mm": ("*", "!bf16[8,64]")}, static=(64,), execution="compiled"
        ),
        steps=(
            Step(operators=("silu",), ratios={LOAD: slow}, decision=f"slower at {LOAD}", out="silu"),
            Step(operators=("mm",), ratios={LOAD: kept}, decision="accepted"),
        ),
        gains={"mm": {LOAD: 1.25e-6}},
    )


def _figure(operator: str, low: float, high: float, share: float) -> Figure:
    return Figure(
        operator=operator, shape_class="bf16[8,64]", call=Call("silu", (WIDE,)).to_json(), counts={LOAD: 2},
        native=5.1e-6, candidate=5e-6, ratio=1.02, low=low, high=high, bytes=9216, operations=65536,
        floor=2e-6, share=share, native_share=0.392,
    )  # fmt: skip


def _report(folder: Path) -> Path:
    tuned = Report(
        tuned=(
            Tuned(
                operator="mm",
                kernel="mm_kernel",
                key=(8, 64, "bf16"),
                config="BLOCK: 32",
                ms=0.005,
                state="tuned",
                candidates=24,
                compiled=12,
                hopeless=6,
                screened=12,
                finalists=3,
                seconds=1.5,
            ),
        ),
        reused=0,
        missing=(),
        untunable=("softmax_kernel",),
        failed=(),
        compiled=12,
        compile_failures={},
        kernels=("ab" * 32,),
        tuning_events=0,
        seconds={"all": 37.5},
    )
    value = report.build(
        _trace(),
        rows(),
        tuned=tuned.to_json(),
        figures=[_figure("mm", 1.011, 1.029, 0.4), _figure("silu", 0.95, 1.01, 0.35)],
        ceilings=Ceilings(bandwidth=2.9e12, rate=7.4e14, dtype="bfloat16", device=COMPAT.device).to_json(),
        choice=_choice().to_json(),
        by_hand={"cat": "issue 17"},
        compat=COMPAT,
        seconds={"trace": 3.0, "qualify": 41.2, "tune": 37.5, "bench": 20.1, "select": 90.4},
    )
    write_json(folder / "report.json", value)
    return folder / "report.json"


def _verdicts(folder: Path) -> Path:
    for row in rows():
        append_line(folder / "verdicts.jsonl", row.to_json())
    return folder / "verdicts.jsonl"


def _bundle(folder: Path) -> Path:
    with contextlib.closing(sqlite3.connect(folder / "tuned.db")) as connection:
        connection.execute('CREATE TABLE "mm_kernel-a" (key_0 INTEGER PRIMARY KEY, BLOCK INTEGER)')
    (folder / "cache").mkdir()
    made = bundle.build(
        folder / "bundle",
        operators=_choice().operators,
        tuned=folder / "tuned.db",
        database_name="TunedConfig_NVIDIA_H100_80GB_HBM3_triton_3_6.db",
        triton_cache=folder / "cache",
        kernels=(),
        report={},
        compat=COMPAT,
    )
    return made.path


def _operators(folder: Path) -> Path:
    return _bundle(folder) / "operators.yaml"


def _compat(folder: Path) -> Path:
    """With another digest: that of the content follows from SQLite's version."""
    label = _bundle(folder) / "compat.json"
    text = label.read_text()
    return _written(folder / "compat.json", text.replace(json.loads(text)["content"], "d1" * 32))


def _effective(folder: Path) -> Path:
    """Two processes of an engine, and what `activate --effective` prints of them."""
    (folder / "effective").mkdir()
    for pid in (101, 102):
        status = activate.Status(bundle="d1" * 32, operators=("mm",), native={}, keys=("mm",))
        status.call("mm")
        status.captured.add("mm")
        status.fill("mm_kernel")
        status.device = pid - 101
        if pid == 102:
            status.tuning("mm_kernel")
            status.compilation("mm_kernel")
        (folder / f"effective/{pid}.json").write_text(json.dumps({"pid": pid, **status.snapshot()}))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        activate.main(argparse.Namespace(effective=folder / "effective"))
    return _written(folder / "effective.json", printed.getvalue())


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


FILES: dict[str, Callable[[Path], Path]] = {
    "compat.json": _compat,
    "effective.json": _effective,
    "operators.yaml": _operators,
    "report.json": _report,
    "verdicts.jsonl": _verdicts,
}
"""By name: what writes the file below an empty folder, and says where."""


def main() -> int:
    GOLDEN.mkdir(exist_ok=True)
    for name, write in FILES.items():
        with tempfile.TemporaryDirectory() as folder:
            (GOLDEN / name).write_bytes(write(Path(folder)).read_bytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
