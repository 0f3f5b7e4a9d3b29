"""A request and all that answers it: one busy, one reply, one idle, whatever happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyrepl_kernel.kernel.channels import Channel
from pyrepl_kernel.kernel.wire import Request, to_json

if TYPE_CHECKING:
    from pyrepl_kernel.kernel.kernel import Kernel

__all__ = ["Exchange"]

_BUSY = b'{"execution_state": "busy"}'
_IDLE = b'{"execution_state": "idle"}'


class Exchange:
    """One request of one client's.

    Args:
        kernel: Who answers.
        channel: Where the request came from, and its reply goes.
        request: The request.
    """

    __slots__ = ("_has_replied", "_is_busy", "_is_done", "channel", "kernel", "request")

    def __init__(self, kernel: Kernel, channel: Channel, request: Request) -> None:
        self.kernel = kernel
        self.channel = channel
        self.request = request
        self._is_busy = False
        self._has_replied = False
        self._is_done = False

    def busy(self) -> None:
        """Say that work on it has begun."""
        if not self._is_busy:
            self._is_busy = True
            self.publish("status", _BUSY)

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

    def reply(self, content: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
        """Send the reply; only the first counts."""
        kind = self.request.type
        if self._has_replied or not kind.endswith("_request"):
            return
        self._has_replied = True
        try:
            body = to_json(content)
        except (TypeError, ValueError) as error:
            body = to_json(error_content("TypeError", f"the reply cannot be sent: {error}"))
        self.channel.send(
            self.kernel.wire.build(
                self.request.identities,
                f"{kind.removesuffix('_request')}_reply",
                body,
                self.request.raw_header,
                b"{}" if metadata is None else to_json(metadata),
            )
        )

    def done(self) -> None:
        """Say that all work on it has ended."""
        if not self._is_done:
            self.busy()
            self._is_done = True
            self.publish("status", _IDLE)

    def finish(self, content: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
        """Reply, and be done."""
        self.busy()
        self.reply(content, metadata)
        self.done()

    def fail(self, ename: str, evalue: str) -> None:
        """Reply with an error, and be done."""
        self.finish(error_content(ename, evalue))


def error_content(ename: str, evalue: str, traceback: list[str] | None = None) -> dict[str, Any]:
    """The content of an error reply."""
    return {
        "status": "error",
        "ename": ename,
        "evalue": evalue,
        "traceback": traceback if traceback is not None else [f"{ename}: {evalue}"],
    }
