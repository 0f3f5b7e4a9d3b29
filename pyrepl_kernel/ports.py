"""TCP ports that stay a kernel's own from the moment they are chosen.

A manager chooses a kernel's ports before it starts the kernel. It can only ask the system for free
ones, and until the kernel binds them, a tenth of a second later, anybody may get the same: another
manager, or any connection's own end. Such a kernel ends with "Address already in use".

Here the socket that asked stays bound, without listening. To whoever asks for a free port it is
taken; who names it and sets SO_REUSEADDR, as ZMQ's sockets do, can bind it too.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable

__all__ = ["ReservedPorts"]


class ReservedPorts:
    """Ports that the system gives to nobody else until ``close``.

    Args:
        ip: The address of this machine to have them on.
        names: What each is for.

    Attributes:
        ports: Name → number. Outside of Linux, where no port is bound twice, they are free ones
            that are not reserved.

    Raises:
        OSError: There is no such address here, or no port left.
    """

    def __init__(self, ip: str, names: Iterable[str]) -> None:
        self._sockets: list[socket.socket] = []
        self.ports: dict[str, int] = {}
        try:
            for name in names:
                reserving = socket.socket()
                self._sockets.append(reserving)
                reserving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                reserving.bind((ip, 0))
                self.ports[name] = reserving.getsockname()[1]
        except OSError:
            self.close()
            raise
        if sys.platform != "linux":
            self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Let them go; who has bound one keeps it."""
        for reserving in self._sockets:
            reserving.close()
        self._sockets.clear()
