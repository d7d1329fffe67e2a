"""Check the running container, and execute the commands of the card."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from flagrelease.config.cell import Cell
from flagrelease.config.sources import Source
from flagrelease.contract import results
from flagrelease.recipe import user_commands
from flagrelease.recipe.container import ContainerRun, Placement, effective, for_serving
from flagrelease.redact import PIP, secrets_for
from flagrelease.serving.inside import EXEC_SECONDS, CheckFailed, Inside
from flagrelease.serving.server import layout_of
from flagrelease.stages.smoke.endpoint_checks import Skipped
from flagrelease.store.digests import file_sha256, sha256_of
from flagrelease.store.files import unfinished
from flagrelease.store.workspace import manifest_of

_COMMAND_SECONDS = 600.0
_HASHERS = 4
_REPEATED_BYTES = 1_000_000_000
"""Up to this size the weights are downloaded again to test the card's command; larger ones would take hours."""

OFFLINE = "FLAGRELEASE_OFFLINE"
"""Set on machines without access to a hub, to skip the card's download command."""


def flagscale_in_effect(container: Inside) -> str:
    """Check that FlagScale started the engine."""
    processes = [" ".join(line.split()) for line in container.server.running.processes()]
    launched = next((line for line in processes if "flagscale/serve/run_inference_engine.py" in line), "")
    if not launched:
        raise CheckFailed(f"no FlagScale process among {processes}")
    root = layout_of(container.image, container.context.workspace).root  # do not publish paths of this machine
    return f"the engine runs under `{launched.replace(root, '')[:80]}`"


def manifest_inside(container: Inside) -> str:
    """Check that the pulled image has the manifest that was built, and the package versions of the build."""
    path = layout_of(container.image, container.context.workspace).manifest
    text = container.execute("cat", path)
    manifest = next(file for file in container.image.evidence if file.name == "manifest.json")
    if sha256_of(text.encode()) != manifest.sha256:
        raise CheckFailed(f"{path} differs from the manifest that was built")
    built = next(file for file in container.image.evidence if file.name == "packages.json")
    expected, actual = json.loads(container.context.evidence.read(built)), container.packages()
    differing = [name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name)]
    if differing:
        shown = ", ".join(f"{name} {actual.get(name)} instead of {expected.get(name)}" for name in sorted(differing))
        raise CheckFailed(f"package versions differ from the build: {shown}")
    return f"manifest sha256 {manifest.sha256[:12]}, {len(actual)} packages with the expected versions"


def card_run(cell: Cell, image: results.Image) -> ContainerRun:
    """The container as the card starts it on a user's machine."""
    return for_serving(
        cell.chip, cell.model, image.reference, user_commands.model_dir(cell.model), cell.stack, Placement()
    )


def weights_unchanged(container: Inside) -> str:
    """Read all files that are served, and compare them with the lock: a failing disk changes neither size nor time."""
    folder = container.context.workspace.weights / container.weights.folder
    container.context.progress.doing(f"verifying {len(container.weights.files)} files of the weights")
    with ThreadPoolExecutor(_HASHERS) as pool:
        found = list(pool.map(lambda file: _sha256(folder / file.path), container.weights.files))
    changed = [file.path for file, sha in zip(container.weights.files, found, strict=True) if sha != file.sha256]
    if changed:
        manifest_of(folder).unlink(missing_ok=True)
        raise CheckFailed(f"{changed[0]} is not what was verified when it was fetched; the next run fetches it again")
    return f"{len(found)} file{'s' * (len(found) != 1)}, sha256 verified"


def _sha256(path: Path) -> str:
    """sha256 (hex); empty for a file that cannot be read."""
    try:
        return file_sha256(path)
    except OSError:
        return ""


def run_command(container: Inside) -> str:
    """Check that the card's `docker run` line, with our name, port and folder, gives the running container."""
    _needs_docker(container)
    name = f"{container.server.run.placement.name}-card"
    placed = replace(container.server.run, placement=replace(container.server.run.placement, name=name))
    shown = card_run(container.cell, container.image)
    if replace(shown, mounts=placed.mounts, placement=placed.placement, env=placed.env) != placed:
        raise CheckFailed(f"the card's line differs beyond name, port and folder: {shown.argv()} and {placed.argv()}")
    command = container.context.ports.command
    identity = command(["docker", "create", *placed.argv()[3:]], seconds=_COMMAND_SECONDS).stdout.strip()
    try:
        theirs = json.loads(command(["docker", "inspect", identity], seconds=EXEC_SECONDS).stdout)[0]
    finally:
        command(["docker", "rm", "--force", identity], seconds=EXEC_SECONDS)
    created, running = effective(theirs), effective(container.server.running.inspect())
    different = [key for key in created if created[key] != running[key]]
    if different:
        listed = "; ".join(f"{key}: {created[key]} from the line, {running[key]} in use" for key in different)
        raise CheckFailed(f"the command line gives a different container than the tested one: {listed}")
    return f"{len(created)} settings of `docker inspect` are equal"


def commands(container: Inside) -> dict[str, str]:
    """The commands of the card that are executed, by name."""
    model = container.cell.model
    pull = {"pull": user_commands.pull(container.image.reference)} if container.image.runner == "docker" else {}
    shown = {
        **pull,
        "wait": user_commands.wait(user_commands.address(model)),
        "chat": user_commands.chat(model),
        "python": user_commands.python(model),
    }
    if not _unrepeatable(container):
        shown = {
            "download": user_commands.download(model, container.weights.revision, container.weights.fetched),
            "verify": user_commands.verify(model, container.weights.fetched),
            **shown,
        }
    return shown


def _unrepeatable(container: Inside) -> str:
    """Why the weights are not downloaded again; empty if they are."""
    if os.environ.get(OFFLINE):
        return f"{OFFLINE} is set"
    size = sum(file.size for file in container.weights.fetched)
    return f"{size / 1e9:.0f} GB would be downloaded again" if size > _REPEATED_BYTES else ""


def download_command(container: Inside) -> str:
    """Run the card's download and verify commands, with a scratch folder instead of /nfs/models."""
    if reason := _unrepeatable(container):
        raise Skipped(reason)
    model, weights = container.cell.model, container.weights
    scratch = container.context.workspace.scratch(container.cell.slug, "smoke")
    secrets = secrets_for(*PIP, *Source.parse(model.source).kind.credentials)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=unfinished()) as temporary:
        folder = f"{temporary}/model"
        _shell(container, user_commands.download(model, weights.revision, weights.fetched, folder=folder), **secrets)
        _shell(container, user_commands.verify(model, weights.fetched, folder=folder))
        downloaded = [path for path in Path(folder).rglob("*") if path.is_file()]
    size = sum(file.size for file in container.weights.fetched)
    return f"{len(downloaded)} file{'s' * (len(downloaded) != 1)}, {size / 1e6:.0f} MB, sha256 verified"


def pull_command(container: Inside) -> str:
    _needs_docker(container)
    with container.context.ports.docker.logged_in(container.image.reference) as env:  # users have a login of their own
        _shell(container, commands(container)["pull"], **env)
    return container.image.reference


def curl_commands(container: Inside) -> str:
    """Run the card's curl lines in the container, at its port."""
    status, _ = container.server.running.execute(["sh", "-c", "command -v curl"], seconds=EXEC_SECONDS)
    if status and container.image.runner == "process":
        raise Skipped("this machine has no curl")
    inside = user_commands.local_address(container.server.port_inside)
    container.execute("bash", "-c", user_commands.wait(inside))
    answer = json.loads(container.execute("bash", "-c", user_commands.chat(container.cell.model, inside)))
    text = str(answer["choices"][0]["message"]["content"]).strip()
    if not text:
        raise CheckFailed("the answer to the card's question is empty")
    return f"curl got {text[:60]!r}"


def python_snippet(container: Inside) -> str:
    """Run the card's Python with only the address replaced, with flagrelease's own openai client."""
    text = user_commands.python(container.cell.model, container.server.base_url)
    env = {"NO_PROXY": "*"}  # the service is local; do not use this machine's proxy
    printed = container.context.ports.command(
        [sys.executable, "-c", text], seconds=_COMMAND_SECONDS, env=env
    ).stdout.strip()
    if not printed:
        raise CheckFailed("the card's Python printed nothing")
    return f"Python got {printed[:60]!r}"


def _needs_docker(container: Inside) -> None:
    if container.image.runner == "process":
        raise Skipped("served by processes, without Docker")


def _shell(container: Inside, text: str, **env: str) -> None:
    # The card's `pip` is the user's; use the one next to the running Python.
    path = f"{Path(sys.executable).parent}:{env.get('PATH') or os.environ.get('PATH', os.defpath)}"
    container.context.ports.command(["bash", "-euc", text], seconds=_COMMAND_SECONDS, env={**env, "PATH": path})


def all_of(container: Inside) -> Iterator[tuple[str, Callable[[], str]]]:
    """The container checks, by name."""
    if container.cell.stack == "flagos":
        yield "FlagScale in effect", lambda: flagscale_in_effect(container)
    yield "manifest", lambda: manifest_inside(container)
    yield "weights", lambda: weights_unchanged(container)
    yield "card: docker run", lambda: run_command(container)
    yield "card: docker pull", lambda: pull_command(container)
    yield "card: curl", lambda: curl_commands(container)
    yield "card: Python", lambda: python_snippet(container)
    yield "card: download", lambda: download_command(container)
