"""The card's commands for downloading, serving and querying a released model. Pure.

The folders for download, mount and serving have the same path, container.model_path; only weights that must be
unpacked are downloaded to another folder next to it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from flagrelease.config.lockfile import LockedFile
from flagrelease.config.matrix import Model
from flagrelease.config.sources import Source
from flagrelease.recipe.container import model_path
from flagrelease.recipe.image_paths import DOCKER

UNPACKER = "gguf-to-safetensors"
QUESTION = "How many days are in a week?"

DOWNLOAD, VERIFY, UNPACK, PULL = "download", "verify", "unpack", "pull"
WAIT, CHAT, PYTHON, PYTHON_STREAM = "wait", "chat", "python", "python, streaming"
"""Names of the commands, in records and on the card."""


def model_dir(model: Model) -> str:
    """The folder for the served weights on the user's host: the same path as in the container."""
    return model_path(model)


def source_dir(model: Model) -> str:
    """The folder for the downloaded weights."""
    return f"{model_dir(model)}-GGUF" if model.serve.convert else model_dir(model)


def download(model: Model, revision: str, files: Sequence[LockedFile] = (), *, folder: str = "") -> str:
    """The commands that download the weights, which are `files`, into `folder`, by default `source_dir(model)`."""
    source = Source.parse(model.source).with_files(files)
    return source.kind.download(source, revision, folder or source_dir(model))


def verify(model: Model, files: Sequence[LockedFile], *, folder: str = "") -> str:
    """The command that checks the files downloaded into `folder` against the release's sha256 values."""
    sums = "\n".join(f"{file.sha256}  {file.path}" for file in sorted(files, key=lambda file: file.path))
    return f"cd {shlex.quote(folder or source_dir(model))} && sha256sum --check <<'SUMS'\n{sums}\nSUMS"


def unpack(model: Model, reference: str) -> str:
    """The command that unpacks the downloaded weights for serving, with the image's own program."""
    argv = [
        *("docker", "run", "--rm", f"--entrypoint={DOCKER.programs}/{UNPACKER}"),
        *(f"--volume={source_dir(model)}:{source_dir(model)}:ro", f"--volume={model_dir(model)}:{model_dir(model)}"),
        *(reference, source_dir(model), model_dir(model)),
    ]
    return docker_run(argv)


def pull(reference: str) -> str:
    return f"docker pull {shlex.quote(reference)}"


def wait(base_url: str) -> str:
    """The command that waits until the server at `base_url` answers."""
    return f"curl --silent --fail --retry 600 --retry-delay 1 --retry-all-errors {shlex.quote(f'{base_url}/models')}"


def chat(model: Model, base_url: str = "") -> str:
    """The curl command that asks one question, with the model's own sampling parameters; by default at
    `address(model)`."""
    sampling = model.sampling
    body: dict[str, Any] = {"model": model.title, "messages": [{"role": "user", "content": QUESTION}]}
    body |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
    if sampling.top_k is not None:
        body["top_k"] = sampling.top_k
    body["max_tokens"] = sampling.max_tokens
    return (
        f"curl --silent --fail {shlex.quote(f'{base_url or address(model)}/chat/completions')} \\\n"
        f"  --header 'Content-Type: application/json' \\\n  --data {shlex.quote(json.dumps(body, ensure_ascii=False))}"
    )


def address(model: Model) -> str:
    """The server's base URL on the user's host."""
    return local_address(model.serve.port)


def local_address(port: int) -> str:
    """The base URL of a server at a port of the machine, or of the container, that asks it."""
    return f"http://localhost:{port}/v1"


def python(model: Model, base_url: str = "") -> str:
    """The same question with the openai client, version 1 or newer; by default at `address(model)`."""
    return "\n".join([*_request(model, base_url), "print(response.choices[0].message.content)"])


def python_stream(model: Model, base_url: str = "") -> str:
    """The same question, whose answer is printed as it arrives."""
    request = _request(model, base_url)
    return "\n".join(
        [
            *request[:-1],
            "    stream=True,",
            request[-1],
            "for chunk in response:",
            "    if chunk.choices and chunk.choices[0].delta.content:",
            '        print(chunk.choices[0].delta.content, end="", flush=True)',
            "print()",
        ]
    )


def _request(model: Model, base_url: str) -> list[str]:
    """Python lines that ask the question; the last one closes the call."""
    sampling = model.sampling
    return [
        "from openai import OpenAI",
        "",
        f'client = OpenAI(base_url={_quoted(base_url or address(model))}, api_key="EMPTY")',
        "response = client.chat.completions.create(",
        f"    model={_quoted(model.title)},",
        "    messages=[",
        '        {"role": "system", "content": "You are a helpful assistant."},',
        f'        {{"role": "user", "content": {_quoted(QUESTION)}}},',
        "    ],",
        f"    temperature={sampling.temperature!r},",
        f"    top_p={sampling.top_p!r},",
        f"    max_tokens={sampling.max_tokens},",
        ")",
    ]


def anything_llm(model: Model) -> Mapping[str, str]:
    """The settings of AnythingLLM's provider *Generic OpenAI*, as its form names them."""
    return {
        "Base URL": address(model),
        "API key": "EMPTY",
        "Chat model name": model.title,
        "Token context window": str(model.serve.max_model_len),
        "Max tokens": str(model.sampling.max_tokens),
    }


def anything_llm_request(model: Model, *, stream: bool) -> dict[str, Any]:
    """The body that this provider sends with these settings: a system prompt, the conversation and the question, at its
    default temperature, with `stream` in a workspace and without through its API.

    After server/utils/AiProviders/genericOpenAi/index.js of AnythingLLM, which uses OpenAI's client for JavaScript.
    """
    settings = anything_llm(model)
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello! What would you like to know?"},
        {"role": "user", "content": QUESTION},
    ]
    body: dict[str, Any] = {"model": settings["Chat model name"], "messages": messages}
    body |= {"temperature": 0.7, "max_tokens": int(settings["Max tokens"])}
    return {**body, "stream": True} if stream else body


def of_card(
    model: Model, revision: str, files: Sequence[LockedFile], reference: str, *, unpacked: bool
) -> dict[str, str]:
    """All commands of the card except `docker run`, by name; `unpacked` is whether the weights had to be."""
    return {
        DOWNLOAD: download(model, revision, files),
        VERIFY: verify(model, files),
        PULL: pull(reference),
        **({UNPACK: unpack(model, reference)} if unpacked else {}),
        WAIT: wait(address(model)),
        CHAT: chat(model),
        PYTHON: python(model),
        PYTHON_STREAM: python_stream(model),
    }


def docker_run(argv: Sequence[str]) -> str:
    """Format a `docker run` command line with one option per line."""
    lines = [list(argv[:2])]
    for argument in argv[2:]:
        starts = argument.startswith("-") or "@sha256:" in argument
        if starts or (len(lines) > 1 and len(lines[-1]) > 1 and lines[-1][0].startswith("-")):
            lines.append([argument])
        else:
            lines[-1].append(argument)
    return " \\\n  ".join(shlex.join(line) for line in lines)


def mounts(argv: Sequence[str]) -> Mapping[str, str]:
    """Host folder by container folder, for each `-v` or `--volume` in a `docker run` command line."""
    folders: dict[str, str] = {}
    for index, argument in enumerate(argv):
        option, _, joined = argument.partition("=")
        if option in ("-v", "--volume"):
            source, _, remainder = (joined or "".join(argv[index + 1 : index + 2])).partition(":")
            target = remainder.partition(":")[0]
            folders[str(PurePosixPath(target))] = str(PurePosixPath(source))
    return folders


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
