"""Ask Docker Engine again where a connection was lost before or in the first line of the answer to a read."""

from __future__ import annotations

from typing import Any

_TIMES = 3
_PAUSE_SECONDS = 0.3


def repeat_reads(client: Any) -> Any:
    """The client of docker-py, which then does so. After silence it does not ask again, nor where nothing listens."""
    from http.client import HTTPException

    from urllib3 import Retry
    from urllib3.exceptions import ProtocolError

    class Reads(Retry):
        left = _TIMES

        def increment(
            self,
            method: str | None = None,
            url: str | None = None,
            response: Any = None,
            error: Exception | None = None,
            _pool: Any = None,
            _stacktrace: Any = None,
        ) -> Reads:
            cause = error.args[-1] if isinstance(error, ProtocolError) else None
            lost = isinstance(cause, ConnectionResetError | BrokenPipeError | HTTPException)
            if not (lost and method in ("GET", "HEAD") and self.left):
                return super().increment(method, url, response, error, _pool, _stacktrace)
            again = self.new()
            again.left = self.left - 1
            return again

        def get_backoff_time(self) -> float:
            return _PAUSE_SECONDS

    for adapter in client.api.adapters.values():
        adapter.max_retries = Reads(0, read=False)
    return client
