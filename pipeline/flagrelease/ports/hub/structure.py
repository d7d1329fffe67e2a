"""Check that the files of a model are complete and what their names say, without reading tensors."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flagrelease.config.lockfile import LockedFile
from flagrelease.errors import HubRefused
from flagrelease.ports.hub.tensor_files import Malformed, check_gguf, safetensors_names

WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
_SPLIT = re.compile(rf"(?P<stem>.+)-(?P<number>\d+)-of-(?P<total>\d+)(?P<suffix>{'|'.join(map(re.escape, WEIGHTS))})")
_INDEX = re.compile(r".+\.(?P<format>safetensors|bin)\.index(\.[\w-]+)?\.json")
_PICKLED = re.compile(r"(pytorch_model|adapter_model|consolidated)[\w.-]*\.(bin|pt|pth)")
_OBJECTS = frozenset(
    {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    | {"added_tokens.json", "vocab.json", "preprocessor_config.json", "processor_config.json", "params.json"}
    | {"quantize_config.json", "hf_quant_config.json", "adapter_config.json", "chat_template.json"}
)
_TEXTS = frozenset({"merges.txt", "vocab.txt", "chat_template.jinja"})
_TOKENIZERS = frozenset({"tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tiktoken.model"})

_LONGEST_POINTER = 1024
_POINTERS = {
    b"version https://git-lfs.github.com/spec/": "git-lfs",
    b"version https://hawser.github.com/spec/": "git-lfs",
    b"# xet version": "git-xet",
    b"/annex/objects/": "git-annex",
}
_PAGE = re.compile(rb"\s*(<\?xml[^>]*>\s*)?<(!doctype\s+html|html|head)\b", re.IGNORECASE)

At = Callable[[str], Path | None]
"""Where the file with this path lies; None if it is not on this machine."""


def check(files: Sequence[LockedFile], at: At, source: str) -> None:
    """Raise HubRefused, naming the file, unless `files` are a complete model as far as their names, sizes, headers and
    JSON show. Only files that `at` finds are opened.

    Every shard that an index or a split name promises is there, no file is a pointer or a web page, no weights are
    empty, tensors fill their file exactly, and the files that describe model and tokenizer can be read.
    """
    by_path = {file.path: file for file in files}
    for path, why in _missing_parts(by_path):
        raise _refused(source, path, why)
    tensors: dict[str, frozenset[str]] = {}
    indices: dict[str, Mapping[str, str]] = {}
    for path, file in sorted(by_path.items()):
        try:
            if file.size == 0 and path.endswith(WEIGHTS):
                raise Malformed("it is empty")
            local = at(path)
            if local is None:
                continue
            _check_content(path, local)
            if path.endswith(".safetensors"):
                with local.open("rb") as stream:
                    tensors[path] = safetensors_names(stream, local.stat().st_size)
            elif _INDEX.fullmatch(_name(path)):
                indices[path] = _weight_map(local)
        except Malformed as error:
            raise _refused(source, path, str(error)) from None
        except OSError as error:
            raise _refused(source, path, f"it cannot be read: {error.strerror}") from None
    for index, shards in indices.items():
        _check_index(index, shards, by_path, tensors, source)


def is_page(path: Path) -> bool:
    """Whether the file is a web page, such as the one of a login that answered instead of a hub."""
    with path.open("rb") as stream:
        return _PAGE.match(stream.read(_LONGEST_POINTER)) is not None


def pointer_of(path: Path) -> str:
    """The program for large files in git, such as git-lfs, of which the file is a pointer; empty if of none."""
    if path.stat().st_size > _LONGEST_POINTER:
        return ""
    content = path.read_bytes().lstrip(b"\xef\xbb\xbf \t\r\n")
    return next((name for start, name in _POINTERS.items() if content.startswith(start)), "")


def _missing_parts(paths: Iterable[str]) -> list[tuple[str, str]]:
    """By one part of each incomplete set of NAME-00001-of-00003.SUFFIX, what it lacks."""
    sets: dict[tuple[str, str, int], dict[int, str]] = {}
    for path in sorted(paths):
        if match := _SPLIT.fullmatch(path):
            parts = sets.setdefault((match["stem"], match["suffix"], int(match["total"])), {})
            parts[int(match["number"])] = path
    problems = []
    for (_, _, total), parts in sets.items():
        first = 0 if 0 in parts else 1
        path = min(parts.values())
        if surplus := [number for number in parts if number >= first + total]:
            problems.append((parts[surplus[0]], f"its number is above its total of {total}"))
        elif len(parts) < total:
            absent = next(number for number in range(first, first + total) if number not in parts)
            problems.append((_renumbered(path, absent), f"part {absent} of {total} is missing next to {_name(path)}"))
    return problems


def _renumbered(path: str, number: int) -> str:
    def other(match: re.Match[str]) -> str:
        return f"-{number:0{len(match[1])}}-of-"

    return re.sub(r"-(\d+)-of-", other, path)


def _check_content(path: str, local: Path) -> None:
    name = _name(path)
    if program := pointer_of(local):
        raise Malformed(f"it is a pointer of {program}, not the file itself")
    if name.endswith(".gguf"):
        with local.open("rb") as stream:
            check_gguf(stream, local.stat().st_size)
    elif _PICKLED.fullmatch(name):
        _check_pickled(local)
    elif name in _OBJECTS or _INDEX.fullmatch(name):
        _check_object(name, _object(local))
    elif name in _TEXTS or name in _TOKENIZERS:
        if local.stat().st_size == 0:
            raise Malformed("it is empty")
        if is_page(local):
            raise Malformed("it is a web page")
        if name in _TEXTS:
            _text(local)


def _check_pickled(local: Path) -> None:
    with local.open("rb") as stream:
        start = stream.read(4)
    if start == b"PK\x03\x04":
        if not zipfile.is_zipfile(local):
            raise Malformed("it is a zip archive that ends early")
    elif not start.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        raise Malformed("it is not a checkpoint of PyTorch, which is a zip archive or a pickle")


def _check_object(name: str, content: Mapping[str, Any]) -> None:
    if name == "config.json":
        kind, architectures = content.get("model_type", ""), content.get("architectures") or []
        if not isinstance(kind, str):
            raise Malformed("its model_type is not a text")
        if not isinstance(architectures, list) or not all(isinstance(each, str) for each in architectures):
            raise Malformed("its architectures are not a list of names")
    elif name == "tokenizer.json" and not isinstance(content.get("model"), dict):
        raise Malformed("it is not a tokenizer: it has no model")


def _object(local: Path) -> dict[str, Any]:
    """The JSON object in the file, as Python's reader takes it. Raises Malformed."""

    def constant(text: str) -> float:
        if text == "NaN":
            raise Malformed("it is not JSON: it contains NaN")
        return float(text)  # Infinity is in the configurations of real models, such as time_step_limit

    try:
        content = json.loads(_text(local), parse_constant=constant)
    except (ValueError, RecursionError) as error:
        page = "a web page" if is_page(local) else str(error)[:100]
        raise Malformed(f"it is not JSON: {page}") from None
    if not isinstance(content, dict):
        raise Malformed("it is not a JSON object")
    return content


def _text(local: Path) -> str:
    try:
        return local.read_bytes().decode()
    except UnicodeDecodeError:
        raise Malformed("it is not UTF-8") from None


def _weight_map(local: Path) -> Mapping[str, str]:
    """By tensor, the shard that holds it. Raises Malformed."""
    shards = _object(local).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(shard, str) for shard in shards.values()):
        raise Malformed("it has no weight_map of tensors to shards")
    return shards


def _check_index(
    index: str,
    shards: Mapping[str, str],
    files: Mapping[str, LockedFile],
    tensors: Mapping[str, frozenset[str]],
    source: str,
) -> None:
    folder = index[: -len(_name(index))]
    absent = sorted({shard for shard in shards.values() if folder + shard not in files})
    if absent and not _superseded(index, shards, files):
        why = f"a shard that {index} names is missing"
        if folder + absent[0] == index or "/" in absent[0] or "\\" in absent[0]:
            why = f"{index} names it as a shard, which is not a file in its folder"
        raise _refused(source, folder + absent[0], why)
    for tensor, shard in sorted(shards.items()):
        if folder + shard in tensors and tensor not in tensors[folder + shard]:
            raise _refused(source, folder + shard, f"it lacks tensor {tensor!r}, which {index} says is in it")


def _superseded(index: str, shards: Mapping[str, str], files: Mapping[str, LockedFile]) -> bool:
    """Whether the index is a remainder of PyTorch shards that were replaced by safetensors, which engines prefer."""
    folder = index[: -len(_name(index))]
    match = _INDEX.fullmatch(_name(index))
    replaced = any(path.startswith(folder) and path.endswith(".safetensors") for path in files)
    none_there = not any(folder + shard in files for shard in shards.values())
    return match is not None and match["format"] == "bin" and replaced and none_there


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _refused(source: str, path: str, why: str) -> HubRefused:
    hint = "complete or repair the source, then run `flagrelease lock`"
    if "pointer of git-lfs" in why:
        hint = "run `git lfs pull` where it was cloned, then `flagrelease lock`"
    return HubRefused(f"{path} of {source} is refused", why=why, hint=hint)
