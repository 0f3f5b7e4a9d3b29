"""The messages between a session and its worker.

A message is a frozen, typed object. Its fields are its instance dictionary, and that dictionary
is the msgpack map that travels: nothing is copied to encode a message, and decoding is one check
of each field's type. A class states its fields as annotations, in the order in which its
constructor takes them; ``id`` and ``timestamp`` close the list of every class.

    class OutputMessage(Message):
        type = MessageType.OUTPUT
        data: str
        stream: str = "stdout"
        execution_id: str = ""
"""

from __future__ import annotations

import inspect
import os
import sys
import time
from enum import StrEnum
from itertools import count
from types import UnionType
from typing import Any, ClassVar, Self, dataclass_transform, get_args, get_origin

from pyrepl_kernel.errors import InvalidField, MissingField, UnknownMessageType

__all__ = [
    "CONTROL_SHELL",
    "WARMUP_MARK",
    "Buffer",
    "CheckpointListMessage",
    "CheckpointMessage",
    "CheckpointReplyMessage",
    "CommInfoMessage",
    "CommInfoReplyMessage",
    "CommMessage",
    "CompleteMessage",
    "CompleteReplyMessage",
    "DebugEventMessage",
    "DebugMessage",
    "DebugReplyMessage",
    "DisplayMessage",
    "ErrorMessage",
    "ExecuteMessage",
    "FrozenMessage",
    "HandOverMessage",
    "HandlersMessage",
    "HeartbeatMessage",
    "HistoryMessage",
    "HistoryReplyMessage",
    "ImportsMessage",
    "InputMessage",
    "InputResponseMessage",
    "InspectMessage",
    "InspectReplyMessage",
    "InterruptMessage",
    "IsCompleteMessage",
    "IsCompleteReplyMessage",
    "LeashReplyMessage",
    "LimitMessage",
    "Message",
    "MessageType",
    "OutputMessage",
    "ReadyMessage",
    "ReceptiveMessage",
    "RequestMessage",
    "ResetMessage",
    "RestoreMessage",
    "ResultMessage",
    "RetireMessage",
    "SendMessage",
    "ShutdownMessage",
    "StartMessage",
    "StatusMessage",
    "SubshellMessage",
    "SubshellReplyMessage",
    "SwapMessage",
    "message_from_map",
]


Buffer = bytes | memoryview
"""Raw bytes; large ones are views of the frame in which they came."""


class MessageType(StrEnum):
    """The ``type`` of a message, as it stands on the wire."""

    START = "start"
    READY = "ready"
    EXECUTE = "execute"
    OUTPUT = "output"
    DISPLAY = "display"
    ERROR = "error"
    INPUT = "input"
    INPUT_RESPONSE = "input_response"
    RESULT = "result"
    INTERRUPT = "interrupt"
    HEARTBEAT = "heartbeat"
    RESET = "reset"
    SHUTDOWN = "shutdown"
    COMPLETE = "complete"
    COMPLETE_REPLY = "complete_reply"
    INSPECT = "inspect"
    INSPECT_REPLY = "inspect_reply"
    IS_COMPLETE = "is_complete"
    IS_COMPLETE_REPLY = "is_complete_reply"
    HISTORY = "history"
    HISTORY_REPLY = "history_reply"
    COMM = "comm"
    COMM_INFO = "comm_info"
    COMM_INFO_REPLY = "comm_info_reply"
    RECEPTIVE = "receptive"
    LIMIT = "limit"
    CHECKPOINT = "checkpoint"
    CHECKPOINT_REPLY = "checkpoint_reply"
    CHECKPOINT_LIST = "checkpoint_list"
    FROZEN = "frozen"
    RESTORE = "restore"
    DROP = "drop"
    IMPORTS = "imports"
    STATUS = "status"
    DEBUG = "debug"
    DEBUG_REPLY = "debug_reply"
    DEBUG_EVENT = "debug_event"
    HANDLERS = "handlers"
    REQUEST = "request"
    SEND = "send"
    SUBSHELL = "subshell"
    SUBSHELL_REPLY = "subshell_reply"
    HAND_OVER = "hand_over"
    TEMPLATE = "template"
    WARM = "warm"
    FORK = "fork"
    FORKED = "forked"
    EXITED = "exited"
    RETIRE = "retire"
    SWAP = "swap"
    LEASH_REPLY = "leash_reply"


class _IdSource:
    """Unique message ids without the cost of a UUID each: a random prefix and a counter."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self._prefix = os.urandom(6).hex()
        self._numbers = count(1)

    def __call__(self) -> str:
        return f"{self._prefix}-{next(self._numbers)}"


new_id = _IdSource()
# Siblings of one fork must not number their messages alike.
os.register_at_fork(after_in_child=new_id.renew)

_REQUIRED: Any = object()


class _Field:
    """One field of a message class: its name, default, and the types that it accepts."""

    __slots__ = ("accepts", "default", "expected", "item", "name")

    def __init__(self, name: str, annotation: Any, default: Any) -> None:
        self.name = name
        self.default = default
        types = _accepted_types(annotation)
        self.accepts = frozenset(types)
        self.item = _item_type(annotation)
        self.expected = " or ".join(
            sorted("None" if t is type(None) else t.__name__ for t in types)
        )
        if self.item is not None:
            items = get_args(self.item) or (self.item,)
            self.expected += f" of {' or '.join(item.__name__ for item in items)}"

    def holds(self, container: Any) -> bool:
        """Whether all that a list or dict contains is of the type that the field promises."""
        items = container.values() if isinstance(container, dict) else container
        return all(isinstance(item, self.item or object) for item in items)

    def make_default(self) -> Any:
        # Each message gets a list or dict of its own; the class holds the empty pattern.
        default = self.default
        return default.copy() if type(default) in (list, dict) else default


def _accepted_types(annotation: Any) -> tuple[type, ...]:
    """The exact types that msgpack gives for an annotation such as ``list[str] | None``."""
    if annotation is Any:
        return (str, bytes, int, float, bool, list, dict, type(None))
    origin = get_origin(annotation)
    if origin is None:
        if annotation is float:
            return (float, int)
        return (type(None) if annotation is None else annotation,)
    if isinstance(origin, type) and origin in (list, dict, tuple):
        return (origin,)
    return tuple(t for arm in get_args(annotation) for t in _accepted_types(arm))


def _item_type(annotation: Any) -> type | UnionType | None:
    """What a ``list[str]`` or ``dict[str, str]`` contains; None when that may be anything."""
    for arm in (annotation, *get_args(annotation)):
        if get_origin(arm) in (list, dict) and get_args(arm)[-1] is not Any:
            item: type | UnionType = get_args(arm)[-1]
            return item
    return None


_CLASSES: dict[str, type[Message]] = {}


def _keyword_field(*, default: Any, kw_only: bool = True) -> Any:
    """Tells type checkers of a field that every message has; the class body drops the value."""
    return default


@dataclass_transform(frozen_default=True, field_specifiers=(_keyword_field,))
class _Typed:
    """Tells type checkers that the classes below it get their constructors from their fields."""


class Message(_Typed):
    """Base of all messages.

    Args:
        id: Unique name of this message; made up when not given.
        timestamp: Seconds since the epoch; now when not given.

    Raises:
        MissingField: A field without a default was not given.
        InvalidField: A field's value has the wrong type, or no field has that name.
    """

    type: MessageType = _keyword_field(default=MessageType.HEARTBEAT, kw_only=True)
    id: str = _keyword_field(default="", kw_only=True)
    timestamp: float = _keyword_field(default=0.0, kw_only=True)

    _fields: ClassVar[tuple[_Field, ...]] = ()
    _kind: ClassVar[str] = ""  # the type's value, for an enum's members are slow to give theirs

    def __init_subclass__(cls) -> None:
        annotations = inspect.get_annotations(cls)
        namespace = vars(sys.modules[cls.__module__])
        fields = []
        for name, text in annotations.items():
            annotation = eval(text, namespace)
            fields.append(_Field(name, annotation, cls.__dict__.get(name, _REQUIRED)))
            if name in cls.__dict__:
                delattr(cls, name)
        fields.append(_Field("id", str, _REQUIRED))
        fields.append(_Field("timestamp", float, _REQUIRED))
        cls._fields = tuple(fields)
        cls._kind = cls.type.value
        _CLASSES[cls._kind] = cls

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kind = self._kind
        if "type" in kwargs and (given_type := kwargs.pop("type")) != kind:
            raise InvalidField(kind, "type", given_type, repr(kind))
        fields = self._fields
        if len(args) > len(fields):
            raise TypeError(f"{type(self).__name__} takes {len(fields)} fields, got {len(args)}")
        values: dict[str, Any] = {"type": kind}
        for field, value in zip(fields, args, strict=False):
            if field.name in kwargs:
                raise TypeError(f"{type(self).__name__}: {field.name!r} given twice")
            values[field.name] = value
        values.update(kwargs)
        if "id" not in values:
            values["id"] = new_id()
        if "timestamp" not in values:
            values["timestamp"] = time.time()
        self._adopt(values)

    def _adopt(self, values: dict[str, Any]) -> None:
        """Check ``values`` against the fields and make them this message's own."""
        fields = self._fields
        for field in fields:
            name = field.name
            try:
                value = values[name]
            except KeyError:
                if field.default is _REQUIRED:
                    raise MissingField(self.type.value, name) from None
                values[name] = field.make_default()
            else:
                if value.__class__ not in field.accepts and not _is_subtype(value, field):
                    raise InvalidField(self.type.value, name, value, field.expected)
                if field.item is not None and value and not field.holds(value):
                    raise InvalidField(self.type.value, name, value, field.expected)
        if len(values) != len(fields) + 1:
            known = {field.name for field in fields} | {"type"}
            name = next(name for name in values if name not in known)
            raise InvalidField(self.type.value, name, values[name], "no such field")
        del values["type"]
        self.__dict__.update(values)

    def to_map(self) -> dict[str, Any]:
        """The message as the map that travels; ``type`` comes first."""
        return {"type": self._kind, **self.__dict__}

    @classmethod
    def from_map(cls, values: dict[str, Any]) -> Self:
        """Build a message of this class from a decoded map, which it takes over."""
        message = cls.__new__(cls)
        message._adopt(values)
        return message

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen; cannot set {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen; cannot delete {name!r}")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    def __hash__(self) -> int:
        return hash((self.type, self.id))

    def __repr__(self) -> str:
        shown = []
        for field in self._fields:
            value = getattr(self, field.name)
            if field.name in ("id", "timestamp") or value == field.default:
                continue
            text = repr(value)
            shown.append(f"{field.name}={text if len(text) <= 60 else text[:57] + '...'}")
        return f"{type(self).__name__}({', '.join(shown)})"


def _is_subtype(value: Any, field: _Field) -> bool:
    """Whether a caller gave an instance of a subclass (a str enum, say); bool is no int here."""
    return not isinstance(value, bool) and isinstance(value, tuple(field.accepts))


def message_from_map(values: dict[str, Any]) -> Message:
    """The message that a decoded map stands for; takes the map over.

    Raises:
        MissingField: The map has no ``type``, or lacks a field of its type.
        UnknownMessageType: No message class has that type.
        InvalidField: A field's value has the wrong type, or is not a field of that message.
    """
    try:
        name = values["type"]
    except KeyError:
        raise MissingField("untyped", "type") from None
    cls = _CLASSES.get(name) if name.__class__ is str else None
    if cls is None:
        raise UnknownMessageType(name)
    return cls.from_map(values)


# ------------------------------------------------------- a worker's life


class StartMessage(Message):
    """Session → worker, first of all: who you are, and where you work.

    ``cwd`` and ``env`` are applied by the worker itself: a forked one has those of its template.

    Args:
        session_id: The session.
        cwd: The working directory; None to stay.
        env: Environment variables.
        env_is_whole: Whether there are to be no others.
        options: See ``worker.start``.
        max_frame_size: Largest frame body either way, in bytes.
    """

    type = MessageType.START
    session_id: str
    cwd: str | None = None
    env: dict[str, str] | None = None
    env_is_whole: bool = False
    options: dict[str, Any] = {}
    max_frame_size: int = 256 * 1024 * 1024


class HandOverMessage(Message):
    """Session → worker: from the next execution on you work elsewhere, or for somebody else.

    Args:
        cwd: The working directory; None to stay.
        env: The whole environment, as it would be without the warmup; None to keep what is there.
        variables: Environment variables on top of all others.
        options: As in the start message; only those that change.
    """

    type = MessageType.HAND_OVER
    cwd: str | None = None
    env: dict[str, str] | None = None
    variables: dict[str, str] = {}
    options: dict[str, Any] = {}


class ReadyMessage(Message):
    """Worker → session: IPython stands, messages are welcome."""

    type = MessageType.READY
    session_id: str
    capabilities: dict[str, Any] = {}


class InterruptMessage(Message):
    """Session → worker: stop what awaits. SIGINT goes with it, where a signal can."""

    type = MessageType.INTERRUPT
    execution_id: str = ""


class LimitMessage(Message):
    """Worker → session: the user's code changes what cells may use, and asks what they may.

    Args:
        changes: Fields of the session's ``Limits``, and their new values.
    """

    type = MessageType.LIMIT
    changes: dict[str, Any] = {}
    execution_id: str = ""


class ImportsMessage(Message):
    """Worker → session: what the user's code has imported so far, of what is installed.

    Args:
        names: The modules, in the order in which they are to be imported again; those that the
            worker's warmup has imported among them.
        variables: Environment variables that the user's code has changed.
        is_warm: Whether the worker's warmup had imported any.
    """

    type = MessageType.IMPORTS
    names: list[str] = []
    variables: list[str] = []
    is_warm: bool = False


class StatusMessage(Message):
    """Worker → session: the user's code wants to see how its kernel is."""

    type = MessageType.STATUS
    execution_id: str = ""


class HeartbeatMessage(Message):
    """Session → worker, and the same back: the worker's loop runs."""

    type = MessageType.HEARTBEAT
    sequence: int = 0


class ResetMessage(Message):
    """Session → worker, and the same back when done: forget all since the warmup."""

    type = MessageType.RESET
    error: str = ""


class ShutdownMessage(Message):
    """Session → worker: run the exit handlers, and end."""

    type = MessageType.SHUTDOWN
    restart: bool = False


# ------------------------------------------------------------- execution


WARMUP_MARK = "pyrepl_warmup"
"""In the metadata of an execution: a reset goes back to the namespace that this one leaves."""


class ExecuteMessage(Message):
    """Session → worker: run a cell.

    Args:
        code: The cell's source.
        capture_source: False keeps the code out of linecache and out of the history.
        silent: No output but errors, no history, no count (Jupyter's ``silent``).
        store_history: Whether the cell counts and enters the history.
        user_expressions: Name → expression, evaluated after a cell that succeeded.
        allow_stdin: Whether ``input()`` may ask the front end.
        cell_id: The front end's name of the cell; None when it gave none.
        metadata: The request's metadata, as the front end sent it.
        parent: The Jupyter header that the cell's output refers to; empty outside Jupyter.
    """

    type = MessageType.EXECUTE
    code: str
    capture_source: bool = True
    silent: bool = False
    store_history: bool = True
    user_expressions: dict[str, Any] = {}
    allow_stdin: bool = False
    cell_id: str | None = None
    metadata: dict[str, Any] = {}
    parent: dict[str, Any] = {}


class OutputMessage(Message):
    """Worker → session: text that an execution wrote to ``stdout`` or ``stderr``."""

    type = MessageType.OUTPUT
    data: str
    stream: str = "stdout"
    execution_id: str = ""


class DisplayMessage(Message):
    """Worker → session: something rich.

    Args:
        kind: ``display``, ``update``, ``clear`` or ``result``.
        data: Mime type → value.
        metadata: Mime type → metadata of that value.
        transient: What lives only as long as the display does (``display_id``).
        wait: With ``clear``: wait for the next output.
        execution_count: With ``result``: the number in ``Out[n]``.
        buffers: Raw bytes that travel beside the data.
    """

    type = MessageType.DISPLAY
    kind: str
    data: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    transient: dict[str, Any] = {}
    wait: bool = False
    execution_count: int | None = None
    buffers: list[Buffer] = []
    execution_id: str = ""


class ErrorMessage(Message):
    """Worker → session: an exception that reached the user, with IPython's traceback."""

    type = MessageType.ERROR
    ename: str
    evalue: str
    traceback: list[str] = []
    execution_id: str = ""


class InputMessage(Message):
    """Worker → session: the cell asks the user for a line."""

    type = MessageType.INPUT
    prompt: str = ""
    password: bool = False
    execution_id: str = ""


class InputResponseMessage(Message):
    """Session → worker: the line; ``eof`` when the user closed the input instead."""

    type = MessageType.INPUT_RESPONSE
    value: str = ""
    eof: bool = False
    execution_id: str = ""


class ResultMessage(Message):
    """Worker → session: the execution has ended; nothing of it comes after.

    Args:
        status: ``ok``, ``error`` or ``aborted``.
        execution_count: The cell's number.
        user_expressions: Name → mime bundle or error, for those that were asked for.
        payload: What the cell asks of the front end (pager, next input, exit).
        ename: With ``error``: name of the exception's class; likewise the next two.
        next_count: The number that the next counted cell will have.
    """

    type = MessageType.RESULT
    execution_id: str
    status: str
    execution_count: int = 0
    user_expressions: dict[str, Any] = {}
    payload: list[Any] = []
    ename: str = ""
    evalue: str = ""
    traceback: list[str] = []
    next_count: int = 1


# ------------------------------------------------------------ checkpoints


class CheckpointMessage(Message):
    """Session → worker: freeze a fork of yourself, in order with the executions."""

    type = MessageType.CHECKPOINT
    name: str


class CheckpointReplyMessage(Message):
    """Worker → session: it was done (a ``FrozenMessage`` tells more), or why not."""

    type = MessageType.CHECKPOINT_REPLY
    request_id: str
    error: str = ""


class RestoreMessage(Message):
    """Worker → session, just before a result: go back to a checkpoint, then end the execution.

    Args:
        execution_id: Whose result it is.
        name: The checkpoint's name, or its key.
    """

    type = MessageType.RESTORE
    execution_id: str
    name: str


class DropMessage(Message):
    """Worker → session: a checkpoint that was taken for one cell is not needed any more.

    Args:
        key: Which.
    """

    type = MessageType.DROP
    key: str


class CheckpointListMessage(Message):
    """Worker → session, in a cell: which checkpoints are there? And the same back.

    Args:
        request_id: With the answer: the question's id.
        items: With the answer: ``name``, ``execution_count``, ``cell``, ``taken_at`` (seconds since
            the epoch), ``memory`` (bytes, proportional share), ``left`` and ``is_automatic`` of
            each, the oldest first.
    """

    type = MessageType.CHECKPOINT_LIST
    request_id: str = ""
    items: list[Any] = []


class FrozenMessage(Message):
    """Worker → session, with the socket by which a new checkpoint serves forks.

    Args:
        name: Its name.
        pid: Its process.
        is_automatic: Whether the worker took it by itself, and the next one replaces it.
        is_for_cell: Whether it is there for the cell that begins, and is given up with its end.
        execution_count: The number of the last cell before it.
        cell: That cell's first line.
        left: What is open in it and will not be as it was: files, connections, ..., as clauses.
        seconds: How long it kept the worker.
    """

    type = MessageType.FROZEN
    name: str
    pid: int
    is_automatic: bool = False
    is_for_cell: bool = False
    execution_count: int = 0
    cell: str = ""
    left: list[str] = []
    seconds: float = 0.0


# ----------------------------------------------------- requests and replies


class CompleteMessage(Message):
    """Session → worker: what could stand at the cursor (in characters)?"""

    type = MessageType.COMPLETE
    code: str
    cursor_pos: int | None = None


class CompleteReplyMessage(Message):
    """Worker → session: Jupyter's ``complete_reply`` content."""

    type = MessageType.COMPLETE_REPLY
    request_id: str
    content: dict[str, Any] = {}


class InspectMessage(Message):
    """Session → worker: what is the object at the cursor (in characters)?"""

    type = MessageType.INSPECT
    code: str
    cursor_pos: int | None = None
    detail_level: int = 0
    omit_sections: list[str] = []


class InspectReplyMessage(Message):
    """Worker → session: Jupyter's ``inspect_reply`` content."""

    type = MessageType.INSPECT_REPLY
    request_id: str
    content: dict[str, Any] = {}


class IsCompleteMessage(Message):
    """Session → worker: would this code run as it stands?"""

    type = MessageType.IS_COMPLETE
    code: str


class IsCompleteReplyMessage(Message):
    """Worker → session: Jupyter's ``is_complete_reply`` content."""

    type = MessageType.IS_COMPLETE_REPLY
    request_id: str
    content: dict[str, Any] = {}


class HistoryMessage(Message):
    """Session → worker: lines of the history; the fields are those of ``history_request``."""

    type = MessageType.HISTORY
    hist_access_type: str
    output: bool = False
    raw: bool = True
    session: int = 0
    start: int = 0
    stop: int | None = None
    n: int | None = None
    pattern: str | None = None
    unique: bool = False


class HistoryReplyMessage(Message):
    """Worker → session: Jupyter's ``history_reply`` content."""

    type = MessageType.HISTORY_REPLY
    request_id: str
    content: dict[str, Any] = {}


class CommMessage(Message):
    """A comm message, either way.

    Towards the worker it is an execution of its own, which ends with a ``ResultMessage`` whose
    ``execution_id`` is this message's ``id``; from the worker, ``execution_id`` names the
    execution that sent it.

    Args:
        kind: ``open``, ``msg`` or ``close``.
        comm_id: The comm.
        data: Its payload.
        buffers: Raw bytes that travel beside the payload.
        content: The other keys of the Jupyter content (``target_name``, ``target_module``).
        parent: The Jupyter header of the message, towards the worker.
    """

    type = MessageType.COMM
    kind: str
    comm_id: str
    data: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    buffers: list[Buffer] = []
    content: dict[str, Any] = {}
    parent: dict[str, Any] = {}
    execution_id: str = ""


class CommInfoMessage(Message):
    """Session → worker: which comms are open (of one target, or of all)?"""

    type = MessageType.COMM_INFO
    target_name: str | None = None


class CommInfoReplyMessage(Message):
    """Worker → session: Jupyter's ``comm_info_reply`` content."""

    type = MessageType.COMM_INFO_REPLY
    request_id: str
    content: dict[str, Any] = {}


# ----------------------------------------- message types of the user's own


class HandlersMessage(Message):
    """Worker → session: these types of requests have a handler of the user's.

    Args:
        channel: ``shell`` or ``control``.
        msg_types: All of that channel's; they take the place of those said before.
    """

    type = MessageType.HANDLERS
    channel: str
    msg_types: list[str] = []


class RequestMessage(Message):
    """Session → worker: a request for such a handler. It is an execution, as a comm message is.

    Args:
        channel: ``shell`` or ``control``.
        msg_type: Its Jupyter type.
        identities: zmq's routing prefix, as handlers get it.
        parent: Its Jupyter header.
    """

    type = MessageType.REQUEST
    channel: str
    msg_type: str
    content: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    buffers: list[Buffer] = []
    identities: list[bytes] = []
    parent: dict[str, Any] = {}


class SendMessage(Message):
    """Worker → session: send a Jupyter message of any type.

    Args:
        channel: ``iopub``, ``shell``, ``control`` or ``stdin``.
        msg_type: Its Jupyter type.
        identities: To whom; nobody where it is for all (iopub), or for who sent the request.
        execution_id: What it refers to.
    """

    type = MessageType.SEND
    channel: str
    msg_type: str
    content: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    buffers: list[Buffer] = []
    identities: list[bytes] = []
    execution_id: str = ""


# ----------------------------------------------------------------- subshells

CONTROL_SHELL = "control"
"""Id of the subshell that serves what handlers of the user's have on the control channel."""


class SubshellMessage(Message):
    """Session → worker, on the debugger's socket, which is heard while a cell runs.

    Args:
        subshell_id: The subshell.
        action: ``create``, ``delete``, or ``deliver``: pass a message on to it.
        message: With ``deliver``: the message, as its map.
    """

    type = MessageType.SUBSHELL
    subshell_id: str
    action: str = "deliver"
    message: dict[str, Any] = {}


class SubshellReplyMessage(Message):
    """Worker → session, on the protocol's socket: a subshell was created, or has ended."""

    type = MessageType.SUBSHELL_REPLY
    request_id: str
    error: str = ""


# ------------------------------------------------------------------ debugger


class DebugMessage(Message):
    """Session → worker, on the debugger's socket: a request of the Debug Adapter Protocol."""

    type = MessageType.DEBUG
    request: dict[str, Any]


class DebugReplyMessage(Message):
    """Worker → session: the response to such a request."""

    type = MessageType.DEBUG_REPLY
    request_id: str
    response: dict[str, Any]


class DebugEventMessage(Message):
    """Worker → session: an event of the Debug Adapter Protocol.

    Args:
        event: The event.
        threads: With a ``stopped`` event: the ids of all threads that stand still now.
    """

    type = MessageType.DEBUG_EVENT
    event: dict[str, Any]
    threads: list[int] = []


class ReceptiveMessage(Message):
    """Worker → session: the cell at work awaits, or polls; comm messages may come before its end.

    From here on, until that cell ends, a ``CommMessage`` passes the executions that wait.
    """

    type = MessageType.RECEPTIVE
    execution_id: str


# ------------------------------------------- between provisioner and kernel process


class RetireMessage(Message):
    """Provisioner → kernel process: end the worker, and wait for a ``SwapMessage``.

    Args:
        kill: End it at once; else its exit handlers run, and a ``shutdown_request`` is on its way
            on the control channel, which the answer waits for.
    """

    type = MessageType.RETIRE
    kill: bool = False


class SwapMessage(Message):
    """Provisioner → kernel process: go on with a new worker.

    Args:
        cwd: Its working directory.
        env: Environment variables that have changed since the last time.
        unset: Names of those that are gone.
    """

    type = MessageType.SWAP
    cwd: str
    env: dict[str, str] = {}
    unset: list[str] = []


class LeashReplyMessage(Message):
    """Kernel process → provisioner: it is done; or, the first, that the kernel process is up.

    Args:
        request_id: What is answered; empty in the first.
        error: Why it was not done; empty when it was.
    """

    type = MessageType.LEASH_REPLY
    request_id: str = ""
    error: str = ""
