"""Comms: the ``comm`` package bound to our protocol, and the moments at which it is served.

    session ──▶ CommMessage ──▶ CommInbox.receive ──▶ Comms.receive ──▶ the comm's handlers
                                                                             │
    session ◀────────────── CommMessage ◀── Comm.publish_msg ◀───────────────┘

A comm message is served between cells, as it comes. While a cell awaits, or polls
(``kernel.do_one_iteration``), it is served in the middle of that cell: the worker tells the session
so (``ReceptiveMessage``), and the session lets comm messages pass the cells that wait.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pyrepl_kernel.protocol.messages import Buffer, CommMessage, ReceptiveMessage, ResultMessage
from pyrepl_kernel.worker.imports import when_imported
from pyrepl_kernel.worker.interrupts import Interrupts
from pyrepl_kernel.worker.parent import current_execution
from pyrepl_kernel.worker.shell import ZMQInteractiveShell

if TYPE_CHECKING:
    from pyrepl_kernel.worker.loop import CellLoop

__all__ = ["CommInbox", "Comms", "as_buffers"]

log = logging.getLogger("pyrepl_kernel.worker")


def as_buffers(buffers: Any) -> list[Buffer]:
    """What a caller gives as buffers (bytes, memoryviews, arrays), as bytes that stay as they are.

    Raises:
        TypeError: One of them is not made of bytes.
        ValueError: One of them is not contiguous.
    """
    result: list[Buffer] = []
    for buffer in buffers or ():
        if type(buffer) is bytes:
            result.append(buffer)  # nobody can change it before it is sent
            continue
        view = memoryview(buffer)
        if not view.contiguous:
            raise ValueError(f"a buffer of shape {view.shape} is not contiguous")
        result.append(view.tobytes())
    return result


class Comms:
    """The worker's comms.

    Args:
        shell: IPython.
        send: Sends a message, after the text written before it.
        send_soon: The same, but in a burst with what follows within moments.

    Attributes:
        is_answering: Whether a message is being served whose result is sent right after that:
            what its handler sends may wait for it.
        handlers: ``comm_open`` and so on → what is called instead of the manager's own method;
            the kernel object shows the same dict to users.
        when_bound: Called when the user's code has imported ``comm``.
    """

    def __init__(
        self,
        shell: ZMQInteractiveShell,
        send: Callable[..., None],
        send_soon: Callable[..., None],
    ) -> None:
        self.is_answering = False
        self.handlers: Mapping[str, Callable[..., Any]] = {}
        self.when_bound: Callable[[], None] = lambda: None
        self._shell = shell
        self._send = send
        self._send_soon = send_soon
        self._manager: Any = None
        when_imported("comm", self._bind)
        # It binds comm to itself when it is imported.
        when_imported("ipykernel.ipkernel", lambda _: self._bind(sys.modules["comm"]))

    @property
    def manager(self) -> Any:
        """The manager of the ``comm`` package, which is imported for it."""
        if self._manager is None:
            import comm

            self._manager = comm.get_comm_manager()
        return self._manager

    def _bind(self, module: ModuleType) -> None:
        shell = self._shell
        comms = self

        class Comm(module.base_comm.BaseComm):  # type: ignore[name-defined]
            """A comm that speaks to this session's front end."""

            @property
            def kernel(self) -> Any:
                return shell.kernel

            def publish_msg(
                self,
                msg_type: str,
                data: dict[str, Any] | None = None,
                metadata: dict[str, Any] | None = None,
                buffers: list[Any] | None = None,
                **keys: Any,
            ) -> None:
                comms._send_message(
                    CommMessage(
                        msg_type.removeprefix("comm_"),
                        self.comm_id,
                        data=data or {},
                        metadata=metadata or {},
                        buffers=as_buffers(buffers),
                        content=keys,
                        execution_id=current_execution(),
                    )
                )

        def get_comm_manager() -> Any:
            if self._manager is None:
                self._manager = module.base_comm.CommManager()
            return self._manager

        module.create_comm = Comm  # type: ignore[attr-defined]
        module.get_comm_manager = get_comm_manager  # type: ignore[attr-defined]
        self.when_bound()

    def _send_message(self, message: CommMessage) -> None:
        (self._send_soon if self.is_answering else self._send)(message)

    @property
    def is_bound(self) -> bool:
        """Whether anybody can have opened a comm."""
        return self._manager is not None or "comm" in sys.modules

    def open_comms(self, target_name: str | None) -> dict[str, Any]:
        """Comm id → target of each open comm, or of those of one target."""
        if not self.is_bound:
            return {}
        return {
            comm_id: {"target_name": comm.target_name}
            for comm_id, comm in list(self.manager.comms.items())
            if target_name is None or comm.target_name == target_name
        }

    def receive(self, kind: str, parent: dict[str, Any]) -> Any:
        """A comm message has come from the front end."""
        handler = self.handlers.get(kind) or getattr(self.manager, kind)
        return handler(None, [], parent)


class CommInbox:
    """Serves comm messages when their moment has come.

    Args:
        comms: The comms.
        shell: IPython.
        send: Sends a message, after the text written before it.
        interrupts: Told when user code runs.
        get_loop: Gives the asyncio loop: None where none is needed yet, unless one is asked for.
        is_interrupted: Asked, when a signal came before a message was served, whether it was meant.
    """

    def __init__(
        self,
        comms: Comms,
        shell: ZMQInteractiveShell,
        send: Callable[..., None],
        interrupts: Interrupts,
        get_loop: Callable[[bool], CellLoop | None],
        is_interrupted: Callable[[str], bool],
    ) -> None:
        self._is_interrupted = is_interrupted
        self._comms = comms
        self._shell = shell
        self._send = send
        self._interrupts = interrupts
        self._get_loop = get_loop
        self._closed_for = ""  # the cell at work, unless the session knows that it may be disturbed

    def begin_cell(self, execution_id: str) -> None:
        """A cell begins, and comm messages have to wait."""
        self._closed_for = execution_id

    def open(self) -> None:
        """The cell at work awaits or polls: let comm messages come."""
        if self._closed_for and self._comms.is_bound and self._interrupts.is_listening:
            cell, self._closed_for = self._closed_for, ""
            self._send(ReceptiveMessage(cell))

    def open_if_awaiting(self) -> None:
        """The same, once ``comm`` is bound, for a cell that awaits already."""
        if self._interrupts.task is not None:
            self.open()

    def receive(self, message: CommMessage) -> None:
        """Serve a comm message; what comes of it belongs to that message, and not to a cell."""
        parent = _as_parent(message)
        problem: BaseException | None = None
        is_in_cell = self._interrupts.is_listening
        token = current_execution.pin(message.id, parent)
        try:
            if is_in_cell:
                self._settle(self._comms.receive(parent["msg_type"], parent))
            else:
                current_execution.begin(message.id, parent)
                self._receive_between_cells(message.id, parent)
        except (Exception, KeyboardInterrupt) as error:
            problem = error
            log.exception("a comm's handler failed")
        finally:
            current_execution.unpin(token)
        self._send(
            ResultMessage(
                message.id,
                "ok" if problem is None else "error",
                ename=type(problem).__name__ if problem else "",
                evalue=str(problem or ""),
                next_count=self._shell.execution_count,
            )
        )
        if is_in_cell and isinstance(problem, KeyboardInterrupt):
            raise problem  # it was the cell that was meant

    def _receive_between_cells(self, execution_id: str, parent: dict[str, Any]) -> None:
        loop = self._get_loop(False)
        try:
            if self._interrupts.begin() and self._is_interrupted(execution_id):
                raise KeyboardInterrupt
            if loop is not None:
                loop.show()  # handlers make tasks
            self._comms.is_answering = True
            self._settle(self._comms.receive(parent["msg_type"], parent))
        finally:
            self._comms.is_answering = False
            self._interrupts.is_listening = False  # no call, as in the executor
            self._interrupts.install()
            loop = self._get_loop(False)  # perhaps it is there only since the handler ran
            if loop is not None:
                loop.hide()

    def _settle(self, result: Any) -> None:
        """A handler of the user's may be a coroutine function; the manager's own are not."""
        if hasattr(result, "__await__"):
            loop = self._get_loop(True)
            assert loop is not None
            loop.loop.create_task(result)


def _as_parent(message: CommMessage) -> dict[str, Any]:
    kind = f"comm_{message.kind}"
    return {
        "header": message.parent or {"msg_id": message.id, "msg_type": kind},
        "parent_header": {},
        "metadata": message.metadata,
        "content": {"comm_id": message.comm_id, "data": message.data, **message.content},
        "buffers": [memoryview(buffer) for buffer in message.buffers],
        "msg_id": message.parent.get("msg_id", message.id),
        "msg_type": kind,
    }
