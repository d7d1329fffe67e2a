"""The commands with which a user serves and asks a released model, as the card prints them. Pure.

Download folder, mounted folder and served folder are one path: container.model_path. Weights that are unpacked first
are downloaded beside it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from flagrelease.config.lockfile import LockedFile
from flagrelease.config.matrix import Model
from flagrelease.config.sources import Source
from flagrelease.recipe.container import model_path
from flagrelease.recipe.image_paths import DOCKER

UNPACKER = "gguf-to-safetensors"
QUESTION = "How many days are in a week?"


def model_dir(model: Model) -> str:
    """Where users keep the weights on their host: the same path as in the container."""
    return model_path(model)


def source_dir(model: Model) -> str:
    """Where the weights are downloaded to."""
    return f"{model_dir(model)}-GGUF" if model.serve.convert else model_dir(model)


def download(model: Model, revision: str) -> str:
    """The commands that put the weights into `source_dir(model)`."""
    source = Source.parse(model.source)
    return source.kind.download(source, revision, source_dir(model))


def verify(model: Model, files: Sequence[LockedFile]) -> str:
    """The command that checks the downloaded files against the release's sha256 values."""
    sums = "\n".join(f"{one.sha256}  {one.path}" for one in sorted(files, key=lambda one: one.path))
    return f"cd {shlex.quote(source_dir(model))} && sha256sum --check <<'SUMS'\n{sums}\nSUMS"


def unpack(model: Model, reference: str) -> str:
    """The command that makes what is served out of what was downloaded, by the image's own program."""
    words = [
        *("docker", "run", "--rm", f"--entrypoint={DOCKER.programs}/{UNPACKER}"),
        *(f"--volume={source_dir(model)}:{source_dir(model)}:ro", f"--volume={model_dir(model)}:{model_dir(model)}"),
        *(reference, source_dir(model), model_dir(model)),
    ]
    return docker_run(words)


def pull(reference: str) -> str:
    return f"docker pull {shlex.quote(reference)}"


def wait(port: int) -> str:
    """The command that returns when the server answers."""
    return f"curl --silent --fail --retry 600 --retry-delay 1 --retry-all-errors http://localhost:{port}/v1/models"


def chat(model: Model) -> str:
    """One question by curl."""
    body = {"model": model.title, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 64}
    return (
        f"curl --silent --fail {address(model)}/chat/completions \\\n"
        f"  --header 'Content-Type: application/json' \\\n  --data {shlex.quote(json.dumps(body, ensure_ascii=False))}"
    )


def address(model: Model) -> str:
    """The service's base URL on a user's machine."""
    return f"http://localhost:{model.serve.port}/v1"


def python(model: Model) -> str:
    """The same question by the openai client, version 1 or newer."""
    sampling = model.sampling
    return "\n".join(
        [
            "from openai import OpenAI",
            "",
            f'client = OpenAI(base_url="{address(model)}", api_key="EMPTY")',
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
            "print(response.choices[0].message.content)",
        ]
    )


def docker_run(words: Sequence[str]) -> str:
    """A `docker run` command line, one option a line."""
    lines = [list(words[:2])]
    for word in words[2:]:
        starts = word.startswith("-") or "@sha256:" in word
        if starts or (len(lines) > 1 and len(lines[-1]) > 1 and lines[-1][0].startswith("-")):
            lines.append([word])
        else:
            lines[-1].append(word)
    return " \\\n  ".join(shlex.join(line) for line in lines)


def mounts(words: Sequence[str]) -> Mapping[str, str]:
    """Host folder by container folder, of every `-v`/`--volume` in a `docker run` command line."""
    found: dict[str, str] = {}
    for at, word in enumerate(words):
        option, _, joined = word.partition("=")
        if option in ("-v", "--volume"):
            source, _, rest = (joined or "".join(words[at + 1 : at + 2])).partition(":")
            target = rest.partition(":")[0]
            found[str(PurePosixPath(target))] = str(PurePosixPath(source))
    return found


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
