"""Check the commands of any card: the image they name, the folder of the weights, the container, the client. Pure."""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Iterator

from flagrelease.stages.card.checks import shell
from flagrelease.stages.card.checks.finding import Finding, warning
from flagrelease.stages.card.checks.page import Page, syntax_tree

_DOWNLOADS = ("modelscope", "hf", "huggingface-cli")
_SERVERS = ("flagscale", "vllm", "sglang", "llama-server")
_SHELLS = ("bash", "/bin/bash", "sh", "/bin/sh")


def images(page: Page) -> Iterator[Finding]:
    """An image without a tag or digest, or with the tag `latest`, is another one tomorrow."""
    for command in page.commands:
        run = shell.docker_run(command.argv)
        pulled = next((word for word in command.argv[2:] if not word.startswith("-")), "")
        image = run.image if run else pulled if command.argv[1:2] == ("pull",) else ""
        name, _, tag = image.rpartition("/")[2].partition(":")
        if image and "@" not in image and tag in ("", "latest"):
            shown = "the tag latest, which moves" if tag else "neither tag nor digest"
            yield Finding(command.line, f"image {name} has {shown}: name its digest")


def folders(page: Page) -> Iterator[Finding]:
    """The weights are served from where they are downloaded, through the mounts of the container."""
    downloads = [(command.line, folder) for command in page.commands if (folder := _download(command.argv))]
    runs = [(command.line, run) for command in page.commands if (run := shell.docker_run(command.argv))]
    mounts = {target: source for _, run in runs for target, source in run.mounts.items()}
    for _, folder in downloads:
        if runs and not any(_under(folder, source) for source in mounts.values()):
            yield Finding(runs[0][0], f"no docker run mounts {folder}, into which the weights are downloaded")
    for line, path in _served(page):
        host = next((posixpath.join(s, posixpath.relpath(path, t)) for t, s in mounts.items() if _under(path, t)), path)
        if downloads and not any(_under(host, folder) for _, folder in downloads):
            yield Finding(line, f"{path} is served, but the weights are downloaded to {downloads[0][1]}")
        elif path.endswith("/"):
            yield warning(line, f"{path} ends with /: servers compare model names character by character")


def _download(argv: tuple[str, ...]) -> str:
    if argv[0] in _DOWNLOADS and "download" in argv[:3]:
        return shell.option(argv, "--local_dir", "--local-dir")
    return ""


def _served(page: Page) -> Iterator[tuple[int, str]]:
    """Absolute paths that are given to a server or named in a request, with their lines."""
    for command in page.commands:
        if "serve" in command.argv or "-m" in command.argv:
            after = command.argv[command.argv.index("serve") + 1 :][:1] if "serve" in command.argv else ()
            named = (*after, shell.option(command.argv, "--model", "--model-path"))
            yield from ((command.line, path) for path in named if path.startswith("/"))
    for block in page.blocks:
        if block.kind == "python":
            for at, line in enumerate(block.body.splitlines(), 1):
                if match := re.search(r"\bmodel\s*=\s*[\"'](/[^\"']*)[\"']", line):
                    yield block.line + at, match.group(1)


def _under(path: str, folder: str) -> bool:
    return f"{posixpath.normpath(path)}/".startswith(f"{posixpath.normpath(folder).rstrip('/')}/")


def container(page: Page) -> Iterator[Finding]:
    """A server is started inside the container that was started for it."""
    waiting = ""
    for command in page.commands:
        run = shell.docker_run(command.argv)
        if run is not None:
            waiting = run.command[0] if run.command[:1] and run.command[0] in _SHELLS else ""
        elif command.argv[:2] == ("docker", "exec"):
            waiting = ""
        elif waiting and command.argv[0] in _SERVERS:
            text = " ".join(command.argv[:3])
            yield Finding(
                command.line, f"`{text}` runs on the host: the container runs {waiting}, and no docker exec enters it"
            )


def client(page: Page) -> Iterator[Finding]:
    """Python that uses the reply of the OpenAI client as what it is."""
    for block in page.blocks:
        if block.kind != "python":
            continue
        try:
            tree = syntax_tree(block.body)
        except SyntaxError:
            continue  # the check of code blocks reports it
        replies = {
            target.id: _streams(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and _creates(node.value)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.For) and isinstance(node.iter, ast.Name) and replies.get(node.iter.id) is False:
                text = f"{node.iter.id} is not a stream: iterating it gives the fields of the reply, not its text"
                yield Finding(block.line + node.lineno, text)
            if not isinstance(node, ast.Attribute):
                continue
            if node.attr == "choices" and isinstance(node.value, ast.Name) and replies.get(node.value.id):
                yield Finding(block.line + node.lineno, f"{node.value.id} is a stream: it has no choices")
            if node.attr == "ChatCompletion":
                yield Finding(block.line + node.lineno, "openai.ChatCompletion was removed in version 1 of the client")


def _creates(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr == "create"


def _streams(call: ast.Call) -> bool:
    return any(
        word.arg == "stream" and isinstance(word.value, ast.Constant) and bool(word.value.value)
        for word in call.keywords
    )
