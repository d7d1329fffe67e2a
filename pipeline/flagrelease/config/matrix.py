"""matrix.yaml: the chips, models, benchmarks and profiles of a release."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from flagrelease.config import strict_yaml
from flagrelease.config.chip import Chip, KernelSettings
from flagrelease.config.engines import ENGINES, LoadToolName, Parallel, Ranks, check_serve, ranks
from flagrelease.config.globs import check_globs, matches
from flagrelease.config.harness_names import DEFAULT_HARNESS, HarnessName
from flagrelease.config.names import REPOSITORY, check_repository, of_cell
from flagrelease.config.sources import Source, check_data
from flagrelease.config.strict_yaml import FieldError, at_least, between, check_name
from flagrelease.config.targets import Target, check_names
from flagrelease.config.task_names import TaskName
from flagrelease.config.value_types import (
    BenchmarkTitle,
    Count,
    Language,
    LicenseId,
    Line,
    Margin,
    ModelTitle,
    PublicKey,
    Seconds,
    ServeName,
    Text,
    Upstream,
)
from flagrelease.config.waivers import Waiver, check_matches
from flagrelease.errors import did_you_mean

_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")

Stack = Literal["native", "flagos"]

Engine = Annotated[str, strict_yaml.Checked(lambda name: check_name(name, ENGINES, "serving engine"))]
"""The engine that serves a model, a key of ENGINES."""

Task = Annotated[str, strict_yaml.Checked(lambda name: check_name(name, get_args(TaskName), "task"))]
"""The kind of a benchmark, a TaskName. Text in a record, which may be of a version with other tasks."""


@dataclass(frozen=True, kw_only=True)
class Serve:
    """How FlagScale serves a model."""

    name: ServeName
    """The argument of `flagscale serve NAME`."""
    engine: Engine
    """A key of ENGINES."""
    convert: Literal["safetensors"] | None = None
    """The format to convert a GGUF source to, for engines that do not serve GGUF."""
    colocate: bool = field(default=False, metadata=strict_yaml.formerly("beside"))
    """Whether the chip has memory for two of these servers, so that both stacks run at once and alternate."""
    port: Annotated[int, between(1, 65535)] = 8000
    """The port that the server listens on."""
    max_model_len: Annotated[int, at_least(16)] = 4096
    """Longest context, tokens; the checks of smoke need 256."""
    concurrency: int = 8
    """The most requests at once."""
    ready_seconds: Seconds = 1800.0
    """Deadline for the server to become ready."""
    devices: Count = 1
    """How many of the chip's devices serve the model."""
    parallel: Parallel | None = None
    """How they share it; by default each has a part of every layer (tensor parallel)."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the engine."""

    def __post_init__(self) -> None:
        sizes = ENGINES[self.engine].sizes if self.engine in ENGINES else ()
        counts: dict[tuple[str, ...], Any] = {("args", name): self.args[name] for name in sizes if name in self.args}
        counts |= {("max_model_len",): self.max_model_len, ("concurrency",): self.concurrency}
        for path, value in counts.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise FieldError(f"is {value!r}; it must be an integer of 1 or more", *path)
        check_serve(self.engine, self.devices, self.parallel, self.args)

    @property
    def ranks(self) -> Ranks:
        """How its devices share the model."""
        return ranks(self.devices, self.parallel)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The sampling parameters of requests."""

    temperature: Annotated[float, between(0, 2, why="engines and the OpenAI API accept 0 to 2")] = 0.0
    """0 is greedy."""
    top_p: Annotated[float, between(0, 1, without=(0,))] = 1.0
    """Nucleus sampling."""
    top_k: Annotated[int, at_least(1)] | None = None
    """The number of candidate tokens; by default not limited."""
    max_tokens: Count = 1024
    """Longest answer, tokens."""
    thinking: bool = False
    """Whether the model reasons before it answers."""


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The evaluation that a cell is compared with."""

    chip: str
    """A chip of the matrix; `same` is the cell's own."""
    stack: Stack = "native"
    """The stack on that chip."""


@dataclass(frozen=True, kw_only=True)
class OnChip:
    """Settings of a model on one chip. Each one that is given replaces the model's completely."""

    serve: Serve | None = None
    """How it is served."""
    sampling: Sampling | None = None
    """The sampling parameters."""
    baseline: Baseline | None = None
    """The evaluation that it is compared with."""
    notes: tuple[str, ...] | None = None
    """Facts about the weights, for the card."""
    kernels: KernelSettings | None = None
    """The settings of its operators, instead of the chip's."""
    profile: str | None = None
    """The profile, instead of the chip's."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """Open weights as a release source."""

    title: ModelTitle
    """Its name on the card."""
    source: Annotated[str, strict_yaml.Checked(Source.parse)]
    """Where the weights are fetched from, in a form of SOURCES."""
    upstream: Upstream
    """ORG/NAME of the original model."""
    license: LicenseId
    """Identifier for the card's front matter."""
    serve: Serve
    """How it is served."""
    sampling: Sampling = field(default_factory=Sampling)
    """The sampling parameters."""
    baseline: Baseline | None = None
    """The evaluation that it is compared with, instead of the default one."""
    notes: tuple[str, ...] = ()
    """Facts about the weights that the card must state."""
    languages: tuple[Language, ...] = ()
    """ISO 639 codes, for the card's front matter."""
    signed_by: PublicKey = ""
    """The public key (PEM) that has to have signed the weights, in the source's `model.sig` (OpenSSF model signing)."""
    per_chip: Mapping[str, OnChip] = field(default_factory=dict, metadata=strict_yaml.formerly("on"))
    """Settings that differ on a chip, by its name."""

    def on_chip(self, name: str) -> Model:
        """The model with its settings for the chip `name`."""
        own = self.per_chip.get(name, OnChip())
        return replace(
            self,
            serve=own.serve or self.serve,
            sampling=own.sampling or self.sampling,
            baseline=own.baseline or self.baseline,
            notes=self.notes if own.notes is None else own.notes,
            per_chip={},
        )


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A question set and how it is asked."""

    title: BenchmarkTitle
    """Its name on the card."""
    task: Task
    """The kind of questions, a task of evaluation/tasks/."""
    data: Annotated[str, strict_yaml.Checked(check_data)]
    """Where the questions are read from: data://, generated:// or a form of SOURCES."""
    license: Line
    """Of the questions, for the card."""
    shots: Annotated[int, at_least(0)] = 0
    """Worked examples in each prompt."""
    repeats: Count = 1
    """Answers to each question."""
    margin: Margin = 0.05
    """The non-inferiority margin, a fraction of 1."""
    total: Count | None = None
    """Questions of the complete benchmark, if `data` is a part of it; its score is then shown as partial."""
    harness: HarnessName | None = None
    """The harness, instead of the profile's."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """The share of a benchmark that a profile asks."""

    limit: Count | None = None
    """The first questions of a fixed shuffle; by default all."""
    repeats: Count | None = None
    """Answers to each question, instead of the benchmark's."""


@dataclass(frozen=True, kw_only=True)
class Slo:
    """The service-level objectives of a request."""

    ttft: Seconds = 2.0
    """Time to first token, seconds."""
    tpot: Seconds = 0.1
    """Mean time per further output token, seconds."""


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Load of one shape, at several concurrencies."""

    input: int
    """Random tokens of each prompt."""
    output: int
    """Tokens of each answer."""
    concurrency: tuple[int, ...]
    """Concurrent clients; each value is one load point."""
    requests: int = 4
    """Requests of each client, one after the other."""
    gate: float = 0.80
    """The lowest ratio to the native stack's output tokens per second that passes."""
    slo: Slo = field(default_factory=Slo)
    """The limits that goodput is counted by."""

    def __post_init__(self) -> None:
        if self.input < 1 or self.requests < 1 or not self.concurrency or min(self.concurrency) < 1:
            raise ValueError("input, requests and each concurrency must be at least 1")
        if self.output < 2:
            raise ValueError("output must be at least 2, to measure the time per output token")
        if not 0 < self.gate <= 1:
            raise ValueError(f"gate {self.gate} is not in (0, 1]; 0.80 is 80 % of the native speed")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The evaluation of a release: its benchmarks and loads."""

    benchmarks: Mapping[str, Share]
    """By name, the share that is asked."""
    sequential: bool = True
    """Whether an evaluation ends as soon as its verdict is decided; otherwise all questions are asked."""
    harness: HarnessName = DEFAULT_HARNESS
    """The program that asks and grades: our own harness, evalscope or the FlagEval platform."""
    gate_tokens: Annotated[int, at_least(0)] = 10_000
    """Tokens that the token gate compares; with fewer than 10,000 it can FAIL but not PASS, 0 turns it off."""
    speed: tuple[Traffic, ...] = ()
    """The loads under which speed is measured; without one it is not measured."""
    load_tool: LoadToolName | None = None
    """The load generator, instead of the engine's."""
    speed_minutes: Annotated[float, at_least(0)] = 240.0
    """The time after which a run stops to measure speed, undecided; the next run continues. Three starts of the servers
    are always measured."""


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Settings of all cells that do not set their own."""

    baseline: Baseline
    """The evaluation that a cell is compared with."""
    stack: Stack = "flagos"
    """The stack that is released."""
    profile: str = "full"
    """The profile."""
    kernels: KernelSettings = field(default_factory=KernelSettings)
    """The settings of operators."""
    rounds: int = 3
    """How many times, at most, a cell goes on after a failed gate without the operators at fault."""
    unverified_files: Literal["trust", "refuse"] = "trust"
    """Whether to use files for which the hub lists no checksum: they can only be compared with their first download."""

    def __post_init__(self) -> None:
        if self.rounds < 0:
            raise ValueError("rounds must be >= 0 (with 0, no operators are looked for after a failed gate)")


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    """A rule that excludes cells."""

    chip: str
    """A name or a glob."""
    model: str
    """A name or a glob."""
    reason: Text
    """Shown by `plan` and on selection."""


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """The validated content of matrix.yaml: all names that it refers to are defined."""

    version: int
    """Of the format."""
    registry: str
    """HOST/PREFIX of published images."""
    defaults: Defaults
    """Settings of all cells that do not set their own."""
    chips: Mapping[str, Chip]
    """By name."""
    models: Mapping[str, Model]
    """By name."""
    benchmarks: Mapping[str, Benchmark]
    """By name."""
    profiles: Mapping[str, Profile]
    """By name."""
    exclude: tuple[Exclusion, ...] = ()
    """The rules that exclude cells."""
    repository: Annotated[str, strict_yaml.Checked(check_repository)] = REPOSITORY
    """The template of an image's name below `registry`."""
    targets: Mapping[str, Target] = field(default_factory=dict)
    """Where releases are published in addition, by name."""
    waivers: tuple[Waiver, ...] = ()
    """Known shortcomings that do not withhold a release."""

    def __post_init__(self) -> None:
        if self.version != 1:
            raise FieldError(f"is {self.version}, which is not known; this program supports version 1", "version")
        for kind in ("chips", "models", "benchmarks", "profiles"):
            names: Mapping[str, object] = getattr(self, kind)
            if not names:
                raise FieldError("is empty", kind)
            for name in names:
                if not _NAME.fullmatch(name) or len(name) > 63:
                    rule = "a name consists of lower-case letters, digits and single . _ -"
                    raise FieldError(f"is not a name: {rule}", kind, name)
        self._check_references()
        self._check_exclusions()
        check_matches(self.waivers, self.chips, self.models, self.benchmarks)
        self._check_lengths()
        self._check_published_names()

    def _check_references(self) -> None:
        _check_value(self.defaults.profile, self.profiles, "defaults", "profile")
        self._check_baseline(self.defaults.baseline, "defaults")
        for name, profile in self.profiles.items():
            if not profile.benchmarks:
                raise FieldError("is empty; a release needs at least one", "profiles", name, "benchmarks")
            loads: set[tuple[int, int, int]] = set()
            for index, traffic in enumerate(profile.speed):
                points = {(traffic.input, traffic.output, clients) for clients in traffic.concurrency}
                if loads & points or len(points) < len(traffic.concurrency):
                    raise FieldError("has a load that the profile has already", "profiles", name, "speed", index)
                loads |= points
            for benchmark in profile.benchmarks:
                _check_key(benchmark, self.benchmarks, "a benchmark", "profiles", name, "benchmarks")
        for name, chip in self.chips.items():
            _check_value(chip.profile, self.profiles, "chips", name, "profile")
        for name, model in self.models.items():
            self._check_baseline(model.baseline, "models", name)
            for chip_name, own in model.per_chip.items():
                path = ("models", name, "per_chip")
                _check_key(chip_name, self.chips, "a chip", *path)
                _check_value(own.profile, self.profiles, *path, chip_name, "profile")
                self._check_baseline(own.baseline, *path, chip_name)

    def _check_baseline(self, baseline: Baseline | None, *path: str) -> None:
        if baseline is not None and baseline.chip != "same":
            _check_value(baseline.chip, self.chips, *path, "baseline", "chip")

    def _check_exclusions(self) -> None:
        """A rule that matches nothing would release a cell that somebody meant to exclude."""
        for index, rule in enumerate(self.exclude):
            check_globs(rule, self.chips, self.models, "exclude", index)

    def _check_lengths(self) -> None:
        for name, model in self.models.items():
            _check_room(model.serve, model.sampling, "models", name)
            for chip_name, own in model.per_chip.items():
                path = ("models", name, "per_chip", chip_name)
                _check_room(own.serve or model.serve, own.sampling or model.sampling, *path)

    def _check_published_names(self) -> None:
        cells = {
            f"{chip_name}/{model_name}": of_cell(chip_name, chip, model_name, model.title)
            for chip_name, chip in self.chips.items()
            for model_name, model in self.models.items()
            if not any(matches(rule, chip_name, model_name) for rule in self.exclude)
        }
        check_names(self.repository, self.targets, cells)


def _check_room(serve: Serve, sampling: Sampling, *path: str) -> None:
    if serve.max_model_len <= sampling.max_tokens:
        room = f"sampling.max_tokens is {sampling.max_tokens}, which leaves no room for a prompt"
        raise FieldError(f"is {serve.max_model_len}, but {room}", *path, "serve", "max_model_len")


def _check_value(name: str | None, names: Mapping[str, object], *path: str) -> None:
    """Raise FieldError unless the value at `path` is one of `names` or not set."""
    if name is not None and name not in names:
        raise FieldError(f"is {name!r}; {did_you_mean(name, names)}", *path)


def _check_key(name: str, names: Mapping[str, object], kind: str, *path: str) -> None:
    """Raise FieldError unless `name`, a key of the mapping at `path`, is one of `names`."""
    if name not in names:
        raise FieldError(f"is not {kind}; {did_you_mean(name, names)}", *path, name)


def load(path: Path) -> Matrix:
    """Read and validate matrix.yaml. Raises ConfigError with file and line."""
    return strict_yaml.load(path, Matrix)
