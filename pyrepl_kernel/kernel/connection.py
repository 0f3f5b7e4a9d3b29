"""The connection file, and the five sockets that listen before anything else happens.

A client may connect the moment the kernel process exists. With the sockets listening first, its
connection waits in the backlog while zmq is still being imported, instead of being refused and
tried again 100 ms later.
"""

from __future__ import annotations

import _socket
import json
import os
from contextlib import suppress
from typing import Any

from pyrepl_kernel.kernel.leash import aside

__all__ = ["CHANNELS", "Connection", "ConnectionError_", "open_connection"]

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
_BACKLOG = 128


class ConnectionError_(Exception):
    """The connection file cannot be used; the text says why and what to do."""


class Connection:
    """What the connection file says, and the sockets that listen.

    Attributes:
        path: The connection file.
        info: Its content, with the ports in use.
        listeners: Channel → descriptor of the listening socket.
        is_new: Whether the file was made by this kernel, which then removes it.
    """

    __slots__ = ("_directory", "info", "is_new", "listeners", "path")

    def __init__(self, path: str, info: dict[str, Any], is_new: bool) -> None:
        self.path = path
        self.info = info
        self.is_new = is_new
        self.listeners: dict[str, int] = {}
        self._directory = os.getcwd()  # relative paths stay what they are when that changes

    @property
    def key(self) -> bytes:
        """The key of the messages' signatures."""
        return str(self.info.get("key", "")).encode()

    def endpoint(self, channel: str) -> str:
        """The zmq endpoint of a channel."""
        ip, port = self.info["ip"], self.info[f"{channel}_port"]
        if self.info["transport"] == "ipc":
            return f"ipc://{ip}-{port}"
        return f"tcp://{f'[{ip}]' if ':' in ip else ip}:{port}"

    def ports(self) -> dict[str, int]:
        """``shell_port`` and so on, as ``connect_reply`` has them."""
        return {f"{channel}_port": self.info[f"{channel}_port"] for channel in CHANNELS}

    def remove_files(self) -> None:
        """Remove what this kernel has made: a file of its own, and its ipc sockets."""
        paths = [os.path.join(self._directory, self.path)] if self.is_new else []
        sockets = self._socket_files().values()
        for path in (*paths, *sockets, *map(aside, sockets)):
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue

    def _socket_files(self) -> dict[str, str]:
        if self.info["transport"] != "ipc":
            return {}
        start = os.path.join(self._directory, self.info["ip"])
        return {channel: f"{start}-{self.info[f'{channel}_port']}" for channel in CHANNELS}

    def set_aside(self) -> None:
        """Save the ipc sockets' files, which jupyter_client removes in the course of a restart."""
        for path in self._socket_files().values():
            with suppress(FileNotFoundError):
                os.rename(path, aside(path))

    def bring_back(self) -> list[str]:
        """Put these files back; the channels whose file was lost listen on new sockets.

        Returns:
            Those channels.
        """
        lost = []
        for channel, path in self._socket_files().items():
            try:
                os.rename(aside(path), path)
            except FileNotFoundError:
                self.listeners[channel] = _listen_ipc(
                    self.info, channel, path.rpartition("-")[0], self.info[f"{channel}_port"]
                )
                lost.append(channel)
        return lost


def open_connection(path: str) -> Connection:
    """Read the connection file, or make one, and listen on its ports.

    Args:
        path: The file; a new one is made when it does not exist, in Jupyter's runtime directory
            if the path is empty.

    Raises:
        ConnectionError_: The file is no connection file, or a port cannot be had.
    """
    connection = _read(path) if path and os.path.exists(path) else _make(path)
    info = connection.info
    is_changed = connection.is_new
    for channel in CHANNELS:
        is_changed |= not info.get(f"{channel}_port")
        try:
            connection.listeners[channel] = _listen(info, channel)
        except OSError as error:
            raise ConnectionError_(
                f"the {channel} channel cannot listen on {info['ip']} port "
                f"{info.get(f'{channel}_port')}: {error.strerror or error} "
                f"(connection file {connection.path})"
            ) from error
    if is_changed:
        _write(connection)
    return connection


def _read(path: str) -> Connection:
    try:
        with open(path, encoding="utf-8") as file:
            info = json.load(file)
    except (OSError, ValueError) as error:
        raise ConnectionError_(f"cannot read the connection file {path}: {error}") from error
    if not isinstance(info, dict):
        raise ConnectionError_(f"the connection file {path} holds no JSON object")
    info.setdefault("transport", "tcp")
    info.setdefault("ip", "127.0.0.1")
    if info["transport"] not in ("tcp", "ipc"):
        raise ConnectionError_(f"{path}: transport {info['transport']!r} is neither tcp nor ipc")
    scheme = info.get("signature_scheme") or "hmac-sha256"
    if not str(scheme).startswith("hmac-"):
        raise ConnectionError_(f"{path}: signature_scheme {scheme!r} does not begin with 'hmac-'")
    info["signature_scheme"] = scheme
    for channel in CHANNELS:
        port = info.get(f"{channel}_port", 0)
        if not isinstance(port, int) or not 0 <= port < 65536:
            raise ConnectionError_(f"{path}: {channel}_port is {port!r}, not a port number")
    return Connection(path, info, is_new=False)


def _make(path: str) -> Connection:
    if not path or not os.path.dirname(path):
        from jupyter_core.paths import jupyter_runtime_dir

        path = os.path.join(jupyter_runtime_dir(), path or f"kernel-{os.getpid()}.json")
    info = {
        "transport": "tcp",
        "ip": "127.0.0.1",
        "key": os.urandom(24).hex(),
        "signature_scheme": "hmac-sha256",
        "kernel_name": "",
    }
    return Connection(path, info, is_new=True)


def _write(connection: Connection) -> None:
    os.makedirs(os.path.dirname(os.path.abspath(connection.path)), mode=0o700, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with open(os.open(connection.path, flags, 0o600), "w", encoding="utf-8") as file:
        json.dump(connection.info, file, indent=2)


def _listen(info: dict[str, Any], channel: str) -> int:
    ip, port = info["ip"], info.get(f"{channel}_port", 0)
    if info["transport"] == "ipc":
        return _listen_ipc(info, channel, ip, port)
    family = _socket.AF_INET6 if ":" in ip else _socket.AF_INET
    sock = _socket.socket(family, _socket.SOCK_STREAM)
    try:
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        sock.bind(("" if ip == "*" else ip, port))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    info[f"{channel}_port"] = sock.getsockname()[1]
    return sock.detach()


def _listen_ipc(info: dict[str, Any], channel: str, ip: str, port: int) -> int:
    if not port:
        port = 1
        while os.path.exists(f"{ip}-{port}"):
            port += 1
    path = f"{ip}-{port}"
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        # What a kernel of the same connection file has left behind, as after a restart.
        os.unlink(path)
    except FileNotFoundError:
        pass
    sock.bind(path)
    sock.listen(_BACKLOG)
    info[f"{channel}_port"] = port
    return sock.detach()
