"""Requests to a worker that wait for their replies."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["Replies"]


class Replies:
    """A future for each request that has not been answered."""

    def __init__(self) -> None:
        self._futures: dict[str, asyncio.Future[Any]] = {}

    def expect(self, request_id: str) -> asyncio.Future[Any]:
        """A request has been sent; the future gets its reply."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._futures[request_id] = future
        future.add_done_callback(lambda _: self._futures.pop(request_id, None))
        return future

    def arrive(self, request_id: str, reply: Any) -> None:
        """A reply has come; perhaps nobody waits for it any more."""
        future = self._futures.get(request_id)
        if future is not None and not future.done():
            future.set_result(reply)

    def fail(self, error: Exception) -> None:
        """End all requests that wait, with the same error."""
        for future in list(self._futures.values()):
            if not future.done():
                future.set_exception(error)
                future.exception()  # seen; whoever waits still gets it
        self._futures.clear()
