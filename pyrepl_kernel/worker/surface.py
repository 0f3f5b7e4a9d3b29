"""``get_ipython().kernel`` and what hangs on it, as libraries know them from ipykernel.

Nothing here owns a socket or a key. What libraries send through these objects becomes messages of
our protocol, which the kernel process turns into Jupyter's. Imported when somebody asks for it.

    kernel.session.send(kernel.iopub_socket, "display_data", {…}) ──▶ DisplayMessage ──▶ session
    kernel.comm_manager                                           ──▶ the ``comm`` package's
    kernel.do_one_iteration()                                     ──▶ Worker.poll
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from IPython.core import release

from pyrepl_kernel.worker import requests
from pyrepl_kernel.worker.custom import Handlers
from pyrepl_kernel.worker.parent import Parent, current_execution, header_of
from pyrepl_kernel.worker.publishing import as_protocol, new_header

if TYPE_CHECKING:
    from pyrepl_kernel.worker.shell import ZMQInteractiveShell
    from pyrepl_kernel.worker.worker import Worker

__all__ = ["IPKernelApp", "IPythonKernel", "Session", "Socket"]


_MESSAGE_TYPE = re.compile(r"[\w.-]+")


class _PassesAs:
    """An object that ``isinstance`` takes for one of ipykernel's, once that class is imported."""

    # Module and name of the class; the first that is imported counts.
    _originals: tuple[tuple[str, str], ...] = ()

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        for module, name in self._originals:
            original = getattr(sys.modules.get(module), name, None)
            if original is not None:
                return original  # type: ignore[no-any-return]
        return type(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of a worker process>"


class Socket:
    """Stands for a socket that belongs to the kernel process."""

    closed = False

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<the {self.name} channel, which is in the kernel process>"

    def send_multipart(self, *args: Any, **kwargs: Any) -> None:
        """Not possible.

        Raises:
            RuntimeError: Always; it says what to use instead.
        """
        raise RuntimeError(
            f"the {self.name} socket is in another process, which signs what goes out; "
            "send messages by kernel.send_response or kernel.session.send"
        )

    send = send_multipart

    def flush(self, *args: Any, **kwargs: Any) -> int:
        """Nothing to do: nothing waits here."""
        return 0


class Session(_PassesAs):
    """``kernel.session``: makes messages and sends them, by way of the kernel process.

    Args:
        send: Sends a protocol message, after the text written before it.
        name: The Jupyter session id that outputs of this worker carry.
    """

    _originals = (("jupyter_client.session", "Session"),)
    username = "username"
    key = b""
    signature_scheme = "hmac-sha256"
    auth = None
    metadata: Mapping[str, Any] = {}

    def __init__(self, send: Callable[..., None], name: str) -> None:
        self.session = name
        self._send = send
        self._numbers = count(1)

    @property
    def bsession(self) -> bytes:
        """The session id as bytes."""
        return self.session.encode()

    @property
    def msg_id(self) -> str:
        """A new message id."""
        return f"{self.session}_{os.getpid()}_w{next(self._numbers)}"

    def msg_header(self, msg_type: str) -> dict[str, Any]:
        """The header of a new message."""
        return new_header(self.msg_id, msg_type, self.username, self.session)

    def msg(
        self,
        msg_type: str,
        content: Mapping[str, Any] | None = None,
        parent: Parent | None = None,
        header: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """A message that is not sent yet."""
        header = self.msg_header(msg_type) if header is None else header
        parent = parent or {}
        return {
            "header": header,
            "msg_id": header["msg_id"],
            "msg_type": header["msg_type"],
            "parent_header": parent.get("header", parent),
            "content": {} if content is None else content,
            "metadata": dict(metadata or {}),
        }

    def send(
        self,
        stream: Any,
        msg_or_type: Mapping[str, Any] | str,
        content: Mapping[str, Any] | None = None,
        parent: Parent | None = None,
        ident: Any = None,
        buffers: Any = None,
        track: bool = False,
        header: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> dict[str, Any] | None:
        """Send a message of any type, and give it back.

        The kernel process makes its header anew and signs it. What belongs on no other channel
        goes to iopub; a reply without ``ident`` goes to who sent the request at work.

        Raises:
            TypeError: The content holds what no message can carry.
            ValueError: The type is more than a word.
        """
        if isinstance(msg_or_type, str):
            message = self.msg(msg_or_type, content, parent, header, metadata)
        else:
            message = dict(msg_or_type)
            buffers = buffers or message.get("buffers")
        if not _MESSAGE_TYPE.fullmatch(message["msg_type"]):
            raise ValueError(f"{message['msg_type']!r} is no name for a message type")
        self._send(as_protocol(message, buffers, getattr(stream, "name", "iopub"), ident))
        return message


class IPythonKernel(_PassesAs):
    """``get_ipython().kernel``.

    Args:
        shell: IPython.
        worker: What serves it.
        send: Sends a protocol message, after the text written before it.
    """

    _originals = (("ipykernel.ipkernel", "IPythonKernel"), ("ipykernel.kernelbase", "Kernel"))
    implementation = "ipython"
    implementation_version = release.version
    protocol_version = "5.5"
    help_links: tuple[Mapping[str, str], ...] = ()
    eventloop: Any = None
    int_id = -1
    user_module = None
    debugger = None
    control_thread = shell_channel_thread = iopub_thread = None
    _aborting = False
    _poll_interval = 0.01
    """Seconds: how often an event loop that cannot wait for a descriptor looks for messages."""

    def __init__(
        self,
        shell: ZMQInteractiveShell,
        worker: Worker,
        send: Callable[..., None],
    ) -> None:
        self.shell = shell
        self.session = Session(send, shell.session_name)
        self.ident = shell.session_name
        self.log = logging.getLogger("ipykernel")
        self.iopub_socket = Socket("iopub")
        self.stdin_socket = Socket("stdin")
        self.shell_stream = Socket("shell")
        self.control_stream = Socket("control")
        self.parent = IPKernelApp(self)
        own: dict[str, Callable[..., Any]] = {"execute_request": self.execute_request}
        for kind in requests.MESSAGES:
            own[kind] = partial(self._answer_request, requests.MESSAGES[kind])
        self.control_handlers = Handlers("control", own, send)
        for kind in ("comm_open", "comm_msg", "comm_close"):
            own[kind] = self._comm_handler(kind)
        self.shell_handlers = Handlers("shell", own, send)
        self._worker = worker
        self._parent_ident = {"shell": b"", "control": b""}

    def _comm_handler(self, kind: str) -> Callable[..., Any]:
        def handler(stream: Any, ident: Any, message: Any) -> Any:
            return getattr(self.comm_manager, kind)(stream, ident, message)

        handler.__name__ = kind
        return handler

    def _answer_request(
        self, message_class: type[Any], stream: Any, ident: Any, parent: Parent
    ) -> None:
        """What the kernel answers to a request by itself, for handlers that pass it on."""
        fields = {key: value for key, value in parent["content"].items() if value is not None}
        reply = requests.answer(self.shell, message_class(**fields))
        kind = str(header_of(parent)["msg_type"]).replace("_request", "_reply")
        self.session.send(stream, kind, reply.content, parent, ident)  # type: ignore[attr-defined]

    # --------------------------------------------------------------- what it is

    @property
    def comm_manager(self) -> Any:
        """The manager of the ``comm`` package."""
        return self._worker.comms.manager

    @property
    def config(self) -> Any:
        """IPython's configuration."""
        return self.shell.config

    @property
    def user_ns(self) -> dict[str, Any]:
        """The namespace of the cells."""
        namespace: dict[str, Any] = self.shell.user_ns
        return namespace

    @property
    def profile_dir(self) -> Any:
        """The IPython profile; None where none is in use."""
        return self.shell.profile_dir

    @property
    def _supports_kernel_subshells(self) -> bool:
        return bool(self.shell.has_subshells)

    @property
    def subshell_id(self) -> str | None:
        """The id of the subshell whose thread this is; None in the main shell."""
        subshell = self._worker.subshell
        return None if subshell is None else subshell.id

    @property
    def subshell_ids(self) -> list[str]:
        """The ids of all subshells."""
        return self._worker.subshell_ids

    @property
    def banner(self) -> str:
        """IPython's banner."""
        return str(self.shell.banner)

    @property
    def execution_count(self) -> int:
        """The number of the cell at work, or of the next one."""
        return int(self.shell.execution_count)

    @property
    def language_info(self) -> dict[str, Any]:
        """What the language is."""
        return {
            "name": "python",
            "version": sys.version.split()[0],
            "mimetype": "text/x-python",
            "codemirror_mode": {"name": "ipython", "version": sys.version_info[0]},
            "pygments_lexer": "ipython3",
            "nbconvert_exporter": "python",
            "file_extension": ".py",
        }

    @property
    def kernel_info(self) -> dict[str, Any]:
        """Some of what ``kernel_info_reply`` says."""
        return {
            "protocol_version": self.protocol_version,
            "implementation": self.implementation,
            "implementation_version": self.implementation_version,
            "language_info": self.language_info,
            "banner": self.banner,
            "help_links": list(self.help_links),
        }

    @property
    def io_loop(self) -> Any:
        """tornado's view of the main thread's asyncio loop."""
        from tornado.ioloop import IOLoop
        from tornado.platform.asyncio import AsyncIOLoop

        loop = self._worker.asyncio_loop
        # ``IOLoop.current()`` would be another one in another thread.
        known = IOLoop._ioloop_for_asyncio.get(loop)
        return known or AsyncIOLoop(asyncio_loop=loop, make_current=False)

    # ---------------------------------------------------------- requests and output

    def get_parent(self, channel: str | None = None) -> Parent:
        """The message that the current output refers to."""
        return {} if channel == "control" else current_execution.parent

    def set_parent(self, ident: Any, parent: Parent, channel: str = "shell") -> None:
        """Let output refer to another message."""
        if channel == "shell":
            self.shell.set_parent(parent)

    @property
    def _parent_header(self) -> Parent:
        return current_execution.parent

    def send_response(
        self,
        stream: Any,
        msg_or_type: Mapping[str, Any] | str,
        content: Mapping[str, Any] | None = None,
        ident: Any = None,
        buffers: Any = None,
        track: bool = False,
        header: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        channel: str | None = None,
    ) -> dict[str, Any] | None:
        """Send a message that refers to the current request."""
        parent = self.get_parent(channel)
        return self.session.send(
            stream, msg_or_type, content, parent, ident, buffers, track, header, metadata
        )

    async def do_one_iteration(self) -> None:
        """Serve the comm messages that have arrived while the cell runs."""
        self._worker.poll()

    async def execute_request(self, stream: Any, ident: Any, parent: Parent) -> None:
        """Run the code of a request in the shell. There is no reply: no client waits for one."""
        self.set_parent(ident, parent)
        await self.do_execute(**{"code": "", **parent.get("content", {})})

    async def do_execute(
        self, code: str, silent: bool = False, store_history: bool = True, **ignored: Any
    ) -> dict[str, Any]:
        """Run code in the shell; what a reply would say of it."""
        outcome = await self.shell.run_cell_async(
            code, silent=silent, store_history=store_history and not silent
        )
        return {
            "status": "ok" if outcome.success else "error",
            "execution_count": self.shell.execution_count - 1,
        }

    def raw_input(self, prompt: str = "") -> str:
        """Ask the front end for a line."""
        return input(prompt)

    def getpass(self, prompt: str = "", stream: Any = None) -> str:
        """Ask the front end for a password."""
        import getpass

        return getpass.getpass(prompt)

    # ----------------------------------------------- hooks, which others call or replace

    def start(self) -> None:
        """It runs already."""

    def pre_handler_hook(self) -> None:
        """Called by subclasses of ipykernel's; nothing to do."""

    def post_handler_hook(self) -> None:
        """Likewise."""

    def _publish_status(self, *args: Any, **kwargs: Any) -> None:
        """Busy and idle are the kernel process's to say."""

    _publish_status_and_flush = _publish_status

    def _topic(self, topic: str) -> bytes:
        return f"kernel.{self.ident}.{topic}".encode()


_CONNECTION_KEYS = frozenset(
    {"transport", "ip", "shell_port", "iopub_port", "stdin_port", "control_port", "hb_port"}
)


class IPKernelApp(_PassesAs):
    """``ipykernel.kernelapp.IPKernelApp.instance()``."""

    _originals = (("ipykernel.kernelapp", "IPKernelApp"),)
    name = "ipython-kernel"
    log_level = logging.WARNING
    subapp = None

    def __init__(self, kernel: IPythonKernel) -> None:
        self.kernel = kernel
        self.shell = kernel.shell
        self.session = kernel.session
        self.log = kernel.log
        self.connection_file = kernel.shell.connection_file
        self.connection_dir = os.path.dirname(self.connection_file)
        self.abs_connection_file = os.path.abspath(self.connection_file)

    @property
    def config(self) -> Any:
        """IPython's configuration."""
        return self.shell.config

    @property
    def profile_dir(self) -> Any:
        """The IPython profile; None where none is in use."""
        return self.shell.profile_dir

    @property
    def profile(self) -> str:
        """The profile's name."""
        location = getattr(self.profile_dir, "location", "profile_default")
        return os.path.basename(location).removeprefix("profile_")

    @property
    def ipython_dir(self) -> str:
        """IPython's directory."""
        return str(self.shell.ipython_dir)

    @property
    def user_ns(self) -> dict[str, Any]:
        """The namespace of the cells."""
        return self.kernel.user_ns

    def start(self) -> None:
        """It runs already."""

    def __getattr__(self, name: str) -> Any:
        # Not kept: the kernel process writes ports into the file that were 0 at first.
        if name in _CONNECTION_KEYS and self.connection_file:
            with open(self.connection_file, encoding="utf-8") as file:
                return json.load(file).get(name)
        raise AttributeError(f"this kernel's app has no attribute {name!r}")


for _cls in (Session, IPythonKernel, IPKernelApp):
    _cls.__module__ = _cls._originals[0][0]
