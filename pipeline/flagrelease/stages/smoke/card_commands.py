"""Run every command of the card against the running container, each in a clean place.

A command is run as the card prints it, except for what belongs to the user's machine: the folder of the weights, and
the address of the service where it has another port. What was replaced, and what was printed, is evidence.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from flagrelease.config.cell import Cell
from flagrelease.config.sources import Source
from flagrelease.contract import results
from flagrelease.ports.openai_client import Client
from flagrelease.recipe import user_commands
from flagrelease.recipe.container import ContainerRun, Placement, effective, for_serving
from flagrelease.recipe.devices import Devices
from flagrelease.redact import PIP, secrets_for
from flagrelease.serving.inside import EXEC_SECONDS, CheckFailed, Inside
from flagrelease.stages.smoke.endpoint_checks import Skipped
from flagrelease.store.files import unfinished

_COMMAND_SECONDS = 600.0
_REPEATED_BYTES = 1_000_000_000
"""Up to this size the weights are downloaded again to test the card's command; larger ones would take hours."""
_SHOWN = 4000
"""Characters of a command's output that are kept."""

OFFLINE = "FLAGRELEASE_OFFLINE"
"""Set on machines without access to a hub, to skip the card's download command."""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A command of the card that was run."""

    name: str
    """Its name, as in user_commands."""
    text: str
    """As the card prints it."""
    replaced: Mapping[str, str]
    """What was replaced in the text to run it here."""
    output: str
    """What it printed."""


@dataclass(frozen=True, kw_only=True)
class CardCommands:
    """The commands of the card, and what became of them."""

    container: Inside
    ran: list[Ran] = field(default_factory=list)
    """Commands that succeeded, in order."""
    not_run: dict[str, str] = field(default_factory=dict)
    """By name of a command that was not run, the reason."""

    @property
    def texts(self) -> dict[str, str]:
        """All commands except `docker run`, by name, as the card prints them."""
        weights, image = self.container.weights, self.container.image
        return user_commands.of_card(
            self.container.cell.model,
            weights.revision,
            weights.fetched,
            image.reference,
            unpacked=weights.unpacked is not None,
        )

    def all_of(self) -> Iterator[tuple[str, Callable[[], str]]]:
        """The checks, by name. The download runs meanwhile: it waits for the network and does not use the service."""
        with ThreadPoolExecutor(1) as pool:
            downloading = pool.submit(download, self)
            yield "card: docker run", lambda: docker_run(self)
            yield "card: docker pull", lambda: pull(self)
            yield "card: curl", lambda: curl(self)
            yield "card: Python", lambda: python(self, user_commands.PYTHON)
            yield "card: Python, streaming", lambda: python(self, user_commands.PYTHON_STREAM)
            yield "card: AnythingLLM", lambda: anything_llm(self.container)
            yield "card: download", downloading.result
        if self.container.weights.unpacked is not None:
            yield "card: unpack", lambda: self.skip("flagrelease unpacked the weights before", user_commands.UNPACK)

    def add(self, name: str, output: str, replaced: Mapping[str, str] | None = None) -> None:
        kept = {old: new for old, new in (replaced or {}).items() if old != new}
        self.ran.append(Ran(name=name, text=self.texts[name], replaced=kept, output=output[:_SHOWN]))

    def skip(self, reason: str, *names: str) -> str:
        """Raise Skipped after noting the commands that are not run for this reason."""
        self.not_run.update(dict.fromkeys(names, reason))
        raise Skipped(reason)

    def commands(self) -> dict[str, str]:
        """The commands that were run, by name."""
        ran = {each.name for each in self.ran}
        return {name: text for name, text in self.texts.items() if name in ran}

    def report(self) -> bytes:
        """The evidence: each command with its output, and those that were not run with the reason."""
        made = {"run": [asdict(ran) for ran in self.ran], "not_run": self.not_run}
        return json.dumps(made, indent=1, ensure_ascii=False).encode()


def card_run(cell: Cell, image: results.Image, devices: Devices | None) -> ContainerRun:
    """The container as the card starts it on a user's machine, on `devices` of that."""
    folder = user_commands.model_dir(cell.model)
    return for_serving(cell.chip, cell.model, image.reference, folder, cell.stack, Placement(), devices)


def docker_run(card: CardCommands) -> str:
    """Check that the card's `docker run` line, with our name, port, folder and devices, gives the running container."""
    container = card.container
    if container.image.runner == "process":
        card.skip("served by processes, without Docker")
    name = f"{container.server.run.placement.name}-card"
    placed = replace(container.server.run, placement=replace(container.server.run.placement, name=name))
    shown = card_run(container.cell, container.image, container.context.devices)
    if replace(shown, mounts=placed.mounts, placement=placed.placement, env=placed.env) != placed:
        raise CheckFailed(
            f"the card's line differs beyond name, port, folder and devices: {shown.argv()} and {placed.argv()}"
        )
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


def pull(card: CardCommands) -> str:
    if card.container.image.runner == "process":
        card.skip("served by processes, without Docker", user_commands.PULL)
    reference = card.container.image.reference
    with card.container.context.ports.docker.logged_in(reference) as env:  # users have a login of their own
        card.add(user_commands.PULL, _shell(card.container, card.texts[user_commands.PULL], **env))
    return reference


def curl(card: CardCommands) -> str:
    """Run the curl lines in the container, at its port."""
    container, model = card.container, card.container.cell.model
    status, _ = container.server.running.execute(["sh", "-c", "command -v curl"], seconds=EXEC_SECONDS)
    if status and container.image.runner == "process":
        card.skip("this machine has no curl", user_commands.WAIT, user_commands.CHAT)
    inside = user_commands.local_address(container.server.port_inside)
    replaced = {user_commands.address(model): inside}
    card.add(user_commands.WAIT, container.execute("bash", "-c", user_commands.wait(inside)), replaced)
    printed = container.execute("bash", "-c", user_commands.chat(model, inside))
    text = str(json.loads(printed)["choices"][0]["message"]["content"]).strip()
    if not text:
        raise CheckFailed("the answer to the card's question is empty")
    card.add(user_commands.CHAT, printed, replaced)
    return f"curl got {text[:60]!r}"


def python(card: CardCommands, name: str) -> str:
    """Run Python with only the address replaced, with flagrelease's own openai client, in an empty folder."""
    container, model = card.container, card.container.cell.model
    write = user_commands.python if name == user_commands.PYTHON else user_commands.python_stream
    with tempfile.TemporaryDirectory(prefix=unfinished()) as empty:
        # The service is local: do not use this machine's proxy.
        env = {"NO_PROXY": "*", "HOME": empty}
        argv = [sys.executable, "-I", "-c", write(model, container.server.base_url)]
        done = container.context.ports.command(argv, seconds=_COMMAND_SECONDS, env=env, cwd=Path(empty))
    printed = done.stdout.strip()
    if not printed:
        raise CheckFailed("the card's Python printed nothing")
    card.add(name, printed, {user_commands.address(model): container.server.base_url})
    return f"Python got {printed[:60]!r}"


def anything_llm(container: Inside) -> str:
    """Make the requests that AnythingLLM makes with the card's settings: in a workspace, and through its API."""
    model, settings = container.cell.model, user_commands.anything_llm(container.cell.model)
    whole, pieces = (user_commands.anything_llm_request(model, stream=stream) for stream in (False, True))
    key = settings["API key"]
    with Client(container.server.base_url, seconds=_COMMAND_SECONDS, key=key) as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, "/chat/completions", whole)
        streamed = client.streamed(pieces)
        reply = waiting.result()
    if reply.status != 200:
        raise CheckFailed(f"without streaming it got HTTP {reply.status}: {reply.body[:120]!r}")
    text = str(json.loads(reply.body)["choices"][0]["message"]["content"]).strip()
    if not text or not streamed.text.strip():
        raise CheckFailed(f"an answer is empty: {text!r}, streamed {streamed.text!r}")
    if not streamed.finish_reason:
        raise CheckFailed("the stream ended without a finish_reason, on which AnythingLLM waits")
    return f"system prompt, conversation and question: {streamed.chunks} chunks and {len(text)} characters"


def _unrepeatable(container: Inside) -> str:
    """Why the weights are not downloaded again; empty if they are."""
    if os.environ.get(OFFLINE):
        return f"{OFFLINE} is set"
    size = sum(file.size for file in container.weights.fetched)
    return f"{size / 1e9:.0f} GB would be downloaded again" if size > _REPEATED_BYTES else ""


def download(card: CardCommands) -> str:
    """Run the download and verify commands, with a scratch folder instead of the user's."""
    container = card.container
    if reason := _unrepeatable(container):
        card.skip(reason, user_commands.DOWNLOAD, user_commands.VERIFY)
    model, weights = container.cell.model, container.weights
    scratch = container.context.workspace.scratch(container.cell.slug, "smoke")
    secrets = secrets_for(*PIP, *Source.parse(model.source).kind.credentials)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=unfinished()) as temporary:
        folder = f"{temporary}/model"
        command = user_commands.download(model, weights.revision, weights.fetched, folder=folder)
        _shell(container, command, **secrets)
        verified = _shell(container, user_commands.verify(model, weights.fetched, folder=folder))
        downloaded = [path for path in Path(folder).rglob("*") if path.is_file()]
    size = sum(file.size for file in container.weights.fetched)
    got = f"{len(downloaded)} file{'s' * (len(downloaded) != 1)}, {size / 1e6:.0f} MB"
    replaced = {user_commands.source_dir(model): "FOLDER"}
    card.add(user_commands.DOWNLOAD, got, replaced)  # the programs print mirrors and paths of this machine
    card.add(user_commands.VERIFY, verified, replaced)
    return f"{got}, sha256 verified"


def _shell(container: Inside, text: str, **env: str) -> str:
    """Run a command of the card and return what it printed."""
    # The card's `pip` is the user's; use the one next to the running Python.
    path = f"{Path(sys.executable).parent}:{env.get('PATH') or os.environ.get('PATH', os.defpath)}"
    argv = ["bash", "-euc", text]
    return container.context.ports.command(argv, seconds=_COMMAND_SECONDS, env={**env, "PATH": path}).stdout
