"""`samples.jsonl`: one line for each answer, the raw material of every score.

An answer is named by (benchmark, subset, question_id, repeat) and exists once. Where questions share a story
or a template, the part of `question_id` before `#` names it: their errors are then taken as dependent.
"""

from __future__ import annotations

import errno
import gc
import json
import json.scanner
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, cast

from flagrelease.errors import ComparisonRefused

__all__ = ["SAMPLES", "Key", "Sample", "SampleWriter", "dump", "read_samples", "write_samples"]

SAMPLES = "samples.jsonl"

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


_FIELDS = frozenset(Sample.__dataclass_fields__)
_HEX = frozenset("0123456789abcdef")


def _is_text(value: Any) -> bool:
    return type(value) is str


def _is_name(value: Any) -> bool:
    return type(value) is str and value != ""


def _is_digest(value: Any) -> bool:
    return type(value) is str and len(value) == 64 and _HEX.issuperset(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_score(value: Any) -> bool:
    return type(value) is bool or (type(value) in (int, float) and 0 <= value <= 1)


def _is_text_or_null(value: Any) -> bool:
    return value is None or type(value) is str


def _is_count_or_null(value: Any) -> bool:
    return value is None or (type(value) is int and value >= 0)


def _is_seconds_or_null(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 <= value < math.inf)


_CHECKS = (
    ("benchmark", _is_name, "a name"),
    ("subset", _is_text, "text"),
    ("question_id", _is_name, "a name"),
    ("prompt_sha256", _is_digest, "64 hexadecimal digits"),
    ("repeat", _is_count, "a whole number from 0"),
    ("correct", _is_score, "true, false or a number in [0, 1]"),
    ("answer", _is_text_or_null, "text or null"),
    ("finish_reason", _is_text_or_null, "text or null"),
    ("completion_tokens", _is_count_or_null, "a whole number from 0, or null"),
    ("latency_s", _is_seconds_or_null, "a finite number of seconds, or null"),
    ("error", _is_text_or_null, "text or null"),
)


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that can be scored")


_scan: Callable[[str, int], tuple[Any, int]] = cast(Any, json.scanner.make_scanner)(
    json.JSONDecoder(parse_constant=_constant)
)


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
            record, end = _scan(line, 0)
            if end != len(line):
                raise ValueError("more than one JSON value on the line")
            sample = _sample(record)
        except StopIteration:
            raise ComparisonRefused(f"{path}:{number}: not JSON", why="the line is empty or cut") from None
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


def _sample(record: Any) -> Sample:
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    if record.keys() != _FIELDS:
        if missing := sorted(_FIELDS - record.keys()):
            raise ValueError(f"without {', '.join(missing)}")
        raise ValueError(f"unknown field {', '.join(sorted(record.keys() - _FIELDS))}")
    for name, holds, wanted in _CHECKS:
        if not holds(record[name]):
            raise ValueError(f"{name} has to be {wanted}, not {record[name]!r}")
    if record["error"] is not None and record["correct"]:
        raise ValueError(f"scored {record['correct']!r} although it failed with {record['error']!r}")
    return Sample(**record)


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
    record = asdict(sample)
    _sample(record)
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Write a new file of answers at once. Raises FileExistsError rather than replace one."""
    with path.open("x", encoding="utf-8", newline="\n") as file:
        file.writelines(map(dump, samples))
        file.flush()
        os.fsync(file.fileno())


class SampleWriter:
    """Appends answers to a file that may have been left behind by a killed run.

    A line cut in half at the end is removed on opening; `done` names the answers that are there already, and
    an answer that is there is never written again (ValueError). Each answer reaches the kernel before `write`
    returns, so that only a loss of power, not of the process, can take the last ones since `sync`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._drop_cut_line()
            self.samples = read_samples(path)
        except BaseException:
            os.close(self._fd)
            raise
        self.done: set[Key] = {sample.key for sample in self.samples}

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
