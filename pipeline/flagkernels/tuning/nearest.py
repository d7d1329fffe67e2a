"""Use the nearest tuned key's choice for an untuned key, so that no request waits for a tuner.

FlagGems rounds a product's rows up to a multiple of 32: a window of thousands of tokens has hundreds of keys, of which
tuning measures those a factor of two apart. A size in between takes its neighbour's choice, which is stored in the
overlay's database for the other workers. A kernel without any tuned key is tuned by FlagGems as usual, and counted as
a tuning event."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from flagkernels.errors import KernelsError
from flagkernels.tuning import database
from flagkernels.tuning.candidates import Key, nearest

__all__ = ["tuned_keys", "use_nearest"]


def use_nearest(tuner_class: Any, note: Callable[[str], None], chosen: Callable[[str, Key, str], None]) -> None:
    """Patch FlagGems' tuner for the rest of the process; calls `note` with the kernel's name for each filled key, and
    `chosen` with that of each key that has a choice, the key and the choice."""
    original = tuner_class.get_key
    settled: set[tuple[str, Key]] = set()
    filling = threading.Lock()  # a second thread must not look a key up before the first has written it

    def get_key(tuner: Any, args: Any) -> Key:
        key: Key = original(tuner, args)
        name = (tuner.config_table_name, key)
        if name in settled:
            return key
        with filling:
            if name not in settled and key not in tuner.cache and _fill(tuner, key):
                note(str(tuner.base_fn.__name__))
            if name not in settled and (config := tuner.cache.get(key)) is not None:
                chosen(str(tuner.base_fn.__name__), key, str(config))
            settled.add(name)
        return key

    tuner_class.get_key = get_key


def _fill(tuner: Any, key: Key) -> bool:
    model, table = tuner.cache.model, tuner.config_table_name
    near = nearest(key, tuned_keys(model, table, len(key)))
    if near is None:
        return False
    try:
        database.write_config(model, table, key, model.get_config(table, near))
    except KernelsError:  # FlagGems then tunes the key, which is counted
        return False
    return True


def tuned_keys(model: Any, table: str, length: int) -> list[Key]:
    """The keys in a kernel's table of choices; none if it has no table."""
    from sqlalchemy import select

    columns = model.get_key_dict((0,) * length)
    mapped = model.get_sql_model(table, columns)
    if mapped is None:
        return []
    with model.engine.connect() as connection:
        rows = connection.execute(select(*(getattr(mapped, name) for name in columns))).all()
    return [tuple(row) for row in rows]
