"""Read and write samples.jsonl: one line for each answer.

An answer is identified by (benchmark, subset, question_id, repeat) and exists once. Questions that share a story or
template name it in `question_id` before `#`; their errors are treated as dependent.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
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
    "by_question",
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
    """One answer to one question."""

    benchmark: str
    """Its name in matrix.yaml."""
    subset: str
    """A part of the benchmark; may be empty."""
    question_id: str
    """Unique in the subset; STORY#ID if questions share a story or template."""
    prompt_sha256: str
    """64 hex digits."""
    repeat: int
    """Counted from 0."""
    correct: bool | float
    """True or false, or a partial score in [0, 1]; a failed answer counts as wrong."""
    answer: str | None
    """The answer that was extracted; None if there is none."""
    finish_reason: str | None
    """As reported by the server; `length` means truncated."""
    completion_tokens: int | None
    """As reported by the server."""
    latency_s: float | None
    """Seconds until the answer was complete."""
    error: str | None
    """Why the answer failed; None if it did not."""

    @property
    def key(self) -> Key:
        return self.benchmark, self.subset, self.question_id, self.repeat

    @property
    def cluster(self) -> str:
        """The story or template of the question, or the question itself."""
        return f"{self.subset}/{self.question_id.partition('#')[0]}"


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Conditions that must be equal for two sides to be compared, stored as conditions.json next to the answers.

    Prompts are compared by the digests in the answers.
    """

    model: str
    """The weights with their revision."""
    data: Mapping[str, str]
    """By benchmark, sha256 (hex) of its questions."""
    sampling: Mapping[str, Mapping[str, Any]]
    """By benchmark, the parameters of its requests."""
    design: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By sequential benchmark, the recorded design (group_sequential.py); not compared."""
    harness: Mapping[str, str] = field(default_factory=dict)
    """By benchmark, the harness that asked and graded it, unless it is our own."""
    chance: Mapping[str, float] = field(default_factory=dict)
    """By benchmark, the chance level of its score; not compared."""
    population: Mapping[str, int] = field(default_factory=dict)
    """By benchmark, the questions of the complete benchmark; not compared."""
    graders: Mapping[str, str] = field(default_factory=dict)
    """By benchmark, the digest (hex) of the code that graded the answers; not compared."""

    def dump(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True, allow_nan=False) + "\n"


_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The JSON form of a sample. All fields are required; NaN and infinity are not JSON."""

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
_NAMES = tuple(each.name for each in fields(Sample))
_HEX = frozenset("0123456789abcdef")


def read_samples(path: Path) -> list[Sample]:
    """All answers of a file, in file order.

    Raises ComparisonRefused, with file and line, for a truncated line, an unknown or missing field, a value of the
    wrong type, NaN, and a duplicate answer.
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
            f"{path}:{line}: the last line is truncated",
            why="the file does not end with a newline",
            hint="resume the evaluation that wrote it; it asks only the missing questions",
        )
    with _collector_paused():
        return list(_parse(path, text))


def _parse(path: Path, text: str) -> Iterator[Sample]:
    seen: set[Key] = set()
    # Not splitlines(): U+2028 and similar characters are legal in a JSON string.
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            sample = _sample(line)
        except ValueError as error:
            raise ComparisonRefused(f"{path}:{number}: not a valid answer", why=str(error)) from None
        seen.add(sample.key)
        if len(seen) != number:
            raise ComparisonRefused(
                f"{path}:{number}: duplicate answer",
                why="{}/{}/{} repeat {}".format(*sample.key),
                hint="two evaluations were written to the same file; separate them",
            )
        yield sample


def _sample(line: str) -> Sample:
    """Raises ValueError (the base of msgspec's errors)."""
    read = _decode(line)
    if not _HEX.issuperset(read.prompt_sha256):
        raise ValueError(f"prompt_sha256 must be 64 hexadecimal digits, not {read.prompt_sha256!r}")
    if read.error is not None and read.correct:
        raise ValueError(f"scored {read.correct!r} although it failed with {read.error!r}")
    return Sample(
        benchmark=read.benchmark,
        subset=read.subset,
        question_id=read.question_id,
        prompt_sha256=read.prompt_sha256,
        repeat=read.repeat,
        correct=read.correct,
        answer=read.answer,
        finish_reason=read.finish_reason,
        completion_tokens=read.completion_tokens,
        latency_s=read.latency_s,
        error=read.error,
    )


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause garbage collection, which would repeatedly scan hundreds of thousands of objects without cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def by_question(values: Iterable[tuple[Sample, float]]) -> dict[tuple[str, str], list[float]]:
    """The values of the answers to each question, by subset and id. All must be of one benchmark."""
    given: dict[tuple[str, str], list[float]] = {}
    for sample, value in values:
        given.setdefault((sample.subset, sample.question_id), []).append(value)
    return given


def dump(sample: Sample) -> str:
    """The line of a sample, with a newline. Raises ValueError if `read_samples` would refuse it."""
    values = {name: getattr(sample, name) for name in _NAMES}  # asdict() copies each value, which takes longer
    line = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    _sample(line)
    return line + "\n"


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Write a new file of answers. Raises FileExistsError if it exists."""
    with path.open("x", encoding="utf-8", newline="\n") as file:
        file.writelines(map(dump, samples))
        file.flush()
        os.fsync(file.fileno())


def read_conditions(path: Path) -> Conditions | None:
    """Read conditions.json; None if it does not exist. Raises ComparisonRefused if it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Conditions(**content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ComparisonRefused(f"{path} is damaged", why=str(error)) from None


class SampleWriter:
    """Append answers to a file, which may be left from a killed run.

    A truncated last line is removed when the file is opened; `done` holds the keys of the existing answers. Raises Busy
    if another process writes the file, ValueError for a duplicate answer. Each answer reaches the kernel before `write`
    returns: answers since the last `sync` can be lost in a power failure, but not with the process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._lock()
            self._drop_truncated_line()
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

    def _drop_truncated_line(self) -> None:
        content = self.path.read_bytes()
        complete = content.rfind(b"\n") + 1
        if complete != len(content):
            os.ftruncate(self._fd, complete)

    def write(self, sample: Sample) -> None:
        if sample.key in self.done:
            raise ValueError("duplicate answer: {}/{}/{} repeat {}".format(*sample.key))
        line = dump(sample).encode()
        start = os.lseek(self._fd, 0, os.SEEK_END)
        try:
            written = os.write(self._fd, line)
            if written != len(line):  # a full disk accepts a part
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
