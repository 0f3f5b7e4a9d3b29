"""A request and all that answers it: one busy, one reply, one idle, whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pyrepl_kernel.kernel.channels import Channel
from pyrepl_kernel.kernel.wire import Request, now, to_json
from pyrepl_kernel.protocol.messages import Buffer, SendMessage

if TYPE_CHECKING:
    from pyrepl_kernel.kernel.kernel import Kernel

__all__ = ["Exchange", "LateIdle", "error_content", "outcome_metadata"]

_BUSY = b'{"execution_state": "busy"}'
_IDLE = b'{"execution_state": "idle"}'

_LATEST_IDLE = 0.2
"""Seconds after its reply in which a request is over, unless a cell has come. jupyter console
takes 0.01 from a reply to its cell; with twice the work that there are processors for, 0.02 mostly
and more than 0.05 now and then."""


class Exchange:
    """One request of one client's.

    Args:
        kernel: Who answers.
        channel: Where the request came from, and its reply goes.
        request: The request.
        subshell_id: Which subshell is to do it; empty for the main shell.
    """

    __slots__ = (
        "_has_replied",
        "_is_busy",
        "_is_done",
        "channel",
        "kernel",
        "request",
        "subshell_id",
    )

    def __init__(
        self, kernel: Kernel, channel: Channel, request: Request, subshell_id: str = ""
    ) -> None:
        self.kernel = kernel
        self.channel = channel
        self.request = request
        self.subshell_id = subshell_id
        self._is_busy = False
        self._has_replied = False
        self._is_done = False

    def busy(self) -> None:
        """Say that work on it has begun."""
        if not self._is_busy:
            self._is_busy = True
            self.publish("status", _BUSY)

    def begin(self, message_type: str, content: bytes) -> None:
        """Say that work on it has begun, and on what."""
        parent = self.request.raw_header
        messages = []
        if not self._is_busy:
            self._is_busy = True
            messages.append(self.kernel.publication("status", _BUSY, parent))
        messages.append(self.kernel.publication(message_type, content, parent))
        publisher = self.kernel.publisher
        for message in messages:
            publisher.put(message)
        publisher.look()

    def publish(
        self,
        message_type: str,
        content: bytes,
        metadata: bytes = b"{}",
        buffers: Any = (),
    ) -> None:
        """Publish something on iopub that this request has caused."""
        self.kernel.publish(
            message_type, content, self.request.raw_header, metadata=metadata, buffers=buffers
        )

    def reply(self, content: dict[str, Any] | bytes, metadata: bytes = b"{}") -> None:
        """Send the reply, its metadata given as JSON and its content too, or as a dict.

        Only the first reply counts.
        """
        if (reply := self._make_reply(content, metadata)) is not None:
            self.channel.send(reply)

    def _make_reply(
        self, content: dict[str, Any] | bytes, metadata: bytes
    ) -> Sequence[Buffer] | None:
        """The frames of the reply; None if there has been one, or is to be none."""
        kind = self.request.type
        if self._has_replied or not kind.endswith("_request"):
            return None
        self._has_replied = True
        try:
            body = content if isinstance(content, bytes) else to_json(content)
        except (TypeError, ValueError) as error:
            body = to_json(error_content("TypeError", f"the reply cannot be sent: {error}"))
        return self.kernel.wire.build(
            self.request.identities,
            f"{kind.removesuffix('_request')}_reply",
            body,
            self.request.raw_header,
            metadata,
        )

    def forward(self, message: SendMessage) -> None:
        """Send a message of the user's own making to the client, or to whom it names."""
        kind = self.request.type
        is_reply = message.msg_type == f"{kind.removesuffix('_request')}_reply"
        if is_reply and kind != "execute_request" and message.channel == self.channel.name:
            self._has_replied = True
        self.kernel.send_on(
            message.channel,
            self.kernel.wire.build(
                message.identities or self.request.identities,
                message.msg_type,
                to_json(message.content),
                self.request.raw_header,
                to_json(message.metadata),
                message.buffers,
            ),
        )

    def done(self) -> None:
        """Say that all work on it has ended."""
        if (idle := self._make_idle()) is not None:
            self.kernel.publisher.send(idle)

    def _make_idle(self) -> Sequence[Buffer] | None:
        """The frames of the idle status; None if there has been one."""
        if self._is_done:
            return None
        self.busy()
        self._is_done = True
        return self.kernel.publication("status", _IDLE, self.request.raw_header)

    def finish(self, content: dict[str, Any] | bytes, metadata: bytes = b"{}") -> None:
        """Reply, and be done."""
        self.busy()
        # Both are there before one is sent: zmq's thread, once it is awake, takes them in one go.
        reply = self._make_reply(content, metadata)
        idle = self._make_idle()
        publisher = self.kernel.publisher
        if reply is not None:
            self.channel.put(reply)
        if idle is not None:
            publisher.put(idle)
        self.channel.look()
        publisher.look()

    def fail(self, ename: str, evalue: str) -> None:
        """Reply with an error, and be done."""
        self.finish(error_content(ename, evalue))


class LateIdle:
    """Lets a request that has its reply be over a moment later, and not while a cell is at work.

    jupyter console asks whether a line is complete, sends the cell as soon as it knows, looks at
    iopub after 50 ms for the first time, and takes an idle for the cell's, whatever it is of. With
    nothing after it, since this process had to wait for the processor for so long, the console
    no longer listens for questions, and the cell's ``input()`` waits for ever. (JupyterLab waits
    for the idle before it goes on, so this is not for its requests.)

    Args:
        is_at_work: Whether there is a cell; when the last one ends, ``end`` is called.
    """

    def __init__(self, is_at_work: Callable[[], bool]) -> None:
        self._is_at_work = is_at_work
        self._exchange: Exchange | None = None
        self._timer: asyncio.TimerHandle | None = None

    def finish(self, exchange: Exchange, content: dict[str, Any] | bytes) -> None:
        """Reply, and be done soon."""
        self.end()
        exchange.busy()
        exchange.reply(content)
        self._exchange = exchange
        self._timer = asyncio.get_running_loop().call_later(_LATEST_IDLE, self._look)

    def _look(self) -> None:
        if not self._is_at_work():
            self.end()

    def end(self) -> None:
        """Be done now, if there is something to be done with."""
        if self._exchange is not None:
            assert self._timer is not None
            self._timer.cancel()
            exchange, self._exchange = self._exchange, None
            exchange.done()


def outcome_metadata(identity: str, status: str, started: str = "") -> bytes:
    """The metadata of a reply to what runs code, as JSON.

    Args:
        identity: The kernel's.
        status: That of the content.
        started: When it began; now unless given.
    """
    return (
        f'{{"started": "{started or now()}", "dependencies_met": true, "engine": "{identity}", '
        f'"status": "{status}"}}'
    ).encode()


def error_content(ename: str, evalue: str, traceback: list[str] | None = None) -> dict[str, Any]:
    """The content of an error reply."""
    return {
        "status": "error",
        "ename": ename,
        "evalue": evalue,
        "traceback": traceback if traceback is not None else [f"{ename}: {evalue}"],
    }
