"""The table of serving engines and all their differences, and how several devices share a model. Pure.

A new engine is one entry of ENGINES. matrix.py validates `serve.engine` against the table, so that it cannot import the
layout of images: paths inside an image contain the placeholder `{packages}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flagrelease.config.strict_yaml import FieldError
from flagrelease.config.value_types import Count

Execution = Literal["compiled", "captured", "eager"]
"""How an engine runs the layers: compiled and in CUDA graphs, in CUDA graphs only, or operator by operator."""


LoadToolName = Literal["own", "vllm", "evalscope"]
"""Names of load generators, the keys of LOAD_TOOLS in stages/speed/load_tools.py."""


@dataclass(frozen=True, kw_only=True)
class ServingEngine:
    """An engine with an OpenAI-compatible chat endpoint."""

    title: str
    """Its name in text."""
    distribution: str
    """The Python package whose version the card shows."""
    command: tuple[str, ...]
    """The command that starts the native engine, up to the model path; `{packages}` is the image's package folder."""
    requirements: tuple[str, ...] = ()
    """Packages that the image needs in addition to its base. vLLM and SGLang are built by the chip's vendor and are
    part of the base."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Its own names of command-line options, by vLLM's name."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Default arguments, which the matrix may override."""
    translated: bool = True
    """Whether FlagScale translates vLLM's option names; otherwise `serve.args` are the engine's own options."""
    launcher: str = ""
    """A program of packaging/payload/ that replaces the command's executable, if FlagScale ships none."""
    remark: str = ""
    """The card's remark on that program."""
    machine_programs: tuple[str, ...] = ()
    """Python programs that may be installed on a machine without containers. They are run by the Python that has the
    release's packages."""
    batch_argument: str = "max_num_seqs"
    """The argument in `serve.args` for the requests in one step."""
    tokens_argument: str = ""
    """The argument in `serve.args` for the tokens in one step; empty if there is none."""
    step_tokens: int = 8192
    """Default token budget of one step, that of vLLM and SGLang on accelerators with 80 GB."""
    execution: Execution = "compiled"
    """The default execution of the layers."""
    eager_argument: str = ""
    """The boolean argument in `serve.args` for eager execution."""
    parallel_arguments: Mapping[str, str] = field(default_factory=dict)
    """Its arguments for the sizes of `serve.parallel`, by their names there; empty for an engine of one device."""
    device_arguments: tuple[str, ...] = ()
    """All its arguments that determine how many devices it uses, which `serve.args` must not have."""
    expert_argument: str = ""
    """The boolean argument in `serve.args` by which each rank holds some of the experts, instead of a part of each."""
    own_kernels: bool = False
    """Whether it does not use PyTorch's operators, so that FlagGems cannot have an effect."""
    load_tool: LoadToolName = "own"
    """The default load generator."""
    thinking_switch: bool = True
    """Whether requests may contain `chat_template_kwargs`."""
    batch_changes_answers: bool = False
    """Whether greedy answers depend on the other requests in a batch, so that questions are asked one at a time."""

    uncached: Mapping[str, Any] = field(default_factory=dict)
    """Request fields that turn its prompt cache off: with it, an answer depends on the requests before, because tokens
    that are read from the cache were computed in another batch."""

    def argv(self, packages: str) -> tuple[str, ...]:
        """`command` for an image with the package folder `packages`."""
        return tuple(argument.replace("{packages}", packages) for argument in self.command)

    @property
    def sizes(self) -> tuple[str, ...]:
        """The arguments that limit the size of one step; operators are tuned for these sizes."""
        return tuple(filter(None, (self.batch_argument, self.tokens_argument)))


_PARALLEL = {"tensor": "tensor_parallel_size", "pipeline": "pipeline_parallel_size"}
"""vLLM's names, which SGLang has as well: vllm/engine/arg_utils.py, sglang/srt/server_args.py."""

ENGINES: Mapping[str, ServingEngine] = {
    "vllm": ServingEngine(
        title="vLLM",
        distribution="vllm",
        command=("vllm", "serve"),
        machine_programs=("vllm",),
        tokens_argument="max_num_batched_tokens",
        eager_argument="enforce_eager",
        parallel_arguments=_PARALLEL,
        device_arguments=(*_PARALLEL.values(), "data_parallel_size"),
        expert_argument="enable_expert_parallel",
        load_tool="vllm",
    ),
    # FlagScale translates only `max_model_len` and `max_num_seqs`; other arguments have SGLang's own names.
    "sglang": ServingEngine(
        title="SGLang",
        distribution="sglang",
        command=("python", "-m", "sglang.launch_server", "--model-path"),
        options={"max_model_len": "context_length", "max_num_seqs": "max_running_requests"},
        tokens_argument="chunked_prefill_size",
        execution="captured",
        eager_argument="disable_cuda_graph",
        parallel_arguments=_PARALLEL,
        device_arguments=(*_PARALLEL.values(), "data_parallel_size", "tp_size", "pp_size", "dp_size"),
    ),
    "llama_cpp": ServingEngine(
        title="llama.cpp",
        distribution="xllamacpp",
        # The path where FlagScale 0.8.0 looks for this engine, which it does not ship.
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
        # Measured: of 100 answers, 100 are reproducible with one request at a time, 74 with four.
        batch_changes_answers=True,
        uncached={"cache_prompt": False},
    ),
}


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """How several devices share a model: `tensor` × `pipeline` is `devices`."""

    tensor: Count | None = None
    """Devices that each hold a part of every layer; by default all that `pipeline` leaves."""
    pipeline: Count = 1
    """Groups of devices that each hold some of the layers."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The resolved sizes, both at least 1."""

    tensor: int
    pipeline: int


def ranks(devices: int, parallel: Parallel | None) -> Ranks:
    """How `devices` share a model. Raises FieldError, relative to `serve`, if the sizes do not fit together."""
    given = parallel or Parallel()
    tensor = given.tensor or devices // given.pipeline
    if tensor * given.pipeline != devices:
        raise FieldError(
            f"gives {max(tensor, 1)} × {given.pipeline} devices (tensor × pipeline), but devices is {devices}",
            "parallel",
        )
    return Ranks(tensor=tensor, pipeline=given.pipeline)


def check_serve(engine: str, devices: int, parallel: Parallel | None, args: Mapping[str, Any]) -> None:
    """Check the part of `serve` that is about devices. Raises FieldError, relative to `serve`."""
    if engine not in ENGINES:  # reported as a wrong name of an engine
        return
    known = ENGINES[engine]
    for name in args:
        if name.replace("-", "_") in known.device_arguments:
            raise FieldError("is about devices; set serve.devices and serve.parallel instead", "args", name)
    if devices > 1 and not known.device_arguments:
        raise FieldError(f"is {devices}, but {known.title} is started for one device", "devices")
    ranks(devices, parallel)


def parallel_options(engine: str, given: Ranks) -> dict[str, int]:
    """The engine's arguments for its devices; none for one device."""
    sizes = (("tensor", given.tensor), ("pipeline", given.pipeline))
    names = ENGINES[engine].parallel_arguments
    return {names[name]: size for name, size in sizes if size > 1}
