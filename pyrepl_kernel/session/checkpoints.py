"""The checkpoints of a session: they outlive its worker, which is what they are for.

    worker ── FrozenMessage + socket, over descriptor 8 ──▶ CheckpointPort ──▶ CheckpointStore
                                                                                  │ fork
    frozen process ◀────────────────── TemplateLink ◀─────────────────────────────┘

A frozen process serves forks as a template does, so a restored worker is a fork like any other.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pyrepl_kernel.errors import CheckpointError, ProtocolError, TemplateError
from pyrepl_kernel.protocol.forking import receive
from pyrepl_kernel.protocol.messages import FrozenMessage
from pyrepl_kernel.session.forked import Forked
from pyrepl_kernel.session.limits import proportional, resident

if TYPE_CHECKING:
    from pyrepl_kernel.session.template import TemplateLink

__all__ = ["Checkpoint", "CheckpointPort", "CheckpointStore"]

log = logging.getLogger("pyrepl_kernel.session")

_FORK_TIMEOUT = 10.0  # seconds
_SHARE = 4  # one part in so many of the free memory is what checkpoints may take
_UNKNOWN_MEMORY = 1 << 30


class Checkpoint:
    """A frozen fork of a worker.

    Attributes:
        name: Its name; empty for an automatic one.
        is_automatic: Whether the worker took it by itself; the next of those replaces it.
        is_for_cell: Whether it is there for one cell, and given up with its end.
        pid: Its process.
        execution_count: The number of the last cell before it.
        cell: That cell's first line.
        left: What it does not bring back, as clauses.
        seconds: How long it kept the worker.
        taken_at: When, in seconds since the epoch.
    """

    def __init__(self, message: FrozenMessage, link: TemplateLink) -> None:
        self.name = message.name
        self.is_automatic = message.is_automatic
        self.is_for_cell = message.is_for_cell
        self.pid = message.pid
        self.execution_count = message.execution_count
        self.cell = message.cell
        self.left = list(message.left)
        self.seconds = message.seconds
        self.taken_at = time.time()
        self._link = link

    def __repr__(self) -> str:
        return f"<Checkpoint {self.name!r} after In [{self.execution_count}] pid={self.pid}>"

    def as_item(self) -> dict[str, Any]:
        """As ``CheckpointListMessage`` has it."""
        return {
            "key": str(self.pid),
            "name": self.name,
            "is_automatic": self.is_automatic,
            "execution_count": self.execution_count,
            "cell": self.cell,
            "left": self.left,
            "taken_at": self.taken_at,
            "memory": self.memory,
        }

    async def fork(self) -> Forked:
        """A worker in the state that was kept; ``CheckpointStore.fork`` is for callers."""
        return await self._link.fork()

    def fork_now(self) -> Forked:
        """The same, while the event loop stands still."""
        return self._link.fork_now(_FORK_TIMEOUT)

    @property
    def memory(self) -> int:
        """Its share of memory (PSS) at this moment, in bytes; measured each time."""
        return proportional(self.pid)

    def close(self) -> None:
        """Give it up; its process ends."""
        self._link.close()


class CheckpointStore:
    """All checkpoints of a session, the oldest first.

    Args:
        budget: Bytes that they may take; None for a quarter of what is free when one is taken.
        on_thinned: Called with each that was given up because they took too much.
    """

    def __init__(
        self,
        budget: int | None = None,
        on_thinned: Callable[[Checkpoint], None] = lambda checkpoint: None,
    ) -> None:
        self.budget = budget
        self.on_thinned = on_thinned
        self.on_taken: Callable[[Checkpoint], None] = lambda checkpoint: None
        self._all: list[Checkpoint] = []
        self.origin: Checkpoint | None = None
        """What the worker was made of, if it was: the process that will tell how it ends."""
        self._wanted: Checkpoint | None = None  # asked for a worker just now
        self._stands_in: Checkpoint | None = None  # for automatic ones of a state given up

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Checkpoint]:
        return iter(list(self._all))

    def find(self, name: str = "") -> Checkpoint:
        """A checkpoint by its name or key; without one, the latest.

        Raises:
            CheckpointError: There is none.
        """
        matching = [one for one in self._all if not name or name in (one.name, str(one.pid))]
        if matching:
            return matching[-1]
        names = ", ".join(repr(one.name) for one in self._all if one.name) or "none"
        raise CheckpointError(
            f"there is no checkpoint {name!r}; there are {names}"
            if name
            else "there is no checkpoint"
        )

    async def fork(self, checkpoint: Checkpoint) -> Forked:
        """A worker in the state that was kept.

        Raises:
            CheckpointError: None could be made.
        """
        self._wanted = checkpoint  # the worker may be about to replace it
        try:
            return self._note_origin(checkpoint, await checkpoint.fork())
        except TemplateError as error:
            raise CheckpointError(f"the checkpoint cannot be gone back to: {error}") from error
        finally:
            self._wanted = None
            if checkpoint not in self._all and checkpoint is not self.origin:
                checkpoint.close()

    def fork_now(self, checkpoint: Checkpoint) -> Forked:
        """The same, while the event loop stands still."""
        try:
            return self._note_origin(checkpoint, checkpoint.fork_now())
        except TemplateError as error:
            raise CheckpointError(f"the checkpoint cannot be gone back to: {error}") from error

    def _note_origin(self, checkpoint: Checkpoint, forked: Forked) -> Forked:
        previous, self.origin = self.origin, checkpoint
        if previous is not None and previous is not checkpoint and previous not in self._all:
            previous.close()
        self._go_on_from(checkpoint)
        return forked

    def _go_on_from(self, checkpoint: Checkpoint) -> None:
        """The latest state is this one; what the worker has kept by itself leads elsewhere."""
        if checkpoint.is_for_cell:
            self.drop(checkpoint)  # its cell has ended; what is older is of its past
            return
        is_replaced = self.automatic is not None
        for one in [one for one in self._all if one.is_automatic and one is not checkpoint]:
            self.drop(one)
        if checkpoint in self._all:  # else the worker has replaced it meanwhile
            self._all.remove(checkpoint)
        self._all.append(checkpoint)
        self._stands_in = checkpoint if is_replaced else None

    @property
    def automatic(self) -> Checkpoint | None:
        """What a crash goes back to: the latest that was taken automatically.

        Where the session has gone back to another since, it is that one.
        """
        kept = (one for one in reversed(self._all) if one.is_automatic or one is self._stands_in)
        return next(kept, None)

    def add(self, message: FrozenMessage, sock: socket.socket) -> None:
        """A worker has taken one.

        Args:
            message: What it says of it.
            sock: By which it is reached.
        """
        from pyrepl_kernel.session.template import TemplateLink  # few sessions take any

        checkpoint: Checkpoint | None = None
        kept = self._all  # another store may take it over

        def lost() -> None:
            if checkpoint is not None and checkpoint in kept:
                kept.remove(checkpoint)

        checkpoint = Checkpoint(message, TemplateLink(sock, lost))
        replaced = [
            one
            for one in self._all
            if (one.is_automatic and checkpoint.is_automatic and not checkpoint.is_for_cell)
            or (one.name and one.name == checkpoint.name)
        ]
        self._all.append(checkpoint)
        if checkpoint.is_automatic and not checkpoint.is_for_cell:
            self._stands_in = None
        for one in replaced:
            self.drop(one)
        self._thin()
        self.on_taken(checkpoint)

    def _thin(self) -> None:
        """Give up the oldest until the rest keeps to the budget; never the latest."""
        budget = _free_memory() // _SHARE if self.budget is None else self.budget
        if sum(resident(one.pid) for one in self._all) <= budget:
            return  # shares are smaller; to measure them the event loop would stand still
        shares = {one: one.memory for one in self._all}
        total = sum(shares.values())
        while total > budget and len(self._all) > 1:
            oldest = next((one for one in self._all[:-1] if one.is_automatic), self._all[0])
            total -= shares[oldest]
            self.drop(oldest)
            log.warning("%r was given up: checkpoints may take %d bytes", oldest, budget)
            self.on_thinned(oldest)

    def drop(self, checkpoint: Checkpoint) -> None:
        """Give one up."""
        if checkpoint in self._all:
            self._all.remove(checkpoint)
        if checkpoint not in (self.origin, self._wanted):
            checkpoint.close()

    def take_over(self, other: CheckpointStore) -> None:
        """Keep what another session has kept, which has ended."""
        self.close()
        self._all, other._all = other._all, []
        self.origin, other.origin = other.origin, None
        self._stands_in, other._stands_in = other._stands_in, None

    def close(self) -> None:
        """Give up all of them."""
        origin, self.origin = self.origin, None
        self._stands_in = None
        for checkpoint in list(self._all):
            self.drop(checkpoint)
        if origin is not None:
            origin.close()

    def as_items(self) -> list[dict[str, Any]]:
        """As ``CheckpointListMessage`` has them, newly measured."""
        return [checkpoint.as_item() for checkpoint in self._all]


def _free_memory() -> int:
    with suppress(OSError, ValueError, IndexError):
        with open("/proc/meminfo", "rb") as file:
            for line in file:
                if line.startswith(b"MemAvailable:"):
                    return int(line.split()[1]) * 1024
    return _UNKNOWN_MEMORY


class CheckpointPort:
    """Where one worker hands over the sockets of its checkpoints.

    Args:
        fd: This side's end, which this object owns.
        store: Where they go.
        on_broken: Called when the worker sends what makes no sense.
    """

    def __init__(
        self, fd: int, store: CheckpointStore, on_broken: Callable[[ProtocolError], None]
    ) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self.store = store
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self.drain)

    def drain(self) -> None:
        """Take what has arrived."""
        while self._socket.fileno() >= 0:
            try:
                message, descriptors = receive(self._socket)
            except (BlockingIOError, InterruptedError):
                return
            except ProtocolError as error:
                self._on_broken(error)
                return
            except OSError:
                self.close()
                return
            if message is None:
                self.close()
                return
            if not isinstance(message, FrozenMessage) or len(descriptors) != 1:
                for fd in descriptors:
                    os.close(fd)
                self._on_broken(ProtocolError(f"a worker handed over {message!r}"))
                return
            self.store.add(message, socket.socket(fileno=descriptors[0]))

    def close(self) -> None:
        """Listen no longer."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
