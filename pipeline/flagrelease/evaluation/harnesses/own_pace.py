"""How long an answer may take, by the answers so far. Pure."""

from __future__ import annotations

from dataclasses import dataclass

_TIMES = 4.0
"""An answer may take so many times as long a token as the slowest one so far."""
_SILENT_TIMES = 1.5
"""Without any response for so many times the limit of one answer, the server hangs: all requests are over by then."""


@dataclass
class Pace:
    """Follows one evaluation of a server."""

    most_tokens: int
    """Tokens that an answer may have; 0 if that is not limited, and then neither is its time by the answers so far."""
    most_seconds: float
    """The limit of one answer while the server's speed is not known, and in any case."""
    least_seconds: float
    """Allowed in addition, however fast the answers are."""
    slowest: float = 0.0
    """Seconds a token of the slowest answer. Before the first one, as measured before the evaluation; 0 if unknown."""
    open: int = 0
    """Requests that the server has not responded to."""
    owed_since: float | None = None
    """Since when the server owes a response, by time.monotonic; None while it owes none, as during grading."""

    def sent(self, now: float) -> None:
        """Note a request."""
        self.open += 1
        if self.owed_since is None:
            self.owed_since = now

    def responded(self, now: float) -> None:
        """Note a response, with an answer or an error."""
        self.open -= 1
        self.owed_since = now if self.open else None

    def lost(self) -> None:
        """Note a request that ended without a response: the server still owes one."""
        self.open -= 1

    def answered(self, seconds: float, tokens: int | None) -> None:
        """Note an answer."""
        self.slowest = max(self.slowest, seconds / max(1, tokens or 1))

    @property
    def limit(self) -> float:
        """Seconds after which one request counts as not answered."""
        if not self.slowest or not self.most_tokens:
            return self.most_seconds
        return min(self.most_seconds, self.least_seconds + _TIMES * self.slowest * self.most_tokens)

    def silent(self, now: float) -> float:
        """Seconds that the server has owed a response."""
        return 0.0 if self.owed_since is None else now - self.owed_since

    def hangs(self, now: float) -> bool:
        """Whether the server has stopped responding."""
        return self.silent(now) > _SILENT_TIMES * self.limit
