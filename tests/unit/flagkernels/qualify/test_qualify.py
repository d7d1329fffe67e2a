"""Planted faults on CPU tensors: each is found in a separate process, and none ends the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the chip side needs torch")

from flagkernels.errors import UsageError  # noqa: E402
from flagkernels.files import write_json  # noqa: E402
from flagkernels.model.trace import Trace  # noqa: E402
from flagkernels.operators.calls import Call, TensorSpec, Token  # noqa: E402
from flagkernels.qualify import qualify as step  # noqa: E402
from flagkernels.qualify.cases import cases_for  # noqa: E402
from flagkernels.qualify.pool import Outcome  # noqa: E402
from flagkernels.qualify.qualify import Method, qualify, width_for  # noqa: E402
from flagkernels.qualify.rows import Limits, read_rows  # noqa: E402
from support.small_traces import spec, trace_of  # noqa: E402

ADDS = trace_of(
    ("add", Call("add.Tensor", (spec(8, 96), spec(8, 96)))),
    ("add", Call("add.Tensor", (spec(32, 96), spec(32, 96)))),
)


def verdict(tmp_path: Path, fault: str, *, operator: str = "add", found: Trace = ADDS, **limits: float) -> step.Row:
    chosen = Limits(**{"seconds": 60.0, "memory": 2 << 30, **limits})  # type: ignore[arg-type]
    (row,) = qualify(
        found,
        [operator],
        tmp_path / "rows.jsonl",
        method=Method(source=f"support.flagkernels_faults:{fault}", device="cpu"),
        limits=chosen,
    )
    return row


@pytest.mark.parametrize(
    ("fault", "expected", "says"),
    [
        ("RIGHT", "correct", ""),
        ("ONE_PERCENT", "wrong", "out of bound"),
        ("NAN_PAST_EDGE", "wrong", "are NaN"),
        ("OUT_OF_BOUNDS", "wrong", "16 bytes written past the end"),
        ("THIRD_TIME", "nondeterministic", "wrong in run 3 of 3"),
        ("ABORTS", "crash", "SIGABRT"),
        ("GREEDY", "out-of-memory", "allocate memory"),
        ("REFUSES", "unsupported", "no kernel for this dtype"),
        ("WRITES_INPUT", "wrong", "changed its argument self"),
    ],
)
def test_each_fault_is_named(tmp_path: Path, fault: str, expected: str, says: str) -> None:
    row = verdict(tmp_path, fault)
    assert (row.verdict, says in row.reason) == (expected, True), row
    assert read_rows(tmp_path / "rows.jsonl")[row.key] == row


def test_a_result_that_is_its_argument_is_wrong(tmp_path: Path) -> None:
    """`_to_copy` promises new memory: a view would change with the next in-place write to its source."""
    found = trace_of(("to_copy", Call("_to_copy", (spec(8, 96),), (("dtype", Token("dtype", "bfloat16")),))))
    row = verdict(tmp_path, "ALIASES", operator="to_copy", found=found)
    assert (row.verdict, row.reason) == ("wrong", "result 0 shares memory with an argument")


def test_a_hang_is_ended_at_its_limit(tmp_path: Path) -> None:
    began = time.monotonic()
    row = verdict(tmp_path, "NEVER_RETURNS", seconds=4.0)
    assert row.verdict == "hang"
    assert "no answer within 4 s" in row.reason
    assert time.monotonic() - began < 20


def test_native_kernels_are_correct_by_their_own_bounds(tmp_path: Path) -> None:
    """The bounds must not be so tight that the vendor's own kernels fail them, at any size or regime."""
    column = TensorSpec((96, 160), (1, 96), "bfloat16")
    flags, tokens = spec(32, dtype="bool"), spec(32, dtype="int64")
    found = trace_of(
        ("mm", Call("mm", (spec(32, 96), column))),
        ("mean_dim", Call("mean.dim", (spec(32, 96, dtype="float32"), (-1,), True))),
        ("softmax", Call("_softmax", (spec(4, 96), -1, False))),
        ("silu", Call("silu", (spec(32, 96),))),
        ("rsqrt", Call("rsqrt", (spec(32, 1, dtype="float32"),))),
        ("pow_tensor_scalar", Call("pow.Tensor_Scalar", (spec(32, 96, dtype="float32"), 2))),
        ("sin", Call("sin", (spec(1, 32, 96, dtype="float32"),))),
        ("cat", Call("cat", ((spec(4, 96), spec(4, 96)), -1))),
        ("embedding", Call("embedding", (spec(500, 96), spec(2, 8, dtype="int64")))),
        ("topk", Call("topk", (spec(4, 96), 8))),
        ("argmax", Call("argmax", (spec(4, 96), -1))),
        ("arange", Call("arange", (500,))),
        ("cumsum", Call("cumsum", (spec(4, 96), -1))),
        ("index_put_", Call("index_put_", (spec(96), (spec(96, dtype="int64"),), spec(96)))),
        ("index", Call("index.Tensor", (spec(96, 64), (spec(8, dtype="int32"),)))),
        ("mm_out", Call("mm.out", (spec(32, 96), column), (("out", spec(32, 160)),))),
        ("addmm_out", Call("addmm.out", (spec(160), spec(32, 96), column), (("out", spec(32, 160)),))),
        ("bmm_out", Call("bmm.out", (spec(4, 8, 96), spec(4, 96, 8)), (("out", spec(4, 8, 8)),))),
        ("true_divide_", Call("div_.Tensor", (spec(4, 96, dtype="float32"), spec(4, 1, dtype="float32")))),
        ("exponential_", Call("exponential_", (spec(32, 96, dtype="float32"),))),
        ("where_self_out", Call("where.self_out", (flags, tokens, tokens), (("out", tokens),))),
        ("lt_scalar", Call("lt.Scalar", (spec(32, dtype="float32"), 1e-5))),
    )
    rows = qualify(
        found,
        list(found.operators),
        tmp_path / "rows.jsonl",
        method=Method(source="support.flagkernels_native:OPERATORS", device="cpu"),
        limits=Limits(seconds=60, memory=2 << 30, width=2),
    )
    assert {row.operator: (row.verdict, row.reason, row.at) for row in rows if row.verdict != "correct"} == {}
    assert all(row.cases for row in rows)


def test_preallocated_memory_that_is_not_written_shows(tmp_path: Path) -> None:
    """Products as called by compiled models: with memory for the result, which contains NaN until it is written."""
    found = trace_of(("mm_out", Call("mm.out", (spec(64, 96), spec(96, 160)), (("out", spec(64, 160)),))))
    row = verdict(tmp_path, "HALF_WRITTEN", operator="mm_out", found=found)
    assert (row.verdict, "are NaN" in row.reason) == ("wrong", True), row


def test_given_memory_is_dense_at_every_size() -> None:
    found = trace_of(("mm_out", Call("mm.out", (spec(32, 96), spec(96, 160)), (("out", spec(32, 160)),))))
    for case in cases_for(found, "mm_out"):
        left, right, out = case.call.tensors
        assert out.contiguous
        assert out.shape == (left.shape[0], right.shape[1])


def test_off_grid_cases_break_no_agreement_between_arguments() -> None:
    found = trace_of(("mm", Call("mm", (spec(32, 96), TensorSpec((96, 160), (1, 96), "bfloat16")))))
    cases = cases_for(found, "mm")
    assert {case.kind for case in cases} == {"real", "odd", "one", "edge", "strided"}
    for case in cases:
        left, right = case.call.tensors
        assert left.shape[1] == right.shape[0]
    edge = next(case for case in cases if case.kind == "edge")
    assert edge.call.tensors[0].shape == (33, 97)
    assert not next(case for case in cases if case.kind == "strided").call.tensors[0].contiguous


def test_a_second_run_does_only_what_is_missing(tmp_path: Path) -> None:
    first = verdict(tmp_path, "RIGHT")
    size = (tmp_path / "rows.jsonl").stat().st_size
    assert verdict(tmp_path, "RIGHT") == first
    assert (tmp_path / "rows.jsonl").stat().st_size == size
    assert verdict(tmp_path, "RIGHT", repeats=2).key != first.key


def test_a_hang_is_judged_again_when_there_is_more_time(tmp_path: Path) -> None:
    """A verdict about an exceeded limit does not hold for a larger limit; at the same limit it is reused."""
    assert verdict(tmp_path, "RIGHT", seconds=0.001).verdict == "hang"
    before = (tmp_path / "rows.jsonl").read_bytes()
    assert verdict(tmp_path, "RIGHT", seconds=0.001).verdict == "hang"
    assert (tmp_path / "rows.jsonl").read_bytes() == before
    assert verdict(tmp_path, "RIGHT").verdict == "correct"


def test_memory_that_did_not_suffice_is_tried_again_with_more(tmp_path: Path) -> None:
    row = verdict(tmp_path, "GREEDY")
    assert row.verdict == "out-of-memory"
    assert row.stands(Limits(memory=2 << 30))
    assert not row.stands(Limits(memory=4 << 30))


CHIP = 80 << 30
"""Bytes of a chip's memory, as `_sharing` deals it out."""


def _sharing(asked: list[tuple[str, float]], needs: dict[str, int]) -> Any:
    """Replaces pool.run_all: each job uses its share of a simulated chip."""

    def run_all(jobs: list[Any], *, finished: Any, **_: Any) -> None:
        for job in jobs:
            asked.append((job.operator, job.device_fraction))
            fits = needs[job.operator] <= job.device_fraction * CHIP
            verdict = "correct" if fits or job.operator == "dropping" else "out-of-memory"
            results = ({"case": "x", "verdict": verdict, "reason": "" if fits else "OutOfMemoryError"},)
            short = 0 if fits or job.operator != "dropping" else 1
            finished(
                Outcome(
                    job=job, ended="done", reason="", at="x", results=results, dropped=short, short=short, seconds=1.0,
                    peak_bytes=0, log_tail="",
                )
            )  # fmt: skip

    return run_all


def test_a_share_of_the_chip_that_was_too_small_is_not_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator that needs more than its share, or had cases dropped for that, is judged again alone; one that needs
    more than the chip is out of memory."""
    needs = {"small": 1 << 30, "large": 40 << 30, "dropping": 40 << 30, "greedy": 200 << 30}
    call = Call("add.Tensor", (spec(8, 96), spec(8, 96)))
    asked: list[tuple[str, float]] = []
    monkeypatch.setattr(step.pool, "run_all", _sharing(asked, needs))
    found, rows = trace_of(*((name, call) for name in needs)), tmp_path / "rows.jsonl"
    judged = qualify(found, list(needs), rows, method=Method(device="cuda"), limits=Limits(width=4))
    assert [row.verdict for row in judged] == ["correct", "correct", "correct", "out-of-memory"]
    assert [row.dropped for row in judged] == [0, 0, 0, 0]
    assert asked[4:] == [("large", step.WHOLE), ("dropping", step.WHOLE), ("greedy", step.WHOLE)]
    assert len(read_rows(rows)) == len(rows.read_text().splitlines()) == 4


def test_an_operator_that_the_source_lacks_is_unsupported(tmp_path: Path) -> None:
    found = trace_of(("added", Call("add.Tensor", (spec(8, 96), spec(8, 96)))))
    row = verdict(tmp_path, "RIGHT", operator="added", found=found)
    assert (row.verdict, "no operator 'added'" in row.reason) == ("unsupported", True), row


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nosuch:THING", "No module named 'nosuch'"),
        ("os:path", "not a mapping"),
        ("support.flagkernels_faults", "does not name operators"),
    ],
)
def test_operators_that_cannot_be_imported_are_no_verdict_on_any(tmp_path: Path, source: str, says: str) -> None:
    method, limits = Method(source=source, device="cpu"), Limits(memory=2 << 30)
    with pytest.raises(UsageError, match=f"--source {source} cannot be used") as caught:
        qualify(ADDS, ["add"], tmp_path / "rows.jsonl", method=method, limits=limits)
    assert says in str(caught.value)
    assert not (tmp_path / "rows.jsonl").exists()


@pytest.mark.slow  # two starts of torch; the stage's killed run has it too
def test_a_kill_loses_one_operator(tmp_path: Path) -> None:
    """SIGKILL while the second operator hangs: the first row is stored, and a second run starts with the second."""
    calls = {op: Call(f"{op}.Tensor", (spec(8, 96), spec(8, 96))) for op in ("add", "mul")}
    write_json(tmp_path / "trace.json", trace_of(*calls.items()).to_json())
    command = [
        sys.executable,
        "-m",
        "flagkernels",
        "qualify",
        "--trace",
        str(tmp_path / "trace.json"),
        "--device",
        "cpu",
    ]
    command += [
        "--source",
        "support.flagkernels_faults:ADD_RIGHT_MUL_HANGS",
        "--out",
        str(tmp_path / "rows.jsonl"),
        "--width",
        "1",
    ]
    root = Path(__file__).parents[4]
    paths = [str(root / "pipeline"), str(root / "tests")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not read_rows(tmp_path / "rows.jsonl") and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    assert [row.operator for row in read_rows(tmp_path / "rows.jsonl").values()] == ["add"]
    again = subprocess.run([*command, "--seconds", "3"], env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "[1/1] mul" in again.stderr
    assert "1 correct, 1 hang" in again.stdout


def test_a_name_that_does_not_exist_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="did you mean 'add'"):
        step.choose(ADDS, "ad")


def test_the_width_follows_memory_and_cores() -> None:
    assert width_for(ADDS, "cpu", cores=6) == 6
    assert width_for(ADDS, "cuda", cores=64, free=80 << 30) == 37
    assert width_for(ADDS, "cuda", cores=16, free=80 << 30) == 16
    assert width_for(ADDS, "cuda", cores=16, free=1 << 30) == 1
