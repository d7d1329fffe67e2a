"""The servers of a cell's stacks, each started on first use."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Protocol

from flagrelease.config.matrix import Stack
from flagrelease.contract import results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.serving.server import Served, ServeRequest

__all__ = ["Serve", "Servers"]


class Serve(Protocol):
    """The signature of `server.served`: serve a stack while the block runs."""

    def __call__(self, job: Job, context: Context, request: ServeRequest) -> AbstractContextManager[Served]: ...


class Servers:
    """Starts the cell's stacks on first use. A server runs until the end or, if the chip holds only one server, until
    another stack is needed."""

    def __init__(self, job: Job, context: Context, serve: Serve) -> None:
        self._job, self._context, self._serve = job, context, serve
        self._up: dict[Stack, Served] = {}
        self._stack = ExitStack()

    def get(self, stack: Stack) -> Served:
        """The server of `stack`, started if it is not up. Raises the errors of `served`."""
        if stack in self._up:
            return self._up[stack]
        if not self._job.cell.holds_both:
            self._up.clear()
            self._stack.pop_all().close()
        request = ServeRequest(
            image=self._context.result(results.IMAGE),
            weights=self._context.result(results.WEIGHTS),
            stack=stack,
            colocated=bool(self._up),
        )
        self._up[stack] = self._stack.enter_context(self._serve(self._job, self._context, request))
        return self._up[stack]

    def up(self, stack: Stack) -> bool:
        """Whether the server of `stack` is up."""
        return stack in self._up

    def __enter__(self) -> Servers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
