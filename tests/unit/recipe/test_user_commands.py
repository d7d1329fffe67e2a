"""The card's commands for querying a released model."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from typing import Any

import pytest

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
