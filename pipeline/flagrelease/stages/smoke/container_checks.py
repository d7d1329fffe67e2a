"""What smoke finds out about the container itself, and the commands of the card, executed."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from flagrelease.config.cell import Cell
from flagrelease.contract import results
from flagrelease.recipe import container, user_commands
from flagrelease.serving.inside import EXEC_SECONDS, CheckFailed, Inside
from flagrelease.serving.server import layout_of
from flagrelease.stages.smoke.endpoint_checks import Skipped
from flagrelease.store.digests import sha256_of
from flagrelease.store.files import unfinished

_COMMAND_SECONDS = 600.0
_REPEATED_BYTES = 1_000_000_000
"""Weights up to this size are downloaded once more, to prove the card's command; larger ones would take hours."""

OFFLINE = "FLAGRELEASE_OFFLINE"
"""Set on machines that reach no hub: the card's download is then not tried."""


def flagscale_in_effect(at: Inside) -> str:
    """The engine must have been started by FlagScale, for a stack that promises it."""
    processes = [" ".join(line.split()) for line in at.server.running.processes()]
    through = next((line for line in processes if "flagscale/serve/run_inference_engine.py" in line), "")
    if not through:
        raise CheckFailed(f"no process of FlagScale among {processes}")
    root = layout_of(at.image, at.context.workspace).root  # of this machine, which is nobody's business
    return f"the engine runs under `{through.replace(root, '')[:80]}`"


def manifest_inside(at: Inside) -> str:
    """The image pulled by digest has the manifest that was built, and the versions that it names."""
    path = layout_of(at.image, at.context.workspace).manifest
    text = at.execute("cat", path)
    kept = next(one for one in at.image.evidence if one.name == "manifest.json")
    if sha256_of(text.encode()) != kept.sha256:
        raise CheckFailed(f"{path} is not the one that was built")
    built = next(one for one in at.image.evidence if one.name == "packages.json")
    expected, found = json.loads(at.context.evidence.read(built)), at.packages()
    moved = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
    if moved:
        seen = ", ".join(f"{name} {found.get(name)} instead of {expected.get(name)}" for name in sorted(moved))
        raise CheckFailed(f"versions are not those that were built: {seen}")
    return f"manifest sha256 {kept.sha256[:12]}, {len(found)} packages at their versions"


def card_run(cell: Cell, image: results.Image) -> container.ContainerRun:
    """The container as the card starts it, on a user's machine."""
    return container.for_serving(
        cell.chip, cell.model, image.reference, user_commands.model_dir(cell.model), cell.stack, container.Placement()
    )


def run_command(at: Inside) -> str:
    """The card's `docker run` line, with this machine's name, port and folder in it, must give this very container."""
    _needs_docker(at)
    name = f"{at.server.run.placement.name}-card"
    placed = replace(at.server.run, placement=replace(at.server.run.placement, name=name))
    shown = card_run(at.cell, at.image)
    if replace(shown, mounts=placed.mounts, placement=placed.placement, env=placed.env) != placed:
        raise CheckFailed(f"the card's line differs from ours in more than place: {shown.argv()} and {placed.argv()}")
    command = at.context.ports.command
    identity = command(["docker", "create", *placed.argv()[3:]], seconds=_COMMAND_SECONDS).stdout.strip()
    try:
        theirs = json.loads(command(["docker", "inspect", identity], seconds=EXEC_SECONDS).stdout)[0]
    finally:
        command(["docker", "rm", "--force", identity], seconds=EXEC_SECONDS)
    one, other = container.effective(theirs), container.effective(at.server.running.inspect())
    different = [key for key in one if one[key] != other[key]]
    if different:
        seen = "; ".join(f"{key}: {one[key]} by the line, {other[key]} in use" for key in different)
        raise CheckFailed(f"the command line gives another container than the one tested: {seen}")
    return f"{len(one)} settings of `docker inspect` are equal"


def commands(at: Inside) -> dict[str, str]:
    """The card's commands by name, those that `executed` runs."""
    model, port = at.cell.model, at.cell.model.serve.port
    pull = {"pull": user_commands.pull(at.image.reference)} if at.image.runner == "docker" else {}
    shown = {
        **pull,
        "wait": user_commands.wait(port),
        "chat": user_commands.chat(model),
        "python": user_commands.python(model),
    }
    if not _unrepeatable(at):
        shown = {
            "download": user_commands.download(model, at.weights.revision),
            "verify": user_commands.verify(model, at.weights.fetched),
            **shown,
        }
    return shown


def _unrepeatable(at: Inside) -> str:
    """Why the weights are not downloaded once more."""
    if os.environ.get(OFFLINE):
        return f"{OFFLINE} is set"
    size = sum(one.size for one in at.weights.fetched)
    return f"{size / 1e9:.0f} GB would be downloaded once more" if size > _REPEATED_BYTES else ""


def download_command(at: Inside) -> str:
    """Run the card's download and verify commands, in a folder of this machine instead of /nfs/models."""
    if reason := _unrepeatable(at):
        raise Skipped(reason)
    shown = commands(at)
    scratch = at.context.workspace.scratch(at.cell.slug, "smoke")
    with tempfile.TemporaryDirectory(dir=scratch, prefix=unfinished()) as folder:
        for name in ("download", "verify"):
            _shell(at, shown[name].replace(user_commands.source_dir(at.cell.model), f"{folder}/model"))
        got = [path for path in Path(folder, "model").rglob("*") if path.is_file()]
    size = sum(one.size for one in at.weights.fetched)
    return f"{len(got)} file{'s' * (len(got) != 1)}, {size / 1e6:.0f} MB, sha256 verified"


def pull_command(at: Inside) -> str:
    _needs_docker(at)
    _shell(at, commands(at)["pull"])
    return at.image.reference


def curl_commands(at: Inside) -> str:
    """Run the card's curl lines as they are, in the container, where the port is the card's port."""
    looked, _ = at.server.running.execute(["sh", "-c", "command -v curl"], seconds=EXEC_SECONDS)
    if looked and at.image.runner == "process":
        raise Skipped("this machine has no curl")
    shown = commands(at)
    there, here = f"localhost:{at.cell.model.serve.port}", f"localhost:{at.server.port_inside}"
    texts = [shown[name].replace(there, here) for name in ("wait", "chat")]
    at.execute("bash", "-c", texts[0])
    answer = json.loads(at.execute("bash", "-c", texts[1]))
    text = str(answer["choices"][0]["message"]["content"]).strip()
    if not text:
        raise CheckFailed("the card's question got an empty answer")
    return f"curl got {text[:60]!r}"


def python_snippet(at: Inside) -> str:
    """Run the card's Python as it is, but for the address, with the openai client that flagrelease depends on."""
    here = user_commands.address(at.cell.model)
    text = commands(at)["python"].replace(here, at.server.base_url)
    own = {"NO_PROXY": "*"}  # a proxy of this machine is not the one of the service
    printed = at.context.ports.command([sys.executable, "-c", text], seconds=_COMMAND_SECONDS, env=own).stdout.strip()
    if not printed:
        raise CheckFailed("the card's Python printed nothing")
    return f"Python got {printed[:60]!r}"


def _needs_docker(at: Inside) -> None:
    if at.image.runner == "process":
        raise Skipped("it was served by a process, without Docker")


def _shell(at: Inside, text: str) -> None:
    # `pip` of the card is whatever pip the user has; here it is the one beside our Python.
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    at.context.ports.command(["bash", "-euc", text], seconds=_COMMAND_SECONDS, env={"PATH": path})


def all_of(at: Inside) -> Iterator[tuple[str, Callable[[], str]]]:
    """The checks of a container, by name, ready to be called."""
    if at.cell.stack == "flagos":
        yield "FlagScale in effect", lambda: flagscale_in_effect(at)
    yield "manifest", lambda: manifest_inside(at)
    yield "card: docker run", lambda: run_command(at)
    yield "card: docker pull", lambda: pull_command(at)
    yield "card: curl", lambda: curl_commands(at)
    yield "card: Python", lambda: python_snippet(at)
    yield "card: download", lambda: download_command(at)
