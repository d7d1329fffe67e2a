"""Read in a base image which components it brings, and compare them with what matrix.yaml expects of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from flagrelease.config.chip import Chip
from flagrelease.config.lockfile import Brought
from flagrelease.errors import EnvironmentFault

if TYPE_CHECKING:
    from flagrelease.ports.container_runner import Runner

TITLES: Mapping[str, str] = {
    "flagscale": "FlagScale",
    "flaggems": "FlagGems",
    "flagtree": "FlagTree",
    "flagcx": "FlagCX",
    "triton": "Triton",
    "torch": "PyTorch",
    "vllm": "vLLM",
    "sglang": "SGLang",
    "plugin": "vllm-plugin-FL",
}
"""What is looked for, by its name here."""

PROGRAM = r"""
import importlib.metadata as metadata, importlib.util, json, os, pathlib, re
wanted = {"flagscale": ["flag-scale", "flagscale"], "flaggems": ["flag-gems"], "flagtree": ["flagtree"],
          "flagcx": ["flagcx"], "triton": ["triton", "triton-ascend", "pytorch-triton"], "torch": ["torch"],
          "vllm": ["vllm"], "sglang": ["sglang"], "plugin": ["vllm-plugin-fl", "vllm-fl"]}
modules = {"flagscale": "flagscale", "flaggems": "flag_gems", "flagcx": "flagcx", "plugin": "vllm_fl"}
installed, found = {}, {}
for each in metadata.distributions():
    name = each.metadata["Name"]
    if name:
        installed.setdefault(re.sub(r"[-_.]+", "-", name).lower(), each)
for component, names in wanted.items():
    each = next((installed[name] for name in names if name in installed), None)
    if each is not None:
        origin = json.loads(each.read_text("direct_url.json") or "{}")
        commit = origin.get("vcs_info", {}).get("commit_id", "")
        url = re.sub("//[^/@]*@", "//", origin.get("url", ""))
        found[component] = {"version": each.version, "source": f"{url}@{commit}" if commit else url,
                            "place": str(each.locate_file(""))}
        continue
    try:
        spec = importlib.util.find_spec(modules[component]) if component in modules else None
    except Exception:
        spec = None
    if spec is not None and spec.origin:
        text = pathlib.Path(spec.origin).read_text(errors="replace")
        version = re.search(r"^__version__\s*=\s*[\"']([^\"']+)", text, re.MULTILINE)
        found[component] = {"version": version[1] if version else "", "source": "",
                            "place": str(pathlib.Path(spec.origin).parents[1])}
if "flagcx" not in found and os.path.isdir(os.environ.get("FLAGCX_PATH") or ""):
    found["flagcx"] = {"version": "", "source": "", "place": os.environ["FLAGCX_PATH"]}
print(json.dumps(found))
"""
"""Prints what is found, by component. Nothing is imported: FlagGems and engines ask for the chip when they are."""


def read(output: Callable[[list[str]], str]) -> dict[str, Brought]:
    """What the base image brings; `output` runs a program in it and returns what it prints."""
    printed = output(["python3", "-c", PROGRAM])
    return msgspec.json.decode(printed.strip().splitlines()[-1], type=dict[str, Brought])


def in_image(runner: Runner, image: str, labels: Mapping[str, str]) -> dict[str, Brought]:
    """The same in a throw-away container of `image`, without network."""
    return read(lambda argv: runner.output(image, argv, labels))


def check(chip_name: str, chip: Chip, found: Mapping[str, Brought]) -> None:
    """Raise EnvironmentFault if the base image lacks a component that it should bring, brings it in another version, or
    has both FlagTree and Triton, which are one Python package."""
    if "flagtree" in found and "triton" in found:
        raise EnvironmentFault(
            f"the base image of {chip_name} has FlagTree and Triton",
            why=f"FlagTree {found['flagtree'].version} and Triton {found['triton'].version} are both the Python "
            "package `triton`, so that either may be imported",
            hint="remove one of them from the base image: `pip uninstall triton`, then install FlagTree again",
        )
    for name in chip.brought:
        wanted, has = getattr(chip.components, name), found.get(name)
        if has is None:
            raise EnvironmentFault(
                f"the base image of {chip_name} has no {TITLES[name]}",
                why=f"matrix.yaml expects it to bring version {wanted}",
                hint=f"check chips.{chip_name}.base, or take {name} out of chips.{chip_name}.from_base",
            )
        if has.version and not _same(has.version, wanted):
            raise EnvironmentFault(
                f"the base image of {chip_name} has {TITLES[name]} {has.version}",
                why=f"matrix.yaml says {wanted}",
                hint=f"write {has.version} under chips.{chip_name}.components, or choose another base image",
            )


def remarks(chip: Chip, found: Mapping[str, Brought]) -> tuple[str, ...]:
    """What the card says of components that were not installed for the release, in complete sentences."""
    said = []
    for name in chip.brought:
        has = found[name]
        version = has.version or f"{getattr(chip.components, name)} as matrix.yaml says, for it states none itself"
        source = f", from {has.source}" if has.source else ""
        said.append(f"{TITLES[name]} is that of the base image: version {version}{source}.")
    return tuple(said)


def _same(found: str, wanted: str) -> bool:
    """Whether a version is the wanted one: a local part (+metax3.7) counts only if it is asked for."""
    return found == wanted or ("+" not in wanted and found.partition("+")[0] == wanted)
