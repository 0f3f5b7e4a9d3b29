"""The connections of iopub's subscribers, seen past zmq: who has taken nothing, and an end to it.

zmq says only that some subscriber does not keep up. The system knows of each TCP connection how
much the other side has acknowledged.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress

__all__ = ["Subscribers"]

_BYTES_ACKED = 120  # where Linux's struct tcp_info has tcpi_bytes_acked, a u64


class Subscribers:
    """The TCP connections that were accepted on a port of this process.

    Args:
        port: The port; 0 where the clients come another way, and nothing is known of them.
    """

    def __init__(self, port: int) -> None:
        self._port = port if sys.platform == "linux" else 0

    def waited_for(self) -> dict[int, int]:
        """The connections on which something waits to be taken, and how many bytes have been.

        Returns:
            The connection's inode, which is no other's as long as it is open → bytes acknowledged.
        """
        found = {}
        for connection in self._connections():
            with connection, suppress(OSError, struct.error):  # it has just been closed
                if _unsent(connection):
                    found[os.fstat(connection.fileno()).st_ino] = _acknowledged(connection)
        return found

    def cut(self, inodes: set[int]) -> int:
        """End connections; zmq then lets go of all that it keeps for them. How many there were.

        The client's zmq connects and subscribes anew, should it ever read again.
        """
        number = 0
        for connection in self._connections() if inodes else ():
            with connection, suppress(OSError):
                if os.fstat(connection.fileno()).st_ino in inodes:
                    connection.shutdown(socket.SHUT_RDWR)
                    number += 1
        return number

    def _connections(self) -> Iterator[socket.socket]:
        """Each of them by a descriptor of our own: zmq's thread may close its at any moment."""
        for name in os.listdir("/proc/self/fd") if self._port else ():
            try:
                fd = os.dup(int(name))
            except OSError:
                continue  # it has been closed by now, like the one that listed them
            try:
                sock = socket.socket(fileno=fd)
            except OSError:
                os.close(fd)  # no socket
                continue
            if self._is_of_port(sock):
                yield sock
            else:
                sock.close()

    def _is_of_port(self, sock: socket.socket) -> bool:
        try:
            is_tcp = sock.family in (socket.AF_INET, socket.AF_INET6)
            return is_tcp and sock.getsockname()[1] == self._port and bool(sock.getpeername())
        except OSError:
            return False  # it listens, or its other end has gone


def _unsent(sock: socket.socket) -> int:
    size = array.array("i", [0])
    fcntl.ioctl(sock, termios.TIOCOUTQ, size)
    return size[0]


def _acknowledged(sock: socket.socket) -> int:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 8)
    value: int = struct.unpack_from("=Q", info, _BYTES_ACKED)[0]
    return value
