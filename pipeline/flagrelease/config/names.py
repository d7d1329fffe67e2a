"""Names of published things, by templates of matrix.yaml. Pure."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping

from flagrelease.config.chip import Chip
from flagrelease.errors import ConfigError, did_you_mean

REPOSITORY = "{model}-{chip}"
"""The name of a cell's image in the registry of the releases."""
SHORT = "flagrelease_{vendor}_{model_}"
"""The name of an image as FlagRelease's cards have it."""
LONG = (
    "flagrelease-{vendor}-release-model_{model}-tree_{tree}-gems_{gems}-scale_{scale}-cx_{cx}-python_{python}"
    "-torch_{torch}-pcp_{sdk}-gpu_{gpu}-arc_{arch}-driver_{driver}"
)
"""The name of an image with the versions of everything in it."""
HUB = "{Model}-{Vendor}-FlagOS"
"""The name of a repository on a model hub."""

OF_THE_CELL = ("chip", "vendor", "Vendor", "model", "model_", "Model", "gpu", "tree", "gems", "scale", "cx")
"""Fields that are known before anything runs."""
OF_THE_RELEASE = ("tag", "record", "python", "torch", "sdk", "arch", "driver")
"""Fields that only a finished release has."""
# No field holds the time: the same release has the same name, whenever and wherever it is published.
FIELDS = (*OF_THE_CELL, *OF_THE_RELEASE)

_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")


def check(template: str, known: Iterable[str] = FIELDS) -> None:
    """Raise ConfigError for a field that is not known, and for anything but plain `{field}`."""
    known = tuple(known)
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(f"{template!r} is not a template of a name", why=str(error), hint=_HINT) from None
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        if spec or conversion or not name.isidentifier():
            raise ConfigError(f"{template!r} is not a template of a name", why=f"it has {{{name}}}", hint=_HINT)
        if name not in known:
            later = name in FIELDS
            why = "which is known only after the image has been built" if later else "which is not a field"
            raise ConfigError(f"{template!r} has {{{name}}}, {why}", hint=did_you_mean(name, known))


def check_repository(template: str) -> None:
    """Raise ConfigError unless `template` can name the image before it is built."""
    check(template, OF_THE_CELL)


def render(template: str, facts: Mapping[str, str]) -> str:
    """The name; `facts` has every field that the template uses."""
    return template.format_map(facts)


def of_cell(chip_name: str, chip: Chip, model_name: str, title: str) -> dict[str, str]:
    """The fields of OF_THE_CELL."""
    parts = chip.components
    return {
        "chip": chip_name,
        "vendor": chip.vendor,
        "Vendor": chip.vendor[:1].upper() + chip.vendor[1:],
        "model": model_name,
        "model_": re.sub(r"[^a-z0-9]+", "_", model_name.lower()),
        "Model": title,
        "gpu": chip.device.code,
        "tree": parts.flagtree,
        "gems": parts.flaggems,
        "scale": parts.flagscale,
        "cx": parts.flagcx,
    }


def repository(name: str) -> str:
    """`name` as the name of an image: lower case, and single separators. Raises ConfigError if nothing is left."""
    made = "/".join(_component(part) for part in name.split("/"))
    if not all(_COMPONENT.fullmatch(part) for part in made.split("/")):
        raise ConfigError(
            f"{name!r} cannot name an image",
            why="a part of it has no letter or digit",
            hint="fix the template of the name in matrix.yaml",
        )
    return made


def hub(name: str) -> str:
    """`name` as the name of a repository on a hub: letters, digits and `. _ -`, at most 96 characters, as Hugging Face
    has it. Raises ConfigError if it is longer."""
    made = re.sub(r"-{2,}|\.{2,}", lambda run: run.group()[0], re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII))
    made = made.strip("-.")
    if not made or len(made) > 96:
        raise ConfigError(
            f"{name!r} cannot name a repository on a hub",
            why="a name has 1 to 96 letters, digits and . _ -",
            hint="fix the template of the name in matrix.yaml",
        )
    return made


def _component(part: str) -> str:
    allowed = re.sub(r"[^a-z0-9._-]+", "-", part.lower().replace("+", "."))
    single = re.sub(r"[._-]{2,}", lambda run: "-" if "-" in run.group() else run.group()[0], allowed)
    return single.strip("._-")


_HINT = f"write a name with fields such as {SHORT}; the fields are {', '.join(FIELDS)}"
