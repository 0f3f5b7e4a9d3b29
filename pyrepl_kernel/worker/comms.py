"""Comms: the ``comm`` package bound to our protocol."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

from pyrepl_kernel.protocol.messages import CommMessage
from pyrepl_kernel.worker.capture import current_execution
from pyrepl_kernel.worker.imports import when_imported

__all__ = ["Comms"]

log = logging.getLogger("pyrepl_kernel.worker")


class Comms:
    """The worker's comms.

    Args:
        send: Sends a message, after the text written before it.
    """

    def __init__(self, send: Callable[..., None]) -> None:
        self._send = send
        self._manager: Any = None
        when_imported("comm", self._bind)

    @property
    def manager(self) -> Any:
        """The manager of the ``comm`` package, which is imported for it."""
        if self._manager is None:
            import comm

            self._manager = comm.get_comm_manager()
        return self._manager

    def _bind(self, module: ModuleType) -> None:
        send = self._send
        manager: Any = None

        class Comm(module.base_comm.BaseComm):  # type: ignore[name-defined]
            """A comm that speaks to this session's front end."""

            def publish_msg(
                self,
                msg_type: str,
                data: dict[str, Any] | None = None,
                metadata: dict[str, Any] | None = None,
                buffers: list[Any] | None = None,
                **keys: Any,
            ) -> None:
                send(
                    CommMessage(
                        msg_type.removeprefix("comm_"),
                        self.comm_id,
                        data=data or {},
                        metadata=metadata or {},
                        buffers=[bytes(memoryview(b).cast("B")) for b in buffers or ()],
                        content=keys,
                        execution_id=current_execution(),
                    )
                )

        def get_comm_manager() -> Any:
            nonlocal manager
            if manager is None:
                manager = module.base_comm.CommManager()
            return manager

        module.create_comm = Comm  # type: ignore[attr-defined]
        module.get_comm_manager = get_comm_manager  # type: ignore[attr-defined]

    def open_comms(self, target_name: str | None) -> dict[str, Any]:
        """Comm id → target of each open comm, or of those of one target."""
        if self._manager is None:
            import sys

            if "comm" not in sys.modules:
                return {}  # nobody can have opened one
        return {
            comm_id: {"target_name": comm.target_name}
            for comm_id, comm in self.manager.comms.items()
            if target_name is None or comm.target_name == target_name
        }

    def receive(self, message: CommMessage) -> None:
        """A comm message has come from the front end."""
        content = {"comm_id": message.comm_id, "data": message.data, **message.content}
        handler = getattr(self.manager, f"comm_{message.kind}")
        handler(
            None,
            None,
            {
                "header": message.parent,
                "parent_header": {},
                "metadata": message.metadata,
                "content": content,
                "buffers": [memoryview(buffer) for buffer in message.buffers],
                "msg_id": message.parent.get("msg_id", message.id),
                "msg_type": f"comm_{message.kind}",
            },
        )
