"""The engines that serve a model inside an image, and all in which they differ. Pure.

A new one is an entry of ENGINES, and its name in `Engine` of matrix.py. Where it comes with a load generator of its
own, that is an adapter in ports/load_NAME.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flagrelease.layout import Layout
    from flagrelease.matrix import Engine, LoadToolName


@dataclass(frozen=True, kw_only=True)
class ServingEngine:
    """One engine, beside what all of them share: a chat endpoint in OpenAI's dialect.

    `distribution` is the Python package whose version the card shows. `requirements` are what the image needs for it
    beyond its base: a chip's vendor builds vLLM and SGLang for the chip and brings them there. `command` starts the
    native engine, up to the model's path; `options` names its options where they are not vLLM's, `defaults` holds
    arguments that the matrix may replace.

    With `translated`, FlagScale turns vLLM's option names into the engine's; else `args` of the matrix are the engine's
    own. `launcher` is a program of inside/ that stands in the place of the command's first word where FlagScale ships
    none, and `remark` says so on the card.

    `thinking_switch`: whether a request may say `chat_template_kwargs`. `batch_changes_answers`: whether greedy answers
    depend on which requests share a batch so much that they are asked one at a time.
    """

    distribution: str
    command: Callable[[Layout], tuple[str, ...]]
    requirements: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    translated: bool = True
    launcher: str = ""
    remark: str = ""
    load_tool: LoadToolName = "own"
    """What puts load on it where the profile names no tool: ports/load_tools.py has each."""
    thinking_switch: bool = True
    batch_changes_answers: bool = False


ENGINES: Mapping[Engine, ServingEngine] = {
    "vllm": ServingEngine(distribution="vllm", command=lambda _layout: ("vllm", "serve"), load_tool="vllm"),
    "sglang": ServingEngine(
        distribution="sglang",
        command=lambda _layout: ("python", "-m", "sglang.launch_server", "--model-path"),
        options={"max_model_len": "context_length", "max_num_seqs": "max_running_requests"},
    ),
    "llama_cpp": ServingEngine(
        distribution="xllamacpp",
        command=lambda layout: (layout.llama_server, "--model"),
        requirements=("xllamacpp==2026.10.11549",),
        options={"served_model_name": "alias", "max_model_len": "ctx_size", "max_num_seqs": "parallel"},
        defaults={"threads": 2},
        translated=False,
        launcher="llama_server.py",
        remark="The program that FlagScale starts as `llama-server` is not llama.cpp's own: FlagScale does not ship "
        "one, and this one starts the llama.cpp server inside the Python package xllamacpp.",
        thinking_switch=False,
        # Measured: of 100 answers all repeat exactly one at a time, 74 at four.
        batch_changes_answers=True,
    ),
}
