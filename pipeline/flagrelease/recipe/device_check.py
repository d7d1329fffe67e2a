"""Whether the accelerator that is here is the one that a release is for. Pure, and of the standard library only: images
have this file as well, for `docker run IMAGE doctor`."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GIB = 1024.0**3
UNITS: Mapping[str, float] = {"B": 1.0, "MiB": 1024.0**2, "GiB": GIB}
"""Bytes of the units in which tools report memory."""
MOST_BYTES = 65536
"""Of a tool's output, that are read."""
ENDLESS, HUNG = -1, -2
_ENDED = re.compile(r"(?:\A|\n)= (\d+)\s*\Z")
_KILLED = (124, 137, -9)
_MISSING = (126, 127)
_NUMBERS = re.compile(r"\d+(?:\.\d+)*")
_BOUND = re.compile(r"(>=|<=|==|<|>)\s*(\d+(?:\.\d+)*)")


@dataclass(frozen=True, kw_only=True)
class Patterns:
    """Regular expressions over the output of a vendor's tool; the first group of each is the value. None: the output is
    not known."""

    device: str | None
    """The name of a device; one match for each."""
    driver: str | None
    """The driver's version."""
    memory: str | None = None
    """The memory of a device; one match for each."""
    unit: str = "MiB"
    """Of the memory, a key of UNITS."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The devices that a release needs."""

    names: tuple[str, ...]
    """Globs of the name of each, as `named` compares them."""
    title: str
    """The accelerator's name for readers."""
    count: int = 1
    """The least number of them."""
    memory: float | None = None
    """The least memory of each, GiB; None: not compared."""
    driver: str = ""
    """Versions of the driver, as `in_range` compares them; empty: not compared."""

    def __str__(self) -> str:
        parts = [f"{self.count} × {self.title}" if self.count > 1 else self.title]
        parts += [f"at least {self.memory:g} GiB"] if self.memory is not None else []
        return ", ".join([*parts, *([f"driver {self.driver}"] if self.driver else [])])


@dataclass(frozen=True, kw_only=True)
class Found:
    """The devices that a vendor's tool reports."""

    names: tuple[str, ...]
    """One for each device."""
    memory: float | None = None
    """Of the device with the least, GiB; None if the tool does not report it."""
    driver: str = ""
    """The driver's version; empty if the tool does not report it."""

    def __str__(self) -> str:
        many = len(self.names) > 1
        kinds = [f"{self.names.count(name)} × {name}" for name in dict.fromkeys(self.names)]
        parts = [" and ".join(kinds) if many else "".join(self.names) or "no device"]
        if self.memory is not None:
            parts.append(f"{self.memory:.1f} GiB" + " each" * many)
        if self.driver:
            parts.append(f"driver {self.driver}")
        return ", ".join(parts)


def command(query: Sequence[str], seconds: float) -> list[str]:
    """The command that runs the vendor's tool. Whatever that prints, and however long it takes, the answer is short:
    its last line is the tool's exit code, which `answer` takes off."""
    bounded = f'{{ "$@" 2>&1; echo "= $?"; }} | head -c {MOST_BYTES}'
    return ["timeout", "-s", "KILL", f"{seconds:g}", "sh", "-c", bounded, "query", "env", "LC_ALL=C", *query]


def answer(code: int, printed: str) -> tuple[int, str]:
    """The tool's exit code and output, from those of `command`; ENDLESS for a tool that printed more than is read, HUNG
    for one that was stopped."""
    ended = _ENDED.search(printed)
    if ended is not None:
        return int(ended[1]), printed[: ended.start()]
    return (ENDLESS if code == 0 else HUNG if code in _KILLED else code), printed


def failure(code: int) -> str:
    """What is wrong with a tool that ended with `code`, after its name; empty for 0."""
    if code in _MISSING:
        return "is not in the container"
    said = {0: "", ENDLESS: "prints without end", HUNG: "does not end and was stopped"}
    return said.get(code, f"ended with {code}")


def read(patterns: Patterns, printed: str) -> Found:
    """The devices in the output of the vendor's tool."""
    memory = [float(value) * UNITS[patterns.unit] / GIB for value in _matches(patterns.memory, printed)]
    return Found(
        names=tuple(_matches(patterns.device, printed)),
        memory=min(memory, default=None),
        driver=next(iter(_matches(patterns.driver, printed)), ""),
    )


def _matches(pattern: str | None, printed: str) -> list[str]:
    found = re.finditer(pattern, printed, re.MULTILINE) if pattern else ()
    return [match.group(1).strip() for match in found]


def refusals(wanted: Wanted, found: Found) -> list[str]:
    """Why the devices that were found are not those that are wanted, a reason each; none if they are."""
    if not found.names:
        return ["no device was found"]
    fitting = [name for name in found.names if any(named(pattern, name) for pattern in wanted.names)]
    if not fitting:
        others = ", ".join(dict.fromkeys(found.names))
        return [f"the device here is {others}, the release is for {wanted.title} ({', '.join(wanted.names)})"]
    reasons = []
    if len(fitting) < wanted.count:
        reasons.append(f"{len(fitting)} × {wanted.title} here, the release needs {wanted.count}")
    if wanted.memory is not None and found.memory is not None and found.memory < wanted.memory:
        reasons.append(f"a device here has {found.memory:.1f} GiB of memory, the release needs {wanted.memory:g} GiB")
    if wanted.driver and found.driver and not in_range(wanted.driver, found.driver):
        reasons.append(f"the driver here is {found.driver}, the release needs {wanted.driver}")
    return reasons


def unproven(wanted: Wanted, found: Found) -> list[str]:
    """What is wanted and cannot be compared, because the tool did not report it."""
    lacking = [("memory", wanted.memory, found.memory), ("driver", wanted.driver, found.driver)]
    return [name for name, asked, told in lacking if asked and not told]


def named(pattern: str, name: str) -> bool:
    """Whether a device's name fits: `pattern` is a glob of the complete name or of its first words. Case counts not."""
    pattern, name = " ".join(pattern.lower().split()), " ".join(name.lower().split())
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern} *")


def bounds(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """The comparisons of a range such as `>=570, <600`. Raises ValueError."""
    made = []
    for part in text.split(","):
        match = _BOUND.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{part.strip()!r} is not a comparison such as >=570.86")
        made.append((match[1], _numbers(match[2])))
    return made


def in_range(text: str, version: str) -> bool:
    """Whether a version fits all comparisons of a range. Only its numbers up to the first other character count, and as
    many of them as the comparison has for `==`, so that 6.3.30-V1.4.1a is 6.3.30 and fits `==6.3`."""
    match = _NUMBERS.search(version)
    if match is None:
        return False
    here = _numbers(match[0])
    return all(_holds(here, operator, bound) for operator, bound in bounds(text))


def _holds(here: tuple[int, ...], operator: str, bound: tuple[int, ...]) -> bool:
    length = max(len(here), len(bound))
    left, right = here + (0,) * (length - len(here)), bound + (0,) * (length - len(bound))
    if operator == "==":
        return here[: len(bound)] == bound
    return {">=": left >= right, "<=": left <= right, ">": left > right, "<": left < right}[operator]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def from_json(document: Mapping[str, Any]) -> tuple[list[str], Patterns, Wanted]:
    """The tool's command, its patterns and what is wanted, as the manifest of an image has them."""
    wanted = {**document["wanted"], "names": tuple(document["wanted"]["names"])}
    return list(document["query"]), Patterns(**document["patterns"]), Wanted(**wanted)
