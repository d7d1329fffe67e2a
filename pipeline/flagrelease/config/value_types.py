"""Types of values in matrix.yaml, with their ranges and forms. What the card or a tag needs is checked here."""

from __future__ import annotations

import math
import re
from datetime import date
from typing import Annotated

from flagrelease.config.strict_yaml import Checked, at_least, between, matching
from flagrelease.errors import ConfigError

Count = Annotated[int, at_least(1)]
Seconds = Annotated[float, between(0, math.inf, without=(0,))]

Margin = Annotated[
    float,
    between(
        0,
        0.5,
        without=(0, 0.5),
        why="a margin is a fraction: 0.05 is 5 percentage points; a model that is worse by half is not equivalent",
    ),
]
"""A non-inferiority margin. The range excludes percentages, and margins that any model passes."""

BenchmarkTitle = Annotated[
    str,
    matching(
        r"[\w.+-]+",
        "a title of a benchmark",
        "the card names the metric TITLE_<n>fewshot_@avg<k>, so a title consists of letters, digits and . _ + -",
    ),
]
Line = Annotated[
    str,
    matching(
        r"[^\s\x00-\x1f\x7f-\x9f](?:[^\x00-\x1f\x7f-\x9f\u2028\u2029]*[^\s\x00-\x1f\x7f-\x9f\u2028\u2029])?",
        "a line of text",
        "the card shows it; write it on one line, not empty, without control characters",
    ),
]

_FOLDER_NAME = re.compile(r"(?![-.])(?!.*\.\.)[^\s/:](?:[^/:]*[^\s/:])?")
_LONGEST_TITLE = 200
"""Bytes of a title. A file system takes 255 for a name, and the folders add endings to the title."""


def _check_model_title(value: str) -> None:
    # The title names a folder, which the card's commands create and mount: `docker run --volume` splits at colons.
    if not (_FOLDER_NAME.fullmatch(value) and value.isprintable() and len(value.encode()) <= _LONGEST_TITLE):
        raise ConfigError(
            f"{value!r} is not a title of a model",
            hint="it also names the folder of the weights; write no / or : or .., no control character, "
            f"no leading dot or -, no blank at an end, and at most {_LONGEST_TITLE} bytes",
        )


ModelTitle = Annotated[str, Checked(_check_model_title)]
Text = Annotated[str, matching(r"(?s).*\S.*", "a text", "it is empty")]
Upstream = Annotated[str, matching(r"[\w.-]+/[\w.-]+", "the name of a model", "the card links it; write ORG/NAME")]
LicenseId = Annotated[
    str,
    matching(
        r"[a-z0-9]+([.-][a-z0-9]+)*(\+\+)?",
        "a licence identifier",
        "hubs know licences by lower-case identifiers, such as apache-2.0, mit or llama3.1",
    ),
]


def _check_date(value: str) -> None:
    try:
        date.fromisoformat(value)
    except ValueError:
        raise ConfigError(f"{value!r} is not a date", hint='write YYYY-MM-DD in quotes, such as "2026-12-31"') from None


Date = Annotated[str, Checked(_check_date)]
"""A day, in UTC."""
Language = Annotated[str, matching(r"[a-z]{2,3}", "an ISO 639 code", "hubs know languages by codes such as en and zh")]
PublicKey = Annotated[
    str,
    matching(
        r"(?s)(-----BEGIN PUBLIC KEY-----\n.+\n-----END PUBLIC KEY-----\s*)?",
        "a public key",
        "write `signed_by: |` and the PEM text below it, as `openssl pkey -in PRIVATE -pubout` prints it",
    ),
]
ServeName = Annotated[str, matching(r"\w[\w.-]*", "a name", "write letters, digits and . _ -")]
Version = Annotated[
    str,
    matching(r"[\w.+-]+", "a version", "it becomes part of the release's tag; write a version such as 0.8.0, or none"),
]
Size = Annotated[str, matching(r"([0-9]+[bkmgt]?b?)?", "a size", "write a number and a unit, such as 32gb")]
Python = Annotated[str, matching(r"3\.[0-9]+", "a Python version", 'write MAJOR.MINOR, such as "3.12"')]
Reference = Annotated[
    str,
    matching(
        r"[\w.-]+(:[0-9]+)?(/[\w.-]+)*(:[\w.-]+)?",
        "an image reference",
        "write [HOST[:PORT]/]NAME[:TAG]; matrix.lock has the digest",
    ),
]
