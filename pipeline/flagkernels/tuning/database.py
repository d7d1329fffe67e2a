"""FlagGems' database of tuned configurations: written with FlagGems' classes, opened safely, checked, compacted.

FlagGems keeps one SQLite file with two tables per kernel: the chosen configuration of each key, and the time of each
candidate at each key. Two things go wrong when eight workers open one such file (FlagGems issues 6121, 6203, 6390):
with the default journal a writer immediately locks out readers, and every look-up of a kernel without a table reflects
all tables, which takes seconds at 1,426 tables. `harden` fixes both without changing FlagGems.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from flagkernels.digests import FREE_SPACE, no_space
from flagkernels.errors import ChipFault, DatabaseCorrupt, DatabaseLocked, NoSpace

__all__ = [
    "BUSY_TIMEOUT_S",
    "Faults",
    "Model",
    "check_database",
    "check_database_file",
    "checkpoint",
    "compact",
    "harden",
    "url",
    "write_benchmarks",
    "write_config",
]

BUSY_TIMEOUT_S = 30.0
SHARED_MEMORY = 64 << 10
"""Maximum additional bytes on disk that an open database needs."""

Key = Sequence[bool | int | float | str]
Timing = tuple[float, float, float]
"""Milliseconds: median, 20 % and 80 % quantiles; infinity for a candidate that cannot run."""


class Model(Protocol):
    """The parts of flag_gems.utils.models.SQLPersistantModel used here."""

    engine: Any

    def get_config(self, name: str, keys: Key) -> Any: ...
    def put_config(self, name: str, keys: Key, config: Any) -> None: ...
    def get_sql_model(self, name: str, keys: Any = ..., values: Any = ...) -> Any: ...
    def get_key_dict(self, keys: Key) -> dict[str, Any]: ...
    def get_config_dict(self, config: Any) -> dict[str, Any]: ...


def url(path: Path) -> str:
    """The value for FLAGGEMS_DB_URL; its timeout applies even in a process that does not call `harden`."""
    return f"sqlite:///{path}?timeout={BUSY_TIMEOUT_S:.0f}"


def harden(model: Model) -> None:
    """Make this model's engine and class use a write-ahead log, a busy timeout, and reflection of single tables."""
    from sqlalchemy import event

    @event.listens_for(model.engine, "connect")
    def _connect(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_S * 1000:.0f}")
        connection.execute("PRAGMA journal_mode=WAL")
        # A power cut may lose the last entry, which is then tuned again; WAL prevents corruption at any setting.
        connection.execute("PRAGMA synchronous=NORMAL")

    model.engine.dispose()
    type(model).build_sql_model_by_db = staticmethod(_reflect_one)  # type: ignore[attr-defined]


def checkpoint(model: Model) -> None:
    """Checkpoint the write-ahead log, so that the database file alone is complete."""
    with Faults(model), model.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    model.engine.dispose()


def _reflect_one(name: str, engine: Any) -> Any:
    from sqlalchemy import MetaData, inspect
    from sqlalchemy.ext.automap import automap_base

    if not inspect(engine).has_table(name):
        return None
    metadata = MetaData()
    metadata.reflect(engine, only=[name])
    base = automap_base(metadata=metadata)
    base.prepare()
    return base.classes.get(name)


def write_config(model: Model, table: str, key: Key, config: Any) -> None:
    """Store the choice for a key. Raises NoSpace or DatabaseLocked; earlier entries are kept."""
    with Faults(model):
        model.put_config(table, key, config)


def write_benchmarks(model: Model, table: str, key: Key, timings: Iterable[tuple[Any, Timing]]) -> None:
    """Store all timings of a key in one transaction; FlagGems' `put_benchmark` commits and syncs each row."""
    from sqlalchemy import insert

    keys = model.get_key_dict(key)
    by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for config, (p50, p20, p80) in timings:
        row = keys | model.get_config_dict(config)
        by_columns.setdefault(tuple(row), []).append({**row, "p50": float(p50), "p20": float(p20), "p80": float(p80)})
    with Faults(model):
        for columns, rows in by_columns.items():
            values = dict.fromkeys(("p50", "p20", "p80"), 0.0)
            table_class = model.get_sql_model(table, {name: rows[0][name] for name in columns}, values)
            with model.engine.begin() as connection:
                connection.execute(insert(table_class.__table__).prefix_with("OR REPLACE"), rows)


class Faults:
    """Context manager that converts SQLite's and SQLAlchemy's exceptions into errors with a hint."""

    def __init__(self, model: Model) -> None:
        self.path = Path(str(model.engine.url.database))

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and (explained := explain(error, self.path)):
            raise explained from error


def explain(error: BaseException, path: Path) -> ChipFault | None:
    """Convert an exception of sqlite3 or SQLAlchemy into ours; None for any other exception."""
    if full := no_space(error, path):
        return full
    if not (isinstance(error, sqlite3.Error) or type(error).__module__.startswith("sqlalchemy")):
        return None
    text = str(error)
    if "locked" in text or "busy" in text:
        return DatabaseLocked(
            f"{path} is locked",
            why=f"another process held the lock for longer than {BUSY_TIMEOUT_S:.0f} s",
            hint=f"end the process that holds the lock (see `fuser {path}`), then run again",
        )
    if "disk I/O error" in text and _full(path):
        return NoSpace(f"no space left while writing {path}", why=text.splitlines()[0], hint=FREE_SPACE)
    if "malformed" in text or "not a database" in text or "disk I/O error" in text:
        return DatabaseCorrupt(
            f"{path} is damaged",
            why=text.splitlines()[0],
            hint="restore it from its bundle, or move it away and run `tune` again",
        )
    return None


def _full(path: Path) -> bool:
    """True if there may be no space for SQLite's shared memory (32 KiB next to the database), which SQLite reports as
    `disk I/O error`."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    return shutil.disk_usage(folder).free < SHARED_MEMORY


def check_database(path: Path, *, timeout_s: float = BUSY_TIMEOUT_S) -> list[str]:
    """Check a database under a write lock and return the names of its tables.

    Raises DatabaseCorrupt if it is missing, empty, truncated or not a database, DatabaseLocked if another process holds
    a lock for longer than `timeout_s`."""
    return _check(path, "rw", timeout_s)


def check_database_file(path: Path) -> list[str]:
    """The same for a file that has no writers and may be on a read-only file system."""
    return _check(path, "ro&immutable=1", 0.0)


def _check(path: Path, mode: str, timeout_s: float) -> list[str]:
    if not path.is_file() or path.stat().st_size == 0:
        raise DatabaseCorrupt(
            f"{path} is {'empty' if path.is_file() else 'missing'}",
            why="a tuned database has at least one table",
            hint="run `python -m flagkernels tune` again, which resumes where it stopped",
        )
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=timeout_s, isolation_level=None)) as connection:
            if mode == "rw":
                connection.execute("BEGIN IMMEDIATE")
            verdict = connection.execute("PRAGMA quick_check").fetchone()[0]
            names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")]
    except sqlite3.Error as error:
        raise explain(error, path) or ChipFault(f"{path} cannot be read", why=str(error)) from error
    if verdict != "ok":
        raise DatabaseCorrupt(f"{path} is damaged", why=verdict, hint="move it away and run `tune` again")
    return names


def compact(source: Path, target: Path) -> int:
    """Copy the chosen configurations, without their timings, into a single file without a journal.

    Returns the number of configuration tables. The timings remain in the report; omitting them halves the tables that a
    worker must reflect. Raises DatabaseCorrupt, DatabaseLocked, NoSpace, ChipFault."""
    check_database(source)
    temporary = target.with_name(f".{target.name}.part")
    temporary.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(source, timeout=BUSY_TIMEOUT_S)) as connection:
            connection.execute("VACUUM INTO ?", (str(temporary),))
        with closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
            names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")]
            timings = [name for name in names if "_benchmark" in name]
            for name in timings:
                connection.execute('DROP TABLE "{}"'.format(name.replace('"', '""')))
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("VACUUM")
        temporary.replace(target)
    except (sqlite3.Error, OSError) as error:
        temporary.unlink(missing_ok=True)
        raise explain(error, target) or ChipFault(f"cannot write {target}", why=str(error)) from error
    return len(names) - len(timings)
