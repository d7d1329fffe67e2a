"""`flagrelease completion SHELL`: print a completion script, made from the parser."""

from __future__ import annotations

import argparse
import shlex
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flagrelease.errors import FlagreleaseError

SHELLS = ("bash", "zsh", "fish")
CELLS = "cells"
"""In place of a shell: print the names that complete CHIP/MODEL. The scripts call it."""


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A flag of a verb."""

    name: str
    """With its dashes."""
    help: str
    takes: str
    """What follows it: `words`, `file`, `text`; empty if nothing does."""
    words: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Verb:
    """What completes after a verb."""

    name: str
    help: str
    flags: tuple[Flag, ...]
    words: tuple[str, ...]
    """Values of its positional arguments."""
    cells: bool
    """Whether one of them names a cell."""


def main(arguments: argparse.Namespace) -> int:
    if arguments.shell == CELLS:
        print("\n".join(cells(arguments.matrix)))
        return 0
    print({"bash": _bash, "zsh": _zsh, "fish": _fish}[arguments.shell](verbs(arguments.parser)))
    return 0


def cells(matrix: Path) -> list[str]:
    """The cells of the matrix that are not excluded; none if it cannot be read: a completion has no errors."""
    from flagrelease.config import matrix as matrices
    from flagrelease.config.cell import expand

    with suppress(FlagreleaseError, OSError):
        return [cell.id for cell in expand(matrices.load(matrix)) if not cell.excluded]
    return []


def verbs(parser: argparse.ArgumentParser) -> tuple[Verb, ...]:
    """The verbs of the command line, with the flags and values that argparse knows."""
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    helps = {action.dest: action.help or "" for action in commands._choices_actions}
    return tuple(_verb(name, helps.get(name, ""), made) for name, made in commands.choices.items())


def _verb(name: str, text: str, parser: argparse.ArgumentParser) -> Verb:
    flags: list[Flag] = []
    words: list[str] = []
    takes_cells = False
    for action in parser._actions:
        choices = tuple(map(str, action.choices or ())) or _listed(action)
        if action.option_strings:
            takes = "" if action.nargs == 0 else "words" if choices else "file" if action.type is Path else "text"
            long = max(action.option_strings, key=len)
            flags.append(Flag(name=long, help=action.help or "", takes=takes, words=choices))
        else:
            words += choices
            takes_cells |= action.metavar == "CHIP/MODEL"
    return Verb(name=name, help=text, flags=tuple(flags), words=tuple(words), cells=takes_cells)


def _listed(action: argparse.Action) -> tuple[str, ...]:
    """Values that the parser does not check itself: those in a metavar such as {prefect,inline}, and the stages."""
    if isinstance(action.metavar, str) and action.metavar.startswith("{"):
        return tuple(action.metavar.strip("{}").split(","))
    if action.metavar == "STAGE":
        from flagrelease.stages import STAGES

        return tuple(stage.name for stage in STAGES)
    return ()


_BASH = """\
# flagrelease completion for bash
_flagrelease() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" verb="${{COMP_WORDS[1]}}"
  local words="" cells=0
  COMPREPLY=()
  if [[ $COMP_CWORD -eq 1 ]]; then
    COMPREPLY=($(compgen -W {top} -- "$word"))
    return
  fi
  case "$verb:$before" in
{values}
    {files}) COMPREPLY=($(compgen -f -- "$word")); return ;;
    {texts}) return ;;
  esac
  if [[ -z $words ]]; then case "$verb" in
{words}
  esac; fi
  if [[ $cells -eq 1 && $word != -* ]]; then
    words="$words $("${{COMP_WORDS[0]}}" completion {cells} 2>/dev/null)"
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o bashdefault -o default -F _flagrelease flagrelease"""


def _bash(known: tuple[Verb, ...]) -> str:
    values, words = [], []
    for verb in known:
        listed = shlex.quote(" ".join([*verb.words, *(flag.name for flag in verb.flags)]))
        words.append(f"    {verb.name}) words={listed}; cells={int(verb.cells)} ;;")
        values += [
            f"    {verb.name}:{f.name}) words={shlex.quote(' '.join(f.words))} ;;" for f in verb.flags if f.words
        ]

    def taking(what: str) -> str:
        names = sorted({flag.name for verb in known for flag in verb.flags if flag.takes == what})
        return "|".join(f"*:{name}" for name in names)

    return _BASH.format(
        top=shlex.quote(" ".join([*(verb.name for verb in known), "--help", "--version"])),
        values="\n".join(values),
        files=taking("file"),
        texts=taking("text"),
        words="\n".join(words),
        cells=CELLS,
    )


def _zsh(known: tuple[Verb, ...]) -> str:
    """zsh runs the completion of bash."""
    return "#compdef flagrelease\nautoload -U +X bashcompinit && bashcompinit\n" + _bash(known)


def _fish(known: tuple[Verb, ...]) -> str:
    names = " ".join(verb.name for verb in known)
    lines = ["# flagrelease completion for fish", "complete -c flagrelease -f"]
    for verb in known:
        lines.append(
            f"complete -c flagrelease -n 'not __fish_seen_subcommand_from {names}' -a {verb.name} "
            f"-d {_quoted(verb.help)}"
        )
        here = f"complete -c flagrelease -n '__fish_seen_subcommand_from {verb.name}'"
        if verb.cells:
            lines.append(f"{here} -a '(flagrelease completion {CELLS} 2>/dev/null)'")
        if verb.words:
            lines.append(f"{here} -a {_quoted(' '.join(verb.words))}")
        for flag in verb.flags:
            takes = {"": "", "file": " -r -F", "text": " -x", "words": f" -x -a {_quoted(' '.join(flag.words))}"}
            lines.append(f"{here} -l {flag.name.lstrip('-')}{takes[flag.takes]} -d {_quoted(flag.help)}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """A string of fish, in which only ' and \\ are special."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
