"""Split the shell code of a card into commands, and read `docker run` lines. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from flagrelease.recipe import user_commands

_HEREDOC = re.compile(r"<<-?\s*'?\"?(\w+)")
_SEPARATORS = frozenset({"&&", "||", ";", "|", "&", "(", ")"})
_SWITCHES = frozenset(
    {
        *("--detach", "--init", "--interactive", "--privileged", "--publish-all", "--quiet", "--read-only", "--rm"),
        *("--tty", "--no-healthcheck", "--oom-kill-disable"),
    }
)
"""Options of `docker run` without a value."""
_SHORT_SWITCHES = re.compile(r"-[ditPq]+")


@dataclass(frozen=True)
class Command:
    """One simple command."""

    line: int
    """Line of the card on which it starts, from 1."""
    argv: tuple[str, ...]
    """Its words."""


@dataclass(frozen=True, kw_only=True)
class DockerRun:
    """A `docker run` command."""

    image: str
    """The image reference; empty if there is none."""
    command: tuple[str, ...]
    """What the container runs; empty for the image's own command."""
    mounts: Mapping[str, str]
    """Host folder by container folder."""


def commands(code: str, first: int) -> Iterator[Command]:
    """The commands of shell code whose first line is line `first` of the card. Raises ValueError at an open quote."""
    rest = list(enumerate(code.split("\n"), first))
    while rest:
        line, text = rest.pop(0)
        while rest and (text.endswith("\\") or _open_quote(text)):
            text = f"{text[:-1]} " if text.endswith("\\") else f"{text}\n"
            text += rest.pop(0)[1]
        if heredoc := _HEREDOC.search(text):
            while rest and rest.pop(0)[1].strip() != heredoc.group(1):
                pass
        lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        argv: list[str] = []
        for word in [*lexer, ";"]:
            if word not in _SEPARATORS:
                argv.append(word)
            elif argv:
                yield Command(line, tuple(argv))
                argv = []


def docker_run(argv: Sequence[str]) -> DockerRun | None:
    """What a `docker run` command line starts; None for another command."""
    if tuple(argv[:2]) not in (("docker", "run"), ("nerdctl", "run"), ("podman", "run")):
        return None
    at = 2
    while at < len(argv) and argv[at].startswith("-"):
        alone = "=" in argv[at] or argv[at] in _SWITCHES or _SHORT_SWITCHES.fullmatch(argv[at]) is not None
        at += 1 if alone else 2
    return DockerRun(
        image="".join(argv[at : at + 1]), command=tuple(argv[at + 1 :]), mounts=user_commands.mounts(argv[:at])
    )


def option(argv: Sequence[str], *names: str) -> str:
    """The value of the first of these options; empty without one."""
    for at, word in enumerate(argv):
        name, joined, value = word.partition("=")
        if name in names:
            return value if joined else "".join(argv[at + 1 : at + 2])
    return ""


def _open_quote(text: str) -> bool:
    try:
        shlex.split(text, comments=True)
    except ValueError as error:
        return "quotation" in str(error)
    return False
