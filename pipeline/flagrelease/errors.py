"""Errors that stop a release, with an exit code each.

FlagreleaseError                 1    unexpected; also the base of all below
├── ConfigError                  2    the command line, matrix.yaml or matrix.lock is wrong
│   └── ComparisonRefused        2    two answer sets that must not be compared
├── NothingSelected              3    the selection or the exclusions leave no cell
├── GateFailed                   4    the release does not pass
│   └── SmokeFailed              4    the served image fails a check
│       ├── NeverReady           4    the server did not answer before its deadline
│       ├── DiedBeforeReady      4    its process ended before the first answer
│       └── DiedLater            4    its process ended after it was ready
├── Inconclusive                 5    the evidence does not suffice for a verdict
├── EnvironmentFault             6    this machine lacks something: docker, disk, port, chip
│   ├── DockerUnavailable        6
│   ├── RegistryUnavailable      6    no answer, or a faulty one
│   ├── NoSpace                  6
│   ├── PortInUse                6
│   └── CommandFailed            6    a program exited with an error
├── UpstreamRefused              7    a hub or registry refused, or sent something unexpected
│   ├── RegistryDenied           7    401 or 403
│   ├── HubUnavailable           7    retriable: no answer, 5xx, 429
│   ├── HubRefused           7    denied, or an unsafe listing
│   │   └── HubAbsent        7    no such repository, revision or file
│   └── Corrupt              7    bytes that do not match their sha256
├── Busy                         75   another run holds the cell or the host
└── Interrupted                  130  Ctrl-C, SIGTERM or SIGHUP

Each error carries what failed (`str(error)`), why (`why`) and what to do next (`hint`). `retriable` marks
transient errors: the ports retry them within their own budget; no other layer retries.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from flagrelease.redact import redact

__all__ = [
    "REPORT",
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
    "HubAbsent",
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
    "also",
    "crash_report",
    "did_you_mean",
    "error_words",
    "worst",
]


class FlagreleaseError(Exception):
    """Base of all errors that are shown to the user.

    `what` is one line that names what failed; `why` is the cause as reported; `hint` says what to do next; `detail`
    holds longer material, such as the last log lines, which is shown below.
    """

    exit_code = 1
    """Of the process."""
    retriable = False
    """Whether the error is transient."""
    after: float | None = None
    """Seconds to wait before the next attempt, as requested by the other side (Retry-After)."""

    def __init__(self, what: str, *, why: str = "", hint: str = "", detail: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint
        self.detail = detail

    def line(self) -> str:
        """The error in one line: what failed and why."""
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


class HubAbsent(HubRefused):
    pass


class Corrupt(UpstreamRefused):
    pass


class Busy(FlagreleaseError):
    exit_code = 75


class Interrupted(FlagreleaseError):
    exit_code = 130


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint with the closest known name, or the names that start with `name`, or else all known names."""
    names = sorted(set(known))
    completions = [known for known in names if name and known.startswith(name)]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6) or completions
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    return f"known: {', '.join(names)}" if names else "nothing is defined there"


def also(first: str, then: str) -> str:
    """Two hints in one line."""
    return f"{first} {then[:1].upper()}{then[1:]}" if first.endswith(("?", ".")) else f"{first}; {then}"


REPORT = "this is a bug in flagrelease: report it with all lines above, in which known secrets are replaced"
"""The hint of an unexpected error."""


def crash_report(error: BaseException) -> str:
    """What a report of a defect needs: versions, the command and the traceback. It is redacted where it is shown."""
    import platform  # slow to import, and needed for defects only
    import shlex
    import sys
    import traceback

    from flagrelease import __version__

    versions = f"flagrelease {__version__}, Python {platform.python_version()}, {platform.platform()}"
    command = shlex.join(["flagrelease", *sys.argv[1:]])
    return f"{versions}\n{command}\n{''.join(traceback.format_exception(error))}"


# Least severe first. 4 and 5 are verdicts on the product: any error that prevented a verdict outranks them.
_SEVERITY = (0, 5, 4, 3, 75, 6, 7, 2, 1, 130)


def worst(codes: Iterable[int]) -> int:
    """The exit code of a run over several cells: the most severe one."""
    return max(codes, key=lambda code: _SEVERITY.index(code) if code in _SEVERITY else len(_SEVERITY), default=0)


_SAID = ("error", "errors", "detail", "message", "error_msg", "msg")


def error_words(body: Any, *, depth: int = 3) -> str:
    """What a server says in an error: OpenAI's and vLLM's `error`, FastAPI's `detail`, or a message alone; at most 200
    characters on one line, redacted before they are cut, empty if it says nothing."""
    if isinstance(body, list) and body:
        body = body[0]
    if isinstance(body, str):
        return redact(" ".join(body[:2000].split()))[:200].encode("utf-8", "replace").decode()
    if not isinstance(body, dict) or depth == 0:
        return ""
    said = (error_words(body[name], depth=depth - 1) for name in _SAID if name in body)
    return next(filter(None, said), "")
