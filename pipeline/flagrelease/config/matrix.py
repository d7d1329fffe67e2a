"""matrix.yaml: the chips, models, benchmarks and profiles that are to be released."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from flagrelease.config import strict_yaml
from flagrelease.config.engines import ENGINES, Execution, LoadToolName
from flagrelease.config.harness_names import DEFAULT_HARNESS, HarnessName
from flagrelease.config.sources import Source, check_data
from flagrelease.config.vendors import VENDORS
from flagrelease.errors import ConfigError, did_you_mean

_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|m|h)")

Stack = Literal["native", "flagos"]


def check_name(name: str, names: Iterable[str], kind: str) -> None:
    """Raise ConfigError with the closest known name where `name` is not one of `names`."""
    if name not in names:
        raise ConfigError(f"unknown {kind} {name!r}", hint=did_you_mean(name, names))


Engine = Annotated[str, strict_yaml.Checked(lambda name: check_name(name, ENGINES, "serving engine"))]
"""What serves a model: a key of ENGINES."""

VendorName = Annotated[str, strict_yaml.Checked(lambda name: check_name(name, VENDORS, "vendor"))]
"""FlagGems' name for a vendor: a key of VENDORS."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """The accelerator as its vendor names it."""

    name: str
    code: str
    query: str = ""
    """The command that prints the driver's version; the vendor's own by default."""


@dataclass(frozen=True, kw_only=True)
class Components:
    """Versions of the FlagOS parts in the image; `none` where the chip has no such part."""

    flagscale: str
    flaggems: str
    flagtree: str = "none"
    flagcx: str = "none"


@dataclass(frozen=True, kw_only=True)
class Container:
    """What `docker run` needs on this chip. The same fields start the container and print its command line."""

    network: Literal["bridge", "host"] = "bridge"
    ipc: str = ""
    uts: str = ""
    pid: str = ""
    privileged: bool = False
    gpus: str = ""
    runtime: str = ""
    shm: str = ""
    devices: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    security: tuple[str, ...] = ()
    ulimits: Mapping[str, int] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[str, ...] = ()
    tmpfs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """How the Triton operators of a chip are qualified, tuned and chosen. Times are written 90s, 10m or 2h."""

    policy: Literal["express", "coverage"] = "express"
    """`express` keeps what makes the served model faster, `coverage` all that is correct."""
    device: str = ""
    """PyTorch's name for the chip; by default that of its vendor."""
    budget: str = "10m"
    """For tuning."""
    limit: str = "2h"
    """For the whole stage."""
    operator_limit: str = "3m"
    """For one operator."""
    max_len: int | None = None
    """Cuts the longest context that is looked at."""
    classes: int = 24
    """How many shape classes of an operator are measured."""
    min_speed_ratio: float = field(default=0.98, metadata=strict_yaml.formerly("floor"))
    """The least that `express` may have of native speed."""
    execution: Execution | None = None
    """How the engine runs the layers, which decides what operators they call; by default as its arguments say."""
    exclude: Mapping[str, str] = field(default_factory=dict)
    """Operators that are taken out by hand, with the reasons."""

    def __post_init__(self) -> None:
        for name in ("budget", "limit", "operator_limit"):
            duration(getattr(self, name))
        if (self.max_len is not None and self.max_len < 2) or self.classes < 1:
            raise ValueError("max_len is at least 2 and classes at least 1")
        if not 0 < self.min_speed_ratio <= 1:
            raise ValueError(
                f"min_speed_ratio is {self.min_speed_ratio:g}, and is a share of native speed: above 0, at most 1"
            )


def duration(text: str) -> float:
    """Seconds of 90s, 10m or 2h. Raises ValueError."""
    match = _TIME.fullmatch(text)
    if match is None or float(match[1]) <= 0:
        raise ValueError(f"{text!r} is no time: write 90s, 10m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


@dataclass(frozen=True, kw_only=True)
class Chip:
    """An accelerator as a release target.

    `reasons` say why a component is `none`, for the card; `python` is the version that the base image has. The first of
    `hosts` names the machine that stages on the chip hold one at a time. Nothing is sent there: flagrelease is started
    on that machine.
    """

    vendor: VendorName
    device: Device
    base: str
    components: Components
    python: str = "3.11"
    container: Container = field(default_factory=Container)
    hosts: tuple[str, ...] = ("local",)
    reasons: Mapping[str, str] = field(default_factory=dict)
    profile: str | None = None
    kernels: Kernels | None = None


@dataclass(frozen=True, kw_only=True)
class Serve:
    """How FlagScale serves a model: `name` is what `flagscale serve NAME` takes, `args` go to the engine.

    `convert` unpacks a GGUF source into a folder of that format, for engines that do not serve GGUF. `colocate` says
    that the chip's memory holds two of these servers, so that both stacks stay up and take turns while they are
    compared.
    """

    name: str
    engine: Engine
    convert: Literal["safetensors"] | None = None
    colocate: bool = field(default=False, metadata=strict_yaml.formerly("beside"))
    port: int = 8000
    max_model_len: int = 4096
    concurrency: int = 8
    ready_seconds: float = 1800.0
    args: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = ENGINES[self.engine].sizes if self.engine in ENGINES else ()
        counts = {f"args.{name}": self.args[name] for name in sizes if name in self.args}
        counts |= {"max_model_len": self.max_model_len, "concurrency": self.concurrency}
        for name, value in counts.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}, and has to be a number of 1 or more")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    max_tokens: int = 1024
    thinking: bool = False


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Whose native evaluation a cell is compared with; `same` is the cell's own chip."""

    chip: str
    stack: Stack = "native"


@dataclass(frozen=True, kw_only=True)
class OnChip:
    """What a model has otherwise on one chip. Each that is given replaces the model's own as a whole."""

    serve: Serve | None = None
    sampling: Sampling | None = None
    baseline: Baseline | None = None
    notes: tuple[str, ...] | None = None
    kernels: Kernels | None = None
    profile: str | None = None


@dataclass(frozen=True, kw_only=True)
class Model:
    """Open weights as a release source. `notes` are facts about the weights that the card must say;
    `languages` are ISO 639-1 codes, for the card's front matter; `per_chip` holds what differs on a chip, by its name.
    """

    title: str
    source: Annotated[str, strict_yaml.Checked(Source.parse)]
    upstream: str
    license: str
    serve: Serve
    sampling: Sampling = field(default_factory=Sampling)
    baseline: Baseline | None = None
    notes: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    per_chip: Mapping[str, OnChip] = field(default_factory=dict, metadata=strict_yaml.formerly("on"))

    def on_chip(self, name: str) -> Model:
        """The model as it is on the chip `name`."""
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
    """A question set and how it is asked.

    `total` is the size of the whole benchmark where `data` holds only a part of it; such a score is shown
    as partial. `margin` is the largest loss, as a fraction of 1, that still counts as equivalent. `harness` asks it
    instead of the profile's.
    """

    title: str
    task: str
    data: Annotated[str, strict_yaml.Checked(check_data)]
    license: str
    shots: int = 0
    repeats: int = 1
    margin: float = 0.05
    total: int | None = None
    harness: HarnessName | None = None


@dataclass(frozen=True, kw_only=True)
class Share:
    """How much of a benchmark a profile asks: the first `limit` questions of a fixed shuffle, or all."""

    limit: int | None = None
    repeats: int | None = None


@dataclass(frozen=True, kw_only=True)
class Slo:
    """What a user waits for at most, in seconds: the first token, and each further one on average."""

    ttft: float = 2.0
    tpot: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Load of one shape: prompts of `input` random tokens, answers of `output` tokens, at each `concurrency`.

    `requests` is how many each of the concurrent clients sends, one after the other; `gate` is the smallest share
    of the native stack's output tokens a second that passes.
    """

    input: int
    output: int
    concurrency: tuple[int, ...]
    requests: int = 4
    gate: float = 0.80
    slo: Slo = field(default_factory=Slo)

    def __post_init__(self) -> None:
        if self.input < 1 or self.requests < 1 or not self.concurrency or min(self.concurrency) < 1:
            raise ValueError("input, requests and each concurrency are at least 1")
        if self.output < 2:
            raise ValueError("output is at least 2: the time for a further token needs one")
        if not 0 < self.gate <= 1:
            raise ValueError(f"gate {self.gate} is not in (0, 1]; 0.80 is four fifths of the native speed")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a release is asked, and the load under which its speed is measured; without `speed` it is not.

    A `sequential` evaluation stops as soon as its verdict is decided; otherwise everything is asked. `harness` is what
    asks: our own engine, evalscope, or the FlagEval service. `load_tool` measures speed instead of the engine's.
    """

    benchmarks: Mapping[str, Share]
    sequential: bool = True
    harness: HarnessName = DEFAULT_HARNESS
    speed: tuple[Traffic, ...] = ()
    load_tool: LoadToolName | None = None


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """`rounds`: how often a release whose gate failed goes on without the operators that did it."""

    baseline: Baseline
    stack: Stack = "flagos"
    profile: str = "full"
    kernels: Kernels = field(default_factory=Kernels)
    rounds: int = 3

    def __post_init__(self) -> None:
        if self.rounds < 0:
            raise ValueError("rounds is below zero; 0 takes no operator out")


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    chip: str
    model: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """All of matrix.yaml, checked: every name that is referred to is defined."""

    version: int
    registry: str
    defaults: Defaults
    chips: Mapping[str, Chip]
    models: Mapping[str, Model]
    benchmarks: Mapping[str, Benchmark]
    profiles: Mapping[str, Profile]
    exclude: tuple[Exclusion, ...] = ()

    def __post_init__(self) -> None:
        if self.version != 1:
            raise ValueError(f"version {self.version} is not known; this program reads version 1")
        for kind in ("chips", "models", "benchmarks", "profiles"):
            names: Mapping[str, object] = getattr(self, kind)
            if not names:
                raise ValueError(f"{kind} is empty")
            for name in names:
                if not _NAME.fullmatch(name) or len(name) > 63:
                    raise ValueError(f"{kind}.{name}: a name has lower-case letters, digits and single . _ -")
        self._check_references()

    def _check_references(self) -> None:
        _known(self.defaults.profile, self.profiles, "defaults.profile")
        for name, profile in self.profiles.items():
            for benchmark in profile.benchmarks:
                _known(benchmark, self.benchmarks, f"a benchmark of profiles.{name}")
        profiles = {f"chips.{name}": chip.profile for name, chip in self.chips.items()}
        baselines: dict[str, Baseline | None] = {"defaults": self.defaults.baseline}
        for name, model in self.models.items():
            baselines[f"models.{name}"] = model.baseline
            for chip_name, own in model.per_chip.items():
                _known(chip_name, self.chips, f"a chip of models.{name}.per_chip")
                profiles[f"models.{name}.per_chip.{chip_name}"] = own.profile
                baselines[f"models.{name}.per_chip.{chip_name}"] = own.baseline
        for where, used in profiles.items():
            if used is not None:
                _known(used, self.profiles, f"{where}.profile")
        for where, baseline in baselines.items():
            if baseline is not None and baseline.chip != "same":
                _known(baseline.chip, self.chips, f"{where}.baseline.chip")


def _known(name: str, names: Mapping[str, object], where: str) -> None:
    if name not in names:
        raise ValueError(f"{where} is {name!r}; {did_you_mean(name, names)}")


def load(path: Path) -> Matrix:
    """Read and check matrix.yaml. Raises ConfigError with file and line."""
    return strict_yaml.load(path, Matrix)
