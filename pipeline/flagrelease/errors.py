"""Everything that can stop a release, one exit code each.

FlagreleaseError                 1    unexpected; also the base of all below
├── ConfigError                  2    the command line, matrix.yaml or matrix.lock is wrong
│   └── ComparisonRefused        2    two answer sets that must not be compared
├── NothingSelected              3    the selection or the exclusions leave no cell
├── GateFailed                   4    the evidence says no
│   └── SmokeFailed              4    the served image does not do what it must
│       ├── NeverReady           4    it ran, and did not answer before its deadline
│       ├── DiedBeforeReady      4    its process ended before it answered once
│       └── DiedLater            4    it was ready, and then ended
├── Inconclusive                 5    the evidence does not decide
├── EnvironmentFault             6    this machine lacks something: docker, disk, port, chip
│   ├── DockerUnavailable        6
│   ├── RegistryUnavailable      6    nothing answers, or what answers is broken
│   ├── NoSpace                  6
│   ├── PortInUse                6
│   └── CommandFailed            6    a program that we ran ended with an error
├── UpstreamRefused              7    a hub or a registry said no, or sent what was not promised
│   ├── RegistryDenied           7    401 or 403
│   ├── HubUnavailable           7    retriable: no answer, 5xx, 429
│   ├── HubRefused               7    not found, denied, a listing that must not be followed
│   └── Corrupt                  7    bytes that do not match their sha256, twice
├── Busy                         75   another run holds the cell or the host
└── Interrupted                  130  Ctrl-C or SIGTERM

Each carries what failed (`str(error)`), why (`why`) and what to do next (`hint`). `retriable` marks what
may go away by itself; the ports retry those within their own budget, nobody else retries.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "Busy",
    "CommandFailed",
    "ComparisonRefused",
    "ConfigError",
    "Corrupt",
    "DiedBeforeReady",
    "DiedLater",
    "DockerUnavailable",
    "EnvironmentFault",
    "FlagreleaseError",
    "GateFailed",
    "HubRefused",
    "HubUnavailable",
    "Inconclusive",
    "Interrupted",
    "NeverReady",
    "NoSpace",
    "NothingSelected",
    "PortInUse",
    "RegistryDenied",
    "RegistryUnavailable",
    "SmokeFailed",
    "UpstreamRefused",
    "did_you_mean",
    "worst",
]


class FlagreleaseError(Exception):
    """Base of all errors that a user is meant to read.

    `what` is one line and names the thing that failed; `why` is the cause as it was reported;
    `hint` says what to do next; `detail` holds longer material (the last log lines) that is shown below.
    """

    exit_code = 1
    retriable = False
    after: float | None = None
    """Seconds to wait before another attempt, where the other side said so (Retry-After)."""

    def __init__(self, what: str, *, why: str = "", hint: str = "", detail: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint
        self.detail = detail

    def line(self) -> str:
        """The error in one line: what failed, and why."""
        return f"{self.what}: {self.why}" if self.why else self.what


class ConfigError(FlagreleaseError):
    exit_code = 2


class ComparisonRefused(ConfigError):
    pass


class NothingSelected(FlagreleaseError):
    exit_code = 3


class GateFailed(FlagreleaseError):
    exit_code = 4


class SmokeFailed(GateFailed):
    pass


class NeverReady(SmokeFailed):
    pass


class DiedBeforeReady(SmokeFailed):
    pass


class DiedLater(SmokeFailed):
    pass


class Inconclusive(FlagreleaseError):
    exit_code = 5


class EnvironmentFault(FlagreleaseError):
    exit_code = 6


class DockerUnavailable(EnvironmentFault):
    pass


class RegistryUnavailable(EnvironmentFault):
    retriable = True


class NoSpace(EnvironmentFault):
    pass


class PortInUse(EnvironmentFault):
    pass


class CommandFailed(EnvironmentFault):
    pass


class UpstreamRefused(FlagreleaseError):
    exit_code = 7


class RegistryDenied(UpstreamRefused):
    pass


class HubUnavailable(UpstreamRefused):
    retriable = True


class HubRefused(UpstreamRefused):
    pass


class Corrupt(UpstreamRefused):
    pass


class Busy(FlagreleaseError):
    exit_code = 75


class Interrupted(FlagreleaseError):
    exit_code = 130


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint that names the closest known spelling, or those that begin so, or lists what is known."""
    names = sorted(set(known))
    begun = [known for known in names if name and known.startswith(name)]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6) or begun
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    return f"known: {', '.join(names)}" if names else "nothing is defined there"


# 4 and 5 are verdicts about the product, so they lose to anything that kept us from reaching one.
_SEVERITY = (0, 5, 4, 3, 75, 6, 7, 2, 1, 130)


def worst(codes: Iterable[int]) -> int:
    """The exit code that a run over several cells ends with."""
    return max(codes, key=lambda code: _SEVERITY.index(code) if code in _SEVERITY else len(_SEVERITY), default=0)
