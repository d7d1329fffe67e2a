"""The engines that serve a model inside an image, and everything in which they differ. Data only.

It lies below matrix.py, which checks `serve.engine` against it, so that a new engine is one entry of ENGINES. Paths
inside an image are written with `{packages}` for that reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Execution = Literal["compiled", "captured", "eager"]
"""How an engine runs the layers: compiled and under CUDA graphs, in graphs alone, or operator by operator."""


LoadToolName = Literal["own", "vllm", "evalscope"]
"""The load generators by name; LOAD_TOOLS in load_tools.py has one for each."""


@dataclass(frozen=True, kw_only=True)
class ServingEngine:
    """One engine; all of them serve a chat endpoint in OpenAI's dialect."""

    title: str
    """The name as people write it."""
    distribution: str
    """The Python package whose version the card shows."""
    command: tuple[str, ...]
    """Starts the native engine, up to the model's path; `{packages}` is the image's folder of Python packages."""
    requirements: tuple[str, ...] = ()
    """What the image needs beyond its base. A chip's vendor builds vLLM and SGLang for the chip, and brings them in the
    base."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Its names for options that vLLM names otherwise, on its own command line."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that the matrix may replace."""
    translated: bool = True
    """Whether FlagScale turns vLLM's option names into the engine's; else `serve.args` are the engine's own."""
    launcher: str = ""
    """A program of packaging/payload/ that takes the place of the command's first word where FlagScale ships none."""
    remark: str = ""
    """What the card says about that program."""
    machine_programs: tuple[str, ...] = ()
    """Python programs that a machine without containers may bring. They are started with the Python that sees the
    release's packages."""
    batch_argument: str = "max_num_seqs"
    """In `serve.args`: how many requests one step computes."""
    tokens_argument: str = ""
    """In `serve.args`: how many tokens one step computes. Empty where there is no such argument."""
    step_tokens: int = 8192
    """Tokens of one step where the arguments do not say; the default of vLLM and SGLang on accelerators of 80 GB."""
    execution: Execution = "compiled"
    """How the layers run where the arguments do not say."""
    eager_argument: str = ""
    """In `serve.args`: true where the layers run operator by operator."""
    own_kernels: bool = False
    """Whether it never calls PyTorch's operators, so that none of FlagGems can be in effect."""
    load_tool: LoadToolName = "own"
    """What puts load on it unless the profile names another tool: a name in LOAD_TOOLS."""
    thinking_switch: bool = True
    """Whether a request may say `chat_template_kwargs`."""
    batch_changes_answers: bool = False
    """Whether greedy answers depend so much on the requests in a batch that they are asked one at a time."""

    def argv(self, packages: str) -> tuple[str, ...]:
        """`command` in an image whose Python packages are in the folder `packages`."""
        return tuple(word.replace("{packages}", packages) for word in self.command)

    @property
    def sizes(self) -> tuple[str, ...]:
        """The arguments that say how much one step computes: operators are tuned for those sizes."""
        return tuple(filter(None, (self.batch_argument, self.tokens_argument)))


ENGINES: Mapping[str, ServingEngine] = {
    "vllm": ServingEngine(
        title="vLLM",
        distribution="vllm",
        command=("vllm", "serve"),
        machine_programs=("vllm",),
        tokens_argument="max_num_batched_tokens",
        eager_argument="enforce_eager",
        load_tool="vllm",
    ),
    # FlagScale translates `max_model_len` and `max_num_seqs` for it; other arguments have SGLang's own names.
    "sglang": ServingEngine(
        title="SGLang",
        distribution="sglang",
        command=("python", "-m", "sglang.launch_server", "--model-path"),
        options={"max_model_len": "context_length", "max_num_seqs": "max_running_requests"},
        tokens_argument="chunked_prefill_size",
        execution="captured",
        eager_argument="disable_cuda_graph",
    ),
    "llama_cpp": ServingEngine(
        title="llama.cpp",
        distribution="xllamacpp",
        # Where FlagScale 0.8.0 looks for this engine, which it does not ship.
        command=("{packages}/flag_scale/third_party/llama.cpp/build/bin/llama-server", "--model"),
        requirements=("xllamacpp==2026.10.11549",),
        options={"served_model_name": "alias", "max_model_len": "ctx_size", "max_num_seqs": "parallel"},
        defaults={"threads": 2},
        translated=False,
        launcher="llama_server.py",
        remark="The program that FlagScale starts as `llama-server` is not llama.cpp's own: FlagScale does not ship "
        "one, and this one starts the llama.cpp server inside the Python package xllamacpp.",
        batch_argument="parallel",
        own_kernels=True,
        thinking_switch=False,
        # Measured: of 100 answers all repeat exactly one at a time, 74 at four.
        batch_changes_answers=True,
    ),
}
