"""The results of the release's stages, and the handles to read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flagrelease.config.lockfile import LockedFile
from flagrelease.contract.accuracy_results import Accuracy
from flagrelease.contract.handles import ResultOf
from flagrelease.contract.speed_results import Speed
from flagrelease.recipe.container import RunnerKind
from flagrelease.recipe.device_check import Found
from flagrelease.store.evidence import Evidence


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """Fetched weights that are served in another format."""

    folder: str
    """Of the fetched files, relative to the workspace's weights folder."""
    digest: str
    """The set digest of the fetched files, sha256:…"""
    files: tuple[LockedFile, ...]
    """The fetched files."""
    program: str
    """sha256 (hex) of the program that converted them."""
    versions: Mapping[str, str]
    """Versions of the packages that the program used, by name."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Verified model files as they are served."""

    folder: str
    """Relative to the workspace's weights folder."""
    source: str
    """As in matrix.yaml."""
    revision: str
    """Of the source, pinned in matrix.lock."""
    digest: str
    """The set digest of `files`, sha256:…; answers depend on nothing else of the weights."""
    files: tuple[LockedFile, ...]
    """The files that are served."""
    bytes_moved: int
    """Bytes that were fetched."""
    unpacked: Unpacked | None = None
    """The fetched files, if `files` were converted from them."""
    evidence: tuple[Evidence, ...] = ()
    """Files that prove the result."""

    @property
    def fetched(self) -> tuple[LockedFile, ...]:
        """The files as `source` has them."""
        return self.unpacked.files if self.unpacked else self.files

    @property
    def summary(self) -> str:
        return f"{len(self.files)} file{'s' * (len(self.files) != 1)}, {self.digest[:19]}"


@dataclass(frozen=True, kw_only=True)
class Operator:
    """An operator in effect."""

    name: str
    """Its name in FlagGems."""
    classes: int = 0
    """Shape classes that were measured."""
    faster: int = 0
    """Shape classes in which it is significantly faster than the vendor's kernel."""
    share: float | None = None
    """Median over the shape classes of its speed as a fraction of the chip's limit; none if there is no limit."""
    native_share: float | None = None
    """The same for the vendor's kernel."""


@dataclass(frozen=True, kw_only=True)
class ExcludedOperator:
    """An operator that the model calls and that the vendor's kernel computes."""

    operator: str
    """Its name."""
    verdict: str
    """The verdict of its qualification; `excluded` if it was excluded by hand."""
    reason: str
    """Why it is excluded."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The extent of autotuning."""

    kernels: int
    """Kernels that have candidates."""
    keys: int
    """Keys (sizes and dtypes) that they were tuned for."""
    candidates: int
    """Candidates that were timed."""
    seconds: float
    """Time spent in all."""


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """The operator bundle that this model is served with on this chip."""

    folder: str
    """Of the bundle, relative to the workspace."""
    content: str
    """sha256 (hex) of the bundle's content, also reported by each process that has it in effect."""
    policy: str
    """`express` or `coverage`, as in matrix.yaml."""
    operators: tuple[Operator, ...]
    """The operators in effect."""
    excluded: tuple[ExcludedOperator, ...]
    """The other operators that the model calls."""
    verdicts: Mapping[str, int]
    """Number of operators by verdict of the qualification."""
    tuning: Tuning
    """The extent of autotuning."""
    served: Mapping[str, tuple[float, float, float]]
    """By load, speed with all operators over native speed: median, lower and upper end of its 95 % interval."""
    versions: Mapping[str, str]
    """Versions of the packages that the operators were built with, by name."""
    execution: str = ""
    """How the engine runs the layers: compiled, captured or eager; empty in results of earlier versions."""
    requests: str = ""
    """The sampling that the operators were selected for: mixed or greedy; empty in results of earlier versions."""
    evidence: tuple[Evidence, ...] = ()
    """Files that prove the result."""

    @property
    def summary(self) -> str:
        calls = len(self.operators) + len(self.excluded)
        return f"{len(self.operators)} of {calls} operators ({self.policy}), {self.tuning.keys} keys tuned"


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """The files that a host without network access needs."""

    folders: tuple[str, ...]
    """Folders of the workspace, relative to it."""
    bytes: int
    """Their size."""
    own: tuple[str, ...]
    """Benchmarks whose data the operator of the pipeline provides."""
    evidence: tuple[Evidence, ...] = ()
    """Files that prove the result."""

    @property
    def summary(self) -> str:
        return f"{self.bytes / 1e6:.1f} MB"


@dataclass(frozen=True, kw_only=True)
class Image:
    """A pushed image or, with the runner "process", its files in the workspace."""

    repository: str
    """REGISTRY/PREFIX/NAME."""
    digest: str
    """sha256:… of the pushed manifest, or of the build context if nothing was pushed."""
    image_id: str
    """sha256:… of the image's configuration; equal to `digest` if nothing was pushed."""
    base: str
    """The reference of the base image."""
    base_id: str
    """The id of the base image."""
    size: int
    """Bytes, uncompressed."""
    pushed_bytes: int
    """Bytes sent to the registry."""
    labels: Mapping[str, str]
    """The image's labels."""
    versions: Mapping[str, str]
    """Versions found inside the image, by component."""
    remarks: tuple[str, ...]
    """Deviations from the upstream software, for the card."""
    runner: RunnerKind = "docker"
    """What starts the image."""
    evidence: tuple[Evidence, ...] = ()
    """Files that prove the result."""

    @property
    def reference(self) -> str:
        """REPOSITORY@DIGEST, which all later stages pull."""
        return f"{self.repository}@{self.digest}"

    @property
    def summary(self) -> str:
        return f"{self.digest[:19]}, {self.size / 1e6:.0f} MB"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check of the smoke stage."""

    name: str
    """Its name on the card."""
    passed: bool
    """Whether it passed."""
    detail: str
    """What was observed."""
    seconds: float
    """How long it took."""


@dataclass(frozen=True, kw_only=True)
class Smoke:
    """A started image that passed its checks."""

    ready_seconds: float
    """From the start until the server was ready."""
    checks: tuple[Check, ...]
    """The checks that were made."""
    docker_run: tuple[str, ...]
    """The command line that starts the image, as on the card."""
    commands: Mapping[str, str]
    """The card's other commands that were run, by name."""
    environment: Mapping[str, str]
    """What was found, by the row of the card's table: the devices, and the versions of the host's OS, Docker and
    driver."""
    device: Found | None = None
    """The devices that the container saw; None for a processor, and for a tool whose output is not known."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """By name of a check that was not made, the reason."""
    not_run: Mapping[str, str] = field(default_factory=dict)
    """By name of a command of the card that was not run, the reason."""
    evidence: tuple[Evidence, ...] = ()
    """Files that prove the result."""

    @property
    def summary(self) -> str:
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"{len(self.checks)} checks{skipped}, ready in {self.ready_seconds:.1f} s"


@dataclass(frozen=True, kw_only=True)
class Card:
    """The rendered model card."""

    readme: Evidence
    """The card itself."""
    images: tuple[Evidence, ...]
    """Its pictures."""
    lint: tuple[str, ...]
    """The checks that it passed."""
    evidence: tuple[Evidence, ...] = ()
    """Files that prove the result."""

    @property
    def summary(self) -> str:
        return f"{len(self.lint)} checks, {len(self.images)} picture{'s' * (len(self.images) != 1)}"


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """A target that has a release."""

    target: str
    """Its name in matrix.yaml."""
    place: str
    """Where the release is there: a reference, a URL or a folder."""


@dataclass(frozen=True, kw_only=True)
class Publish:
    """A published release, or the private draft of one that was withheld."""

    digest: str
    """Of the image, sha256:…"""
    tags: tuple[str, ...]
    """The tags of that digest, REPOSITORY:TAG; empty if withheld."""
    folder: str
    """The local release folder, or that of the draft, relative to the workspace."""
    record: Evidence
    """release.json."""
    withheld: str = ""
    """Why nothing was published; empty if it was."""
    targets: tuple[Delivered, ...] = ()
    """The targets of the matrix, all of which have it."""
    evidence: tuple[Evidence, ...] = ()
    """Files that prove the result."""

    @property
    def summary(self) -> str:
        return self.withheld or ", ".join([*self.tags, *(one.place for one in self.targets)])


@dataclass(frozen=True, kw_only=True)
class Culprit:
    """An operator that makes the answers worse."""

    operator: str
    """Its name."""
    finding: str
    """The measurement in words."""
    partner: str = ""
    """The operator together with which it does so; empty if it does so alone."""


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """The operators that a failed gate is attributed to."""

    round: int
    """Counted from 1."""
    gate: str
    """The stage that failed."""
    operators: int
    """Number of operators that were in effect."""
    together: str
    """The measurement of all operators together, in words."""
    culprits: tuple[Culprit, ...]
    """The operators that were found."""
    clean: bool
    """Whether the other operators are as close to float32 as the native kernels are."""
    evidence: tuple[Evidence, ...] = ()
    """Files that prove the result."""

    @property
    def summary(self) -> str:
        if not self.culprits:
            named = "no culprit was found" if not self.clean else "the operators are not the cause"
            return f"{named}: {self.together}"
        return "; ".join(f"{culprit.operator}: {culprit.finding}" for culprit in self.culprits)


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
