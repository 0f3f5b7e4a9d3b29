"""Frames without I/O: bytes in, messages out, and the reverse.

A frame is a 4-byte big-endian length and a msgpack map of that many bytes. The length is checked
against the limit before any memory is taken for the body.
"""

from __future__ import annotations

import struct
from datetime import date
from typing import Any

import msgpack

from pyrepl_kernel.errors import FrameTooLarge, FrameTruncated, InvalidFrame
from pyrepl_kernel.protocol.messages import Message, message_from_map

__all__ = ["MAX_FRAME_SIZE", "FrameDecoder", "encode_message"]

MAX_FRAME_SIZE = 256 * 1024 * 1024
"""Default limit of a frame's body, in bytes."""

_PREFIX = struct.Struct(">I")
_BIG_INTEGER = 1  # msgpack extension type: an int beyond 64 bits, as decimal digits
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
    """The frame of a message, length prefix included.

    Raises:
        FrameTooLarge: The body would be larger than ``max_frame_size`` bytes.
        TypeError: A value inside cannot be expressed in JSON: it is of another kind, contains
            itself, or is an int of thousands of digits.
    """
    body = _pack(message.to_map())
    if len(body) > max_frame_size:
        raise FrameTooLarge(len(body), max_frame_size)
    return _PREFIX.pack(len(body)) + body


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

    @property
    def pending(self) -> int:
        """Bytes received that no message has used up yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take in bytes."""
        self._buffer += data

    def next_message(self) -> Message | None:
        """The next complete message, or None when more bytes are needed.

        Raises:
            ProtocolError: The stream is broken here; it cannot be read any further.
        """
        buffer = self._buffer
        if self._size < 0:
            if len(buffer) < 4:
                return None
            (size,) = _PREFIX.unpack_from(buffer)
            if size > self._max:
                raise FrameTooLarge(size, self._max)
            self._size = size
        end = self._size + 4
        if len(buffer) < end:
            return None
        with memoryview(buffer) as view, view[4:end] as body:
            message = decode_body(body)
        del buffer[:end]
        self._size = -1
        return message

    def finish(self) -> None:
        """The stream has ended.

        Raises:
            FrameTruncated: It ended inside a frame.
        """
        if self._buffer:
            expected = None if self._size < 0 else self._size + 4
            raise FrameTruncated(len(self._buffer), expected)


def decode_body(body: memoryview | bytes) -> Message:
    """The message in one frame's body.

    Raises:
        InvalidFrame: The body is not a msgpack map with string keys.
        ProtocolError: The map is no message.
    """
    try:
        values = msgpack.unpackb(
            body, ext_hook=_extension, strict_map_key=False, unicode_errors="surrogatepass"
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise InvalidFrame(f"{type(error).__name__}: {error}", bytes(body[:32])) from None
    if values.__class__ is not dict:
        raise InvalidFrame(f"it holds a {type(values).__name__}", bytes(body[:32]))
    for key in values:
        if key.__class__ is not str:
            raise InvalidFrame(f"key {key!r} is no string", bytes(body[:32]))
    return message_from_map(values)
