"""Frames without I/O: bytes in, messages out, and the reverse.

A frame is a 4-byte big-endian length and a body of that many bytes: a msgpack map. Large values
are not packed into the map but attached to it, as they are, so that neither side copies them:

    length, its highest bit set │ length of the map │ map │ attachment │ attachment │ …

In the map an extension type stands for each, in their order, with its size. The length is checked
against the limit before any memory is taken for the body.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from typing import TYPE_CHECKING, Any

import msgpack

from pyrepl_kernel.errors import FrameTooLarge, FrameTruncated, InvalidFrame
from pyrepl_kernel.protocol.messages import Buffer, Message, message_from_map

if TYPE_CHECKING:
    import mmap

__all__ = [
    "ATTACHED",
    "MAX_FRAME_SIZE",
    "FrameDecoder",
    "KeptMemory",
    "encode_message",
    "encode_parts",
]

MAX_FRAME_SIZE = 256 * 1024 * 1024
"""Default limit of a frame's body, in bytes."""

ATTACHED = 64 * 1024
"""Bytes (or characters) of a value from which it is attached to the map."""

_LARGE = 256 * 1024  # bytes of a body that is not gathered in the common buffer
_HUGE = 8 * 1024 * 1024  # of one whose memory is taken from the system while it is filled
_ADVANCE = 256  # times what has arrived is as long as such a body is believed to be
_WASTE = 4  # times the size of a huge body may be that of the memory it is put into

_PREFIX = struct.Struct(">I")
_HEAD = struct.Struct(">II")
_HAS_ATTACHMENTS = 1 << 31  # in the length
# msgpack's extension types:
_BIG_INTEGER = 1  # an int beyond 64 bits, as decimal digits
_BYTES = 2  # an attachment, by its size
_TEXT = 3  # likewise; a str in UTF-8
_MAX_BITS = 13_000  # of such an int; Python itself refuses to print more than 4300 digits


def _plain(value: Any) -> Any:
    """What stands on the wire for a value that msgpack does not know (as in Jupyter's JSON)."""
    if isinstance(value, int):
        if value.bit_length() > _MAX_BITS:
            raise TypeError(f"an int of {value.bit_length()} bits is too large for a message")
        return msgpack.ExtType(_BIG_INTEGER, str(value).encode())
    if isinstance(value, date):  # a datetime too
        return value.isoformat()
    if isinstance(value, (set, frozenset)) or hasattr(value, "__next__"):
        return list(value)
    for protocol, convert in (("__index__", int), ("__float__", float)):
        if hasattr(value, protocol):
            return convert(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _extension(code: int, data: bytes) -> Any:
    if code == _BIG_INTEGER and len(data) <= 4096 and data.lstrip(b"-").isdigit():
        return int(data)
    raise ValueError(f"unknown msgpack extension type {code}")


_packers: list[msgpack.Packer] = []
_KEPT_SIZE = 1024 * 1024  # a packer that has held a larger body never gives its memory back


def _pack(values: dict[str, Any]) -> bytes:
    # A packer in use belongs to one call: ``_plain`` runs Python code, during which other threads,
    # or that code itself, may send messages of their own.
    try:
        packer = _packers.pop()
    except IndexError:
        packer = msgpack.Packer(default=_plain, use_bin_type=True, unicode_errors="surrogatepass")
    try:
        body: bytes = packer.pack(values)
    except (ValueError, OverflowError, RecursionError) as error:
        raise TypeError(f"a message cannot carry this: {error}") from error
    if len(body) <= _KEPT_SIZE:
        _packers.append(packer)
    return body


def encode_message(message: Message, max_frame_size: int = MAX_FRAME_SIZE) -> bytes:
    """The frame of a message, length prefix included; errors as ``encode_parts``."""
    return b"".join(encode_parts(message, max_frame_size))


def encode_parts(message: Message, max_frame_size: int = MAX_FRAME_SIZE) -> list[Buffer]:
    """The frame of a message in pieces, to be sent one after the other: large values stay apart.

    Raises:
        FrameTooLarge: The body would be larger than ``max_frame_size`` bytes.
        TypeError: A value inside cannot be expressed in JSON: it is of another kind, contains
            itself, or is an int of thousands of digits.
    """
    values = message.to_map()
    attachments = _detach(values)
    body = _pack(values)
    if not attachments:
        if len(body) > max_frame_size:
            raise FrameTooLarge(len(body), max_frame_size)
        return [_PREFIX.pack(len(body)) + body]
    size = _PREFIX.size + len(body) + sum(map(len, attachments))
    if size > max_frame_size:
        raise FrameTooLarge(size, max_frame_size)
    return [_HEAD.pack(size | _HAS_ATTACHMENTS, len(body)) + body, *attachments]


def _detach(values: dict[str, Any]) -> list[Buffer]:
    """Take the large values out of a message's map, and put what stands for them in their place."""
    attachments: list[Buffer] = []
    data = values.get("data")
    if data.__class__ is str:
        if len(data) >= ATTACHED:
            values["data"] = _attach(data, attachments)
    elif data.__class__ is dict and any(map(_is_large, data.values())):
        values["data"] = {
            key: _attach(value, attachments) if _is_large(value) else value
            for key, value in data.items()
        }
    buffers = values.get("buffers")
    if buffers and any(map(_is_large, buffers)):
        values["buffers"] = [
            _attach(buffer, attachments) if _is_large(buffer) else buffer for buffer in buffers
        ]
    return attachments


def _is_large(value: Any) -> bool:
    kind = value.__class__
    return (kind is str or kind is bytes or kind is memoryview) and len(value) >= ATTACHED


def _attach(value: str | Buffer, attachments: list[Buffer]) -> msgpack.ExtType:
    code = _BYTES
    if isinstance(value, str):
        code, value = _TEXT, value.encode("utf-8", "surrogatepass")
    elif isinstance(value, memoryview):
        value = value.cast("B")
    attachments.append(value)
    return msgpack.ExtType(code, _PREFIX.pack(len(value)))


class FrameDecoder:
    """Turns a stream of bytes, however it is cut up, into messages.

    Example:
        >>> decoder = FrameDecoder()
        >>> decoder.feed(data)
        >>> while (message := decoder.next_message()) is not None: ...
        >>> decoder.finish()  # at end of stream
    """

    def __init__(self, max_frame_size: int = MAX_FRAME_SIZE) -> None:
        self._max = max_frame_size
        self._buffer = bytearray()
        self._size = -1  # of the body at the head of the buffer; -1 = prefix not complete yet
        self._is_attached = False  # whether that body has attachments
        self._large: memoryview | None = None  # a large body, which comes to lie where it stays
        self._filled = 0  # bytes of it that are there
        self.memory: Callable[[int], memoryview] = _memory
        """Gives memory to a large body, of that many bytes."""

    @property
    def pending(self) -> int:
        """Bytes received that no message has used up yet."""
        return len(self._buffer) + (0 if self._large is None else self._filled + 4)

    def feed(self, data: bytes) -> None:
        """Take in bytes."""
        if self._large is not None:
            begin = self._filled
            part = data[: len(self._large) - begin]
            self._large[begin : begin + len(part)] = part
            self._filled = begin + len(part)
            data = data[len(part) :]
        self._buffer += data

    def room(self) -> memoryview | None:
        """Where the rest of a large body may be put directly, told by ``filled``; else None."""
        if self._large is None or self._filled == len(self._large):
            return None
        return self._large[self._filled :]

    def filled(self, size: int) -> None:
        """So many bytes have been put where ``room`` said."""
        self._filled += size

    def next_message(self) -> Message | None:
        """The next complete message, or None when more bytes are needed.

        Raises:
            ProtocolError: The stream is broken here; it cannot be read any further.
        """
        if self._large is not None:
            return self._next_large()
        buffer = self._buffer
        if self._size < 0:
            if len(buffer) < 4:
                return None
            (size,) = _PREFIX.unpack_from(buffer)
            self._is_attached = size >= _HAS_ATTACHMENTS
            size &= _HAS_ATTACHMENTS - 1
            if size > self._max:
                raise FrameTooLarge(size, self._max)
            self._size = size
        end = self._size + 4
        if len(buffer) < end:
            if self._size >= _LARGE and len(buffer) * _ADVANCE >= self._size:
                self._large = self.memory(self._size)
                self._filled = len(buffer) - 4
                self._large[: self._filled] = buffer[4:]
                buffer.clear()
            return None
        with memoryview(buffer) as view, view[4:end] as body:
            # Attachments stay where they are, and the common buffer goes on changing.
            message = _decode_attached(bytes(body)) if self._is_attached else decode_body(body)
        del buffer[:end]
        self._size = -1
        return message

    def _next_large(self) -> Message | None:
        body = self._large
        assert body is not None
        if self._filled < len(body):
            return None
        self._large = None
        self._size = -1
        return _decode_attached(body.toreadonly()) if self._is_attached else decode_body(body)

    def finish(self) -> None:
        """The stream has ended.

        Raises:
            FrameTruncated: It ended inside a frame.
        """
        if self.pending:
            expected = None if self._size < 0 else self._size + 4
            raise FrameTruncated(self.pending, expected)


def _memory(size: int) -> memoryview:
    """Memory for a body; of a huge one the system gives as much as has been filled."""
    if size < _HUGE or sys.platform != "linux":
        return memoryview(bytearray(size))
    return memoryview(_map(size))


def _map(size: int) -> mmap.mmap:
    from mmap import MADV_HUGEPAGE, MAP_ANONYMOUS, MAP_PRIVATE, mmap  # which few kernels need

    memory = mmap(-1, size, flags=MAP_PRIVATE | MAP_ANONYMOUS)
    with suppress(OSError):  # a system built without large pages
        memory.madvise(MADV_HUGEPAGE)
    return memory


class KeptMemory:
    """Memory for the bodies of one stream, in which a huge one may follow another.

    What makes a huge body slow is memory that nobody has used yet: the system has to find and to
    clear it. So that of a huge one is kept, and given to the next that comes when nobody looks at
    the one before any more. ``forget`` gives it back.
    """

    def __init__(self) -> None:
        self._kept: mmap.mmap | None = None
        self._alone = 0  # references to it when no body lies there

    def take(self, size: int) -> memoryview:
        """Memory for a body of ``size`` bytes."""
        if size < _HUGE or sys.platform != "linux":
            return _memory(size)
        if self._kept is not None:
            room = len(self._kept)
            # Each view of it, and each view of a view, holds one more reference.
            is_free = sys.getrefcount(self._kept) == self._alone
            if is_free and size <= room <= size * _WASTE:
                return memoryview(self._kept)[:size]
            if not is_free and room >= size:
                return _memory(size)  # this one would not be kept: the other is as good
        self._kept = _map(size)
        self._alone = sys.getrefcount(self._kept)
        return memoryview(self._kept)

    def forget(self) -> None:
        """Give back what is kept, once nobody looks at what lies there."""
        self._kept = None


def _decode_attached(body: Buffer) -> Message:
    """The message in the body of a frame with attachments, which become views of that body."""
    view = memoryview(body)
    if len(view) < _PREFIX.size:
        raise InvalidFrame("it ends before its map", bytes(view[:32]))
    (size,) = _PREFIX.unpack_from(view)
    end = at = _PREFIX.size + size
    if end > len(view):
        raise InvalidFrame("its map is longer than the frame", bytes(view[:32]))

    def extension(code: int, data: bytes) -> Any:
        nonlocal at
        if code not in (_BYTES, _TEXT) or len(data) != _PREFIX.size:
            return _extension(code, data)
        # One after the other, so that none is there twice: a text takes memory of its own.
        begin, at = at, at + _PREFIX.unpack(data)[0]
        if at > len(view):
            raise ValueError("an attachment is longer than the frame")
        part = view[begin:at]
        return str(part, "utf-8", "surrogatepass") if code == _TEXT else part

    message = decode_body(view[_PREFIX.size : end], extension)
    if at != len(view):
        raise InvalidFrame(f"{len(view) - at} bytes belong to nothing", bytes(view[:32]))
    return message


def decode_body(body: Buffer, extension: Callable[[int, bytes], Any] = _extension) -> Message:
    """The message in one frame's body.

    Raises:
        InvalidFrame: The body is not a msgpack map with string keys.
        ProtocolError: The map is no message.
    """
    try:
        values = msgpack.unpackb(
            body, ext_hook=extension, strict_map_key=False, unicode_errors="surrogatepass"
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise InvalidFrame(f"{type(error).__name__}: {error}", bytes(body[:32])) from None
    if values.__class__ is not dict:
        raise InvalidFrame(f"it holds a {type(values).__name__}", bytes(body[:32]))
    for key in values:
        if key.__class__ is not str:
            raise InvalidFrame(f"key {key!r} is no string", bytes(body[:32]))
    return message_from_map(values)
