"""Hooks that see a display or a result, as a Jupyter message, before it is sent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from pyrepl_kernel.worker.parent import current_execution

__all__ = ["Hook", "Hooked"]

Message = dict[str, Any]
Hook = Callable[[Message], Message | None]
"""Gets a message; gives the one to send, or None if none is to be sent."""


class _Hooks(threading.local):
    def __init__(self) -> None:
        self.active: list[Hook] = []


class Hooked:
    """``register_hook`` and ``unregister_hook``. A hook is that of the thread that registers it."""

    shell: Any
    _hooks_of_threads: _Hooks | None = None

    @property
    def _hooks(self) -> list[Hook]:
        if self._hooks_of_threads is None:
            self._hooks_of_threads = _Hooks()
        return self._hooks_of_threads.active

    @property
    def _has_hooks(self) -> bool:
        return self._hooks_of_threads is not None and bool(self._hooks_of_threads.active)

    def register_hook(self, hook: Hook) -> None:
        """Let a hook see what this thread sends."""
        self._hooks.append(hook)

    def unregister_hook(self, hook: Hook) -> bool:
        """Take a hook away; False when it was not there."""
        try:
            self._hooks.remove(hook)
        except ValueError:
            return False
        return True

    def _send_through_hooks(self, kind: str, content: dict[str, Any]) -> None:
        kernel = self.shell.kernel
        message: Message | None = kernel.session.msg(
            kind, _with_text_for_bytes(content), parent=current_execution.parent
        )
        for hook in list(self._hooks):
            assert message is not None
            message = hook(message)
            if message is None:
                return
        kernel.session.send(kernel.iopub_socket, message)


def _with_text_for_bytes(content: dict[str, Any]) -> dict[str, Any]:
    from base64 import b64encode

    data = {
        kind: b64encode(value).decode("ascii") if isinstance(value, bytes) else value
        for kind, value in content.get("data", {}).items()
    }
    return {**content, "data": data} if data else content
