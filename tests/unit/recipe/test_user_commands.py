"""The card's commands for querying a released model."""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flagrelease.config.lockfile import LockedFile
from flagrelease.recipe import user_commands
from support import finished_cell as given


@pytest.mark.parametrize("top_k", [None, 20])
def test_curl_and_python_use_the_models_own_sampling(top_k: int | None) -> None:
    model = given.model()
    sampling = replace(model.sampling, temperature=0.6, top_p=0.95, top_k=top_k, max_tokens=321)
    model = replace(model, sampling=sampling)
    argv = shlex.split(user_commands.chat(model))
    body: dict[str, Any] = json.loads(argv[argv.index("--data") + 1])
    assert body.pop("messages") == [{"role": "user", "content": user_commands.QUESTION}]
    wanted = {"model": model.title, "temperature": 0.6, "top_p": 0.95, "max_tokens": 321}
    assert body == wanted | ({} if top_k is None else {"top_k": top_k})
    python = user_commands.python(model)
    assert all(f"{name}={value}," in python for name, value in wanted.items() if name != "model")


@pytest.mark.parametrize("name", ["a b", "it's", "$(touch x)", "`touch x`", "a;touch x", 'a"b', "*", "-n", "a\\b"])
def test_weights_are_downloaded_into_any_folder(name: str, tmp_path: Path) -> None:
    source, folder = tmp_path / "weights", tmp_path / name / "model"
    source.mkdir()
    (source / "model.bin").write_bytes(b"weights")
    file = LockedFile(path="model.bin", sha256=hashlib.sha256(b"weights").hexdigest(), size=7)
    model = given.model(source=f"file://{source}")
    text = user_commands.download(model, "", [file], folder=str(folder))
    text += "\n" + user_commands.verify(model, [file], folder=str(folder))
    done = subprocess.run(["bash", "-euc", text], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "model.bin: OK\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["weights", name])
