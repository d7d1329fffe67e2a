"""What each stage gives: frozen, serialisable, and all that a later stage may know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flagrelease.config.lockfile import LockedFile
from flagrelease.contract.handles import ResultOf, Verdict
from flagrelease.recipe.container import RunnerKind
from flagrelease.store.evidence import Evidence
from flagrelease.verdict.stats.fidelity import Fidelity
from flagrelease.verdict.types import Course, NoiseFloor


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """What was fetched where something else is served: its folder, set digest and files; the sha256 of the program that
    made the one out of the other, and the versions of what it used."""

    folder: str
    digest: str
    files: tuple[LockedFile, ...]
    program: str
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Verified model files, as they are served. `folder` is relative to the workspace's weights folder; `bytes_moved`
    were fetched. `digest` names what answers depend on; with `unpacked` they were made here out of what was fetched."""

    folder: str
    source: str
    revision: str
    digest: str
    files: tuple[LockedFile, ...]
    bytes_moved: int
    unpacked: Unpacked | None = None
    evidence: tuple[Evidence, ...] = ()

    @property
    def fetched(self) -> tuple[LockedFile, ...]:
        """The files that `source` has."""
        return self.unpacked.files if self.unpacked else self.files

    @property
    def summary(self) -> str:
        return f"{len(self.files)} file{'s' * (len(self.files) != 1)}, {self.digest[:19]}"


@dataclass(frozen=True, kw_only=True)
class Operator:
    """An operator in effect: its shape classes that were measured, those where it certainly beats the vendor's kernel,
    and the median share of the chip's limit that it and the vendor's kernel reach there (fractions of 1)."""

    name: str
    classes: int = 0
    faster: int = 0
    share: float | None = None
    native_share: float | None = None


@dataclass(frozen=True, kw_only=True)
class ExcludedOperator:
    """An operator that the model calls and that stays with the vendor's kernel."""

    operator: str
    verdict: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Kernels with candidates, the keys (sizes and dtypes) they were tuned for, candidates timed, seconds in all."""

    kernels: int
    keys: int
    candidates: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """The operators that this model is served with on this chip, as a bundle.

    `folder` is relative to the workspace; `content` (64 hex digits) is what the bundle and each process that has it in
    effect call it. `verdicts` counts operators; `served` is, by load, speed with all operators over native speed:
    median, and the ends of its 95 % interval. `execution` is how the engine runs the layers, for which the operators
    were chosen: compiled, captured or eager; `requests` what is asked of it: mixed or greedy. Both are empty in results
    of before they were told."""

    folder: str
    content: str
    policy: str
    operators: tuple[Operator, ...]
    excluded: tuple[ExcludedOperator, ...]
    verdicts: Mapping[str, int]
    tuning: Tuning
    served: Mapping[str, tuple[float, float, float]]
    versions: Mapping[str, str]
    execution: str = ""
    requests: str = ""
    evidence: tuple[Evidence, ...] = ()

    @property
    def summary(self) -> str:
        calls = len(self.operators) + len(self.excluded)
        return f"{len(self.operators)} of {calls} operators ({self.policy}), {self.tuning.keys} keys tuned"


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What a host that reaches no network needs: folders of the workspace, relative to it. `own` names the benchmarks
    whose data is the operator's."""

    folders: tuple[str, ...]
    bytes: int
    own: tuple[str, ...]
    evidence: tuple[Evidence, ...] = ()

    @property
    def summary(self) -> str:
        return f"{self.bytes / 1e6:.1f} MB"


@dataclass(frozen=True, kw_only=True)
class Image:
    """A pushed image. `repository@digest` is what every later stage pulls. Where `runner` is "process" nothing is
    pushed: its files lie in the workspace, and `digest` is that of the build context.

    `versions` are the versions found inside the image; `remarks` say what in it is not upstream's own.
    """

    repository: str
    digest: str
    image_id: str
    base: str
    base_id: str
    size: int
    pushed_bytes: int
    labels: Mapping[str, str]
    versions: Mapping[str, str]
    remarks: tuple[str, ...]
    runner: RunnerKind = "docker"
    evidence: tuple[Evidence, ...] = ()

    @property
    def reference(self) -> str:
        return f"{self.repository}@{self.digest}"

    @property
    def summary(self) -> str:
        return f"{self.digest[:19]}, {self.size / 1e6:.0f} MB"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that smoke looked at. `detail` says what was seen."""

    name: str
    passed: bool
    detail: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Smoke:
    """A started image that answered as it must. `docker_run` is the command line that started it, as the card
    shows it; `environment` names the host's OS, Docker and driver versions as the card's table does; `skipped` says by
    name why a check could not be made."""

    ready_seconds: float
    checks: tuple[Check, ...]
    docker_run: tuple[str, ...]
    commands: Mapping[str, str]
    environment: Mapping[str, str]
    skipped: Mapping[str, str] = field(default_factory=dict)
    evidence: tuple[Evidence, ...] = ()

    @property
    def summary(self) -> str:
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"{len(self.checks)} checks{skipped}, ready in {self.ready_seconds:.1f} s"


@dataclass(frozen=True, kw_only=True)
class BenchmarkScore:
    """One benchmark of the comparison. Scores and differences are fractions of 1.

    `n` questions were asked, `repeats` times on average. `difference` is candidate − baseline with its 90 % interval;
    `partial` says what share of the benchmark was asked when it was not all of it; `metric` is the spelling on the
    card. `course` is that of a sequential evaluation; `noise` is the baseline against itself, where it was asked twice.
    """

    benchmark: str
    metric: str
    n: int
    repeats: float
    baseline: float | None
    candidate: float
    difference: float | None
    interval90: tuple[float, float] | None
    margin: float
    p_regression: float | None
    flips: tuple[int, int] | None
    errors: int
    truncated: int
    partial: str
    data_sha256: str
    verdict: Verdict
    reason: str
    course: Course | None = None
    noise: NoiseFloor | None = None


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """How alike candidate and baseline compute, by greedy and teacher-forced tokens: a diagnostic, never a gate.

    `reason` says why it was not measured. `noise` is the baseline against itself, asked alone and all at once;
    `outside` names the measures of `candidate` that lie beyond it. `method` says how tokens were scored, `tokens` how
    many of the baseline's."""

    reason: str = ""
    method: str = ""
    tokens: int = 0
    candidate: Fidelity | None = None
    noise: tuple[Fidelity, ...] = ()
    outside: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """The comparison with the baseline. `baseline_key` names the baseline evaluation in the ledger; `awaited` are the
    keys of those that were not there. `called`: how often each operator was called while this run asked
    (operatorcalls.py); None where that is not told."""

    verdict: Verdict
    reason: str
    benchmarks: tuple[BenchmarkScore, ...]
    baseline_name: str
    baseline_key: str
    sampling: Mapping[str, Any]
    questions_asked: int
    inference_seconds: float
    likeness: Likeness | None = None
    called: Mapping[str, int] | None = None
    evidence: tuple[Evidence, ...] = ()
    awaited: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        return f"{self.verdict}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median and 99th percentile of a latency in seconds."""

    median: float
    p99: float


@dataclass(frozen=True, kw_only=True)
class LoadFigures:
    """One stack at one load point, over all rounds. ports/load.py defines each number."""

    requests: int
    failed: int
    ttft_s: Spread
    tpot_s: Spread
    itl_s: Spread
    e2e_s: Spread
    requests_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    goodput_per_s: float


@dataclass(frozen=True, kw_only=True)
class SpeedPoint:
    """One load point. `ratio` is candidate / baseline in output tokens a second, with its 95 % interval;
    `ttft_slo` and `tpot_slo` (seconds) are the limits that goodput counts by."""

    input_tokens: int
    output_tokens: int
    concurrency: int
    rounds: int
    baseline: LoadFigures
    candidate: LoadFigures
    ratio: float
    interval95: tuple[float, float]
    gate: float
    ttft_slo: float
    tpot_slo: float
    verdict: Verdict
    reason: str


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The comparison with the native stack on the same chip. `tool` made the load; `turns` says how the two took
    turns, for the card; `left_out` which loads of the profile were not measured, and why."""

    verdict: Verdict
    reason: str
    points: tuple[SpeedPoint, ...]
    baseline_name: str
    tool: str
    turns: str
    left_out: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()

    @property
    def summary(self) -> str:
        least, count = min(point.interval95[0] for point in self.points), len(self.points)
        return f"{self.verdict}: {least:.2f} of the native speed at least, {count} load point{'s' * (count != 1)}"


@dataclass(frozen=True, kw_only=True)
class Card:
    """The rendered card. `readme` and `images` are evidence; `lint` lists what was checked on it."""

    readme: Evidence
    images: tuple[Evidence, ...]
    lint: tuple[str, ...]
    evidence: tuple[Evidence, ...] = ()

    @property
    def summary(self) -> str:
        return f"{len(self.lint)} checks, {len(self.images)} picture{'s' * (len(self.images) != 1)}"


@dataclass(frozen=True, kw_only=True)
class Publish:
    """Where the release is: tags by name, all of the one digest, and the local release folder. Where `withheld` says
    why nothing was published, there is no tag, and the folder holds the private draft."""

    digest: str
    tags: tuple[str, ...]
    folder: str
    record: Evidence
    withheld: str = ""
    evidence: tuple[Evidence, ...] = ()

    @property
    def summary(self) -> str:
        return self.withheld or ", ".join(self.tags)


@dataclass(frozen=True, kw_only=True)
class Culprit:
    """An operator that makes the answers worse, alone or beside `partner`; `finding` is the measurement in words."""

    operator: str
    finding: str
    partner: str = ""


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """Which of `operators` explain that `gate` (a stage) failed in round `round`, counted from 1. `clean`: without the
    culprits the rest is as near to float32 as the native kernels are; `together` is the finding on all of them."""

    round: int
    gate: str
    operators: int
    together: str
    culprits: tuple[Culprit, ...]
    clean: bool
    evidence: tuple[Evidence, ...] = ()

    @property
    def summary(self) -> str:
        if not self.culprits:
            named = "no operator can be named" if not self.clean else "the operators are not guilty"
            return f"{named}: {self.together}"
        return "; ".join(f"{one.operator}: {one.finding}" for one in self.culprits)


FETCHED = ResultOf("fetch", Fetched)
WEIGHTS = ResultOf("weights", Weights)
KERNELS = ResultOf("kernels", Kernels)
IMAGE = ResultOf("image", Image)
SMOKE = ResultOf("smoke", Smoke)
ACCURACY = ResultOf("accuracy", Accuracy)
SPEED = ResultOf("speed", Speed)
CARD = ResultOf("card", Card)
PUBLISH = ResultOf("publish", Publish)
ATTRIBUTION = ResultOf("attribute", Attribution)
