"""How long Docker Engine may be silent in each kind of call, and clients that keep to it."""

from __future__ import annotations

import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from flagrelease.errors import ConfigError, DockerUnavailable
from flagrelease.ports.docker.endpoint import Endpoint, connect
from flagrelease.ports.docker.errors import AGAIN, RESTART, translated

T = TypeVar("T")

_POLL_SECONDS = 0.5
_SILENCE = "FLAGRELEASE_DOCKER_SILENCE"


@dataclass(frozen=True, kw_only=True)
class Deadlines:
    """Seconds without a byte of the engine after which a call has failed."""

    ask: float = 30.0
    """Calls that only look: version, list, inspect, the end of a log, a name of an image."""
    change: float = 60.0
    """Create, start, stop and remove, beyond the time that a container has to end by itself."""
    work: float = 900.0
    """Build, push, pull and programs in containers: writing one layer of a vendor's image takes minutes without output.
    Meanwhile the engine must answer other calls."""
    look: float = 20.0
    """Silence of `work` after which the engine is asked, again and again, whether it still answers."""
    told: float = 50.0
    """Silence of `work` that the user is told of."""

    @classmethod
    def here(cls) -> Deadlines:
        """Those of this machine's environment. Raises ConfigError."""
        text = os.environ.get("FLAGRELEASE_DOCKER_SILENCE", "")
        if not text:
            return cls()
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 1 <= seconds <= 86_400:
            raise ConfigError(f"{_SILENCE} is {text!r}", hint="set it to seconds, from 1 to 86400")
        return cls(work=seconds)


class Clients:
    """docker-py's clients of one engine, one for each deadline, made when they are needed."""

    def __init__(self, endpoint: Callable[[], Endpoint], deadlines: Deadlines) -> None:
        self.deadlines = deadlines
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self._made: dict[float | None, Any] = {}

    @property
    def ask(self) -> Any:
        return self._client(self.deadlines.ask)

    @property
    def change(self) -> Any:
        return self._client(self.deadlines.change)

    @property
    def work(self) -> Any:
        return self._client(self.deadlines.work + self.deadlines.change)  # `watched` ends it before

    @property
    def endless(self) -> Any:
        """For programs that may be silent for ever, inside `watched`."""
        return self._client(None)

    def _client(self, seconds: float | None) -> Any:
        with self._lock:
            if self._made.keys() >= {seconds, self.deadlines.ask}:
                return self._made[seconds]
            where, first = self._endpoint(), self.deadlines.ask
            with translated("reaching Docker Engine", str(where)):
                # The first one asks for the version that the engine speaks.
                if first not in self._made:
                    self._made[first] = connect(where, seconds=first)
                if seconds not in self._made:
                    version = self._made[first].api.api_version
                    self._made[seconds] = connect(where, seconds=seconds, version=version)
        return self._made[seconds]

    def watched(
        self, doing: str, work: Callable[[], Iterable[T]], *, told: Callable[[str], None], bound: float | None = None
    ) -> Iterator[T]:
        """What `work` gives, which may be silent for long, as long as the engine answers other calls.

        Raises DockerUnavailable if it does not, or after `bound` seconds of silence. `work` runs in its own thread,
        which is then left behind: nothing ends a read from a socket.
        """
        messages: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        over = threading.Event()

        def read() -> None:
            try:
                for message in work():
                    if over.is_set():
                        return
                    messages.put(("message", message))
                messages.put(("end", None))
            except BaseException as error:
                messages.put(("error", error))

        threading.Thread(target=read, name=doing, daemon=True).start()
        try:
            yield from self._awaited(doing, messages, told, self.deadlines.work if bound is None else bound)
        finally:
            over.set()

    def once(self, doing: str, work: Callable[[], T], *, bound: float | None = None) -> T:
        """`watched` for a single result."""
        (result,) = self.watched(doing, lambda: [work()], told=lambda _text: None, bound=bound)
        return result

    def _awaited(
        self, doing: str, messages: queue.SimpleQueue[tuple[str, Any]], told: Callable[[str], None], bound: float
    ) -> Iterator[Any]:
        heard = looked = time.monotonic()
        said = False
        while True:
            try:
                kind, what = messages.get(timeout=min(_POLL_SECONDS, self.deadlines.look))
            except queue.Empty:
                now = time.monotonic()
                if now - heard > bound:
                    raise _silent(doing, now - heard) from None
                if now - looked >= self.deadlines.look:
                    self._look(doing)
                    looked = time.monotonic()
                if now - heard >= self.deadlines.told and not said:
                    said = True
                    told(f"Docker Engine has said nothing for {now - heard:.0f} s while {doing}: {bound:.0f} s at most")
                continue
            heard = looked = time.monotonic()
            said = False
            if kind == "error":
                raise what
            if kind == "end":
                return
            yield what

    def _look(self, doing: str) -> None:
        """Raises DockerUnavailable if the engine does not answer at all."""
        with translated(doing, str(self._endpoint())):
            self.ask.ping()


def _silent(doing: str, seconds: float) -> DockerUnavailable:
    return DockerUnavailable(
        f"Docker Engine does not get on while {doing}",
        why=f"it answers, but has said nothing about it for {seconds:.0f} s",
        hint=f"{RESTART}{AGAIN}, or set {_SILENCE} to more seconds if its disk or network is that slow",
    )
