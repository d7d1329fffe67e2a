"""`samples.jsonl`: one line for each answer, the raw material of every score.

An answer is named by (benchmark, subset, question_id, repeat) and exists once. Where questions share a story
or a template, the part of `question_id` before `#` names it: their errors are then taken as dependent.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import msgspec

from flagrelease.errors import Busy, ComparisonRefused

__all__ = [
    "CONDITIONS",
    "SAMPLES",
    "Conditions",
    "Key",
    "Sample",
    "SampleWriter",
    "dump",
    "read_conditions",
    "read_samples",
    "write_samples",
]

SAMPLES = "samples.jsonl"
CONDITIONS = "conditions.json"

Key = tuple[str, str, str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One answer to one question.

    `correct` is true or false, or a partial score in [0, 1]. An answer that failed has its reason in `error`
    and counts as wrong. `finish_reason` is the server's; `length` means truncated. `repeat` counts from 0.
    """

    benchmark: str
    subset: str
    question_id: str
    prompt_sha256: str
    repeat: int
    correct: bool | float
    answer: str | None
    finish_reason: str | None
    completion_tokens: int | None
    latency_s: float | None
    error: str | None

    @property
    def key(self) -> Key:
        return self.benchmark, self.subset, self.question_id, self.repeat

    @property
    def cluster(self) -> str:
        """The story or template that the question belongs to; the question itself where there is none."""
        return f"{self.subset}/{self.question_id.partition('#')[0]}"


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What has to be equal on two sides before their answers are compared; kept beside them in conditions.json.

    `model` names the weights with their revision, `data` the sha256 of each benchmark's questions, `sampling`
    the parameters that each benchmark was asked with. The prompts themselves are in the answers. `design` holds, for
    each benchmark that was evaluated sequentially, the design that its answers were asked by (group_sequential.py);
    `harness` what asked and graded a benchmark, where that was not our own engine.
    """

    model: str
    data: Mapping[str, str]
    sampling: Mapping[str, Mapping[str, Any]]
    design: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    harness: Mapping[str, str] = field(default_factory=dict)

    def dump(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True, allow_nan=False) + "\n"


_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sample as it is read. All fields are required; NaN and infinity are not JSON."""

    benchmark: Annotated[str, msgspec.Meta(min_length=1)]
    subset: str
    question_id: Annotated[str, msgspec.Meta(min_length=1)]
    prompt_sha256: Annotated[str, msgspec.Meta(min_length=64, max_length=64)]
    repeat: _Count
    correct: bool | Annotated[float, msgspec.Meta(ge=0, le=1)]
    answer: str | None
    finish_reason: str | None
    completion_tokens: _Count | None
    latency_s: Annotated[float, msgspec.Meta(ge=0)] | None
    error: str | None


_decode = msgspec.json.Decoder(_Line).decode
_HEX = frozenset("0123456789abcdef")


def read_samples(path: Path) -> list[Sample]:
    """All answers of a file, in its order.

    Raises ComparisonRefused, with file and line, for anything that is not a whole set of well-formed answers:
    a line cut in half, an unknown or missing field, a value of the wrong type, NaN, an answer given twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ComparisonRefused(f"{path} cannot be read", why=error.strerror or str(error)) from None
    except UnicodeDecodeError as error:
        raise ComparisonRefused(f"{path} is not UTF-8 text", why=str(error)) from None
    if text and not text.endswith("\n"):
        line = text.count("\n") + 1
        raise ComparisonRefused(
            f"{path}:{line}: the last line is cut",
            why="the file does not end with a line end",
            hint="resume the evaluation that wrote it; it asks only what is missing",
        )
    with _collector_paused():
        return list(_parse(path, text))


def _parse(path: Path, text: str) -> Iterator[Sample]:
    seen: set[Key] = set()
    # Not splitlines(): U+2028 and its kin are legal inside a JSON string.
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            sample = _sample(line)
        except ValueError as error:
            raise ComparisonRefused(f"{path}:{number}: not a valid answer", why=str(error)) from None
        seen.add(sample.key)
        if len(seen) != number:
            raise ComparisonRefused(
                f"{path}:{number}: answered twice",
                why="{}/{}/{} repeat {}".format(*sample.key),
                hint="two evaluations were written into one file; keep them apart",
            )
        yield sample


def _sample(line: str) -> Sample:
    """Raises ValueError, as msgspec's errors are."""
    one = _decode(line)
    if not _HEX.issuperset(one.prompt_sha256):
        raise ValueError(f"prompt_sha256 has to be 64 hexadecimal digits, not {one.prompt_sha256!r}")
    if one.error is not None and one.correct:
        raise ValueError(f"scored {one.correct!r} although it failed with {one.error!r}")
    return Sample(
        benchmark=one.benchmark,
        subset=one.subset,
        question_id=one.question_id,
        prompt_sha256=one.prompt_sha256,
        repeat=one.repeat,
        correct=one.correct,
        answer=one.answer,
        finish_reason=one.finish_reason,
        completion_tokens=one.completion_tokens,
        latency_s=one.latency_s,
        error=one.error,
    )


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Hundreds of thousands of small objects and no cycle: the collector would only scan them again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def dump(sample: Sample) -> str:
    """The line of a sample, with its line end. Raises ValueError for what `read_samples` would refuse."""
    line = json.dumps(asdict(sample), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    _sample(line)
    return line + "\n"


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Write a new file of answers at once. Raises FileExistsError rather than replace one."""
    with path.open("x", encoding="utf-8", newline="\n") as file:
        file.writelines(map(dump, samples))
        file.flush()
        os.fsync(file.fileno())


def read_conditions(path: Path) -> Conditions | None:
    """The conditions written beside a file of answers; None when there are none. Raises ComparisonRefused."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Conditions(**content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise ComparisonRefused(f"{path} is damaged", why=str(error)) from None


class SampleWriter:
    """Appends answers to a file that may have been left behind by a killed run.

    A line cut in half at the end is removed on opening; `done` names the answers that are there already, and
    an answer that is there is never written again (ValueError). One writer at a time (Busy). Each answer reaches
    the kernel before `write` returns, so that only a loss of power, not of the process, can take the last ones
    since `sync`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._lock()
            self._drop_cut_line()
            self.samples = read_samples(path)
        except BaseException:
            os.close(self._fd)
            raise
        self.done: set[Key] = {sample.key for sample in self.samples}

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"{self.path} is being written by another evaluation", hint="wait for it, or stop it") from None

    def _drop_cut_line(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            os.ftruncate(self._fd, whole)

    def write(self, sample: Sample) -> None:
        if sample.key in self.done:
            raise ValueError("answered twice: {}/{}/{} repeat {}".format(*sample.key))
        line = dump(sample).encode()
        start = os.lseek(self._fd, 0, os.SEEK_END)
        try:
            written = os.write(self._fd, line)
            if written != len(line):  # a full disk takes a part
                raise OSError(errno.ENOSPC, "No space left on device", str(self.path))
        except OSError:
            os.ftruncate(self._fd, start)
            raise
        self.done.add(sample.key)

    def sync(self) -> None:
        os.fsync(self._fd)

    def close(self) -> None:
        self.sync()
        os.close(self._fd)

    def __enter__(self) -> SampleWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
