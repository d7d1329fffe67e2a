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
    """The limit of one answer while none is known, and in any case."""
    least_seconds: float
    """Allowed in addition, however fast the answers are."""
    began: float
    """When the evaluation began, by time.monotonic."""
    slowest: float = 0.0
    """Seconds a token of the slowest answer; 0 before the first one."""
    responded: float | None = None
    """When the server responded last, by time.monotonic, with an answer or an error."""

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
        """Seconds without a response."""
        return now - (self.began if self.responded is None else self.responded)

    def hangs(self, now: float) -> bool:
        """Whether the server has stopped to respond."""
        return self.silent(now) > _SILENT_TIMES * self.limit
