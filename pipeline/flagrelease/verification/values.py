"""Compare a computed value with a recorded one, field by field. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import msgspec

__all__ = ["differences"]

_RELATIVE, _ABSOLUTE = 1e-6, 1e-9
"""Far below the last digit that is shown, and far above what another processor or library changes."""
_LONGEST = 80


def differences(recorded: object, computed: object, *, without: Collection[str] = ()) -> list[str]:
    """Each field that differs, as `FIELD is A, computed B`; fields named in `without` are skipped."""
    return list(_walk("", _plain(recorded), _plain(computed), frozenset(without)))


def _plain(value: object) -> Any:
    return msgspec.to_builtins(value, enc_hook=dict)


def _walk(where: str, recorded: Any, computed: Any, without: frozenset[str]) -> Iterator[str]:
    if isinstance(recorded, Mapping) and isinstance(computed, Mapping):
        for name in dict.fromkeys((*recorded, *computed)):
            inner = f"{where}.{name}" if where else str(name)
            if inner not in without:
                yield from _walk(inner, recorded.get(name), computed.get(name), without)
    elif isinstance(recorded, list | tuple) and isinstance(computed, list | tuple) and len(recorded) == len(computed):
        for at, pair in enumerate(zip(recorded, computed, strict=True)):
            yield from _walk(f"{where}[{at}]", *pair, without)
    elif not _same(recorded, computed):
        yield f"{where} is {_shown(recorded)}, computed {_shown(computed)}"


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
    return bool(one == other)


def _shown(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
