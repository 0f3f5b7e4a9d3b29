"""Jupyter's messages on the wire: bytes in, requests out, and the reverse. No I/O.

[identity, …] <IDS|MSG> signature header parent_header metadata content [buffer, …]
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from datetime import date
from hmac import compare_digest
from itertools import count
from json.encoder import encode_basestring
from typing import Any

from pyrepl_kernel.protocol.messages import Buffer

__all__ = [
    "PROTOCOL_VERSION",
    "Request",
    "Signer",
    "Wire",
    "WireError",
    "json_string",
    "now",
    "object_parts",
    "to_json",
]

PROTOCOL_VERSION = "5.5"

_DELIMITER = b"<IDS|MSG>"
# Signatures remembered, against replays: this many at least, and twice as many at most.
_HISTORY = 1 << 15
_SHORT = 1 << 14  # bytes of a message that are copied rather than gone through one by one
_MARK = 15  # hexadecimal digits of each: an int of 32 bytes, where the text takes a hundred


class WireError(Exception):
    """A message that cannot be trusted or understood; it is dropped."""


class Request:
    """A message from a client.

    Attributes:
        identities: zmq's routing prefix, which a reply has to carry.
        header: Its header.
        raw_header: The same as JSON, as it came: the parent header of all that answers it.
        metadata: Its metadata.
        content: Its content.
        buffers: Raw bytes beside the content.
        parent: The header of the message that it answers; empty where it answers none.
    """

    __slots__ = ("buffers", "content", "header", "identities", "metadata", "parent", "raw_header")

    def __init__(
        self,
        identities: list[bytes],
        raw_header: bytes,
        header: dict[str, Any],
        metadata: dict[str, Any],
        content: dict[str, Any],
        buffers: list[Buffer],
        parent: dict[str, Any],
    ) -> None:
        self.identities = identities
        self.raw_header = raw_header
        self.header = header
        self.metadata = metadata
        self.content = content
        self.buffers = buffers
        self.parent = parent

    @property
    def type(self) -> str:
        """Its message type, ``execute_request`` say."""
        return str(self.header["msg_type"])

    @property
    def id(self) -> str:
        """Its message id."""
        return str(self.header["msg_id"])

    @property
    def is_of_jupyter_client(self) -> bool:
        """Whether it has been made by jupyter_client, whose ids begin with that of the session."""
        return self.id.startswith(f"{self.header.get('session')}_")


def _json_default(value: Any) -> Any:
    if isinstance(value, bytes):
        from base64 import b64encode

        return b64encode(value).decode("ascii")
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_json_default).encode
_decoder = json.JSONDecoder()
_EMPTY = b"{}"

_LONG = 512  # characters from which a string is worth a look of its own
_BACKSLASH = ord("\\")
_PLAIN = bytes(byte for byte in range(0x20, 0x100) if byte not in b'"\\')
_ESCAPES = {byte: encode_basestring(chr(byte))[1:-1].encode() for byte in (*range(0x20), ord('"'))}


def to_json(value: Any) -> bytes:
    """A value as JSON; numbers that JSON lacks become text, as Jupyter's clients expect."""
    try:
        text = _encode(value)
    except ValueError:
        text = _encode(_without_nan(value))
    return _utf8(text)


def json_string(text: str) -> bytes:
    """A string as JSON, its quotes included."""
    if len(text) < _LONG:
        return _utf8(encode_basestring(text))
    return b"".join((b'"', _escaped(text), b'"'))


def _escaped(text: str) -> bytes:
    """A long string as it stands between the quotes."""
    # The library looks at one character at a time. Here the whole is looked at once for what
    # has to be escaped, and then searched for that alone: an image of a megabyte has nothing.
    data = _utf8(text)
    special = set(data.translate(None, _PLAIN))
    if _BACKSLASH in special:
        data = data.replace(b"\\", b"\\\\")
        special.discard(_BACKSLASH)
    for byte in special:
        data = data.replace(bytes((byte,)), _ESCAPES[byte])
    return data


def object_parts(values: dict[str, Any]) -> list[bytes]:
    """A dict as JSON, in pieces: its values may be long strings, which are to be copied once."""
    if not any(isinstance(value, str) and len(value) >= _LONG for value in values.values()):
        return [to_json(values)]
    if not all(isinstance(key, str) for key in values):
        return [to_json(values)]
    parts: list[bytes] = []
    for key, value in values.items():
        parts += [b", " if parts else b"{", json_string(key), b": "]
        if type(value) is str and len(value) >= _LONG:
            parts += [b'"', _escaped(value), b'"']
        else:
            parts.append(to_json(value))
    parts.append(b"}")
    return parts


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Halves of surrogate pairs: a pair is the character that it stands for, a lone one is none.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def from_json(part: bytes) -> Any:
    """The value of a part of a message.

    Raises:
        ValueError: It is no JSON.
    """
    if part == _EMPTY:
        return {}
    text = part.decode()
    try:
        value, end = _decoder.raw_decode(text)
    except ValueError:
        end = -1
    # Clients send nothing around the value; where something is, the whole decoder judges it.
    return value if end == len(text) else json.loads(text)


class _Clock:
    """The time of day in ISO 8601; its whole seconds are formatted once for each of them."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def __call__(self) -> str:
        micros = time.time_ns() // 1000
        second, rest = divmod(micros, 1_000_000)
        if second != self._second:
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        return f"{self._text}.{rest:06d}Z"


now = _Clock()
"""The date in a header, and wherever else Jupyter has one."""


class Signer:
    """HMAC (RFC 2104) for many messages under one key.

    The two digests that begin with the padded key are made once, and copied for each message.

    Args:
        key: The key.
        digest: A digest that hashlib knows.

    Raises:
        ValueError: There is no such digest.
    """

    def __init__(self, key: bytes, digest: str) -> None:
        self._inner = hashlib.new(digest)
        self._outer = hashlib.new(digest)
        size = self._inner.block_size
        if len(key) > size:
            key = hashlib.new(digest, key).digest()
        key = key.ljust(size, b"\0")
        self._inner.update(bytes(byte ^ 0x36 for byte in key))
        self._outer.update(bytes(byte ^ 0x5C for byte in key))

    def __call__(self, frames: Sequence[bytes]) -> bytes:
        """The signature of a message's parts, as hexadecimal digits."""
        inner = self._inner.copy()
        if sum(map(len, frames)) < _SHORT:
            inner.update(b"".join(frames))  # one call for all of them
        else:
            for frame in frames:
                inner.update(frame)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.hexdigest().encode()


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else repr(value)
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return value


class Wire:
    """Signs what goes out and checks what comes in.

    Args:
        key: The connection's key; empty for no signatures.
        scheme: ``hmac-sha256`` or another digest that hashlib knows.

    Raises:
        ValueError: There is no such digest.
    """

    def __init__(self, key: bytes, scheme: str = "hmac-sha256") -> None:
        self._sign = Signer(key, scheme.removeprefix("hmac-")) if key else None
        self._seen: set[int] = set()
        self._seen_before: set[int] = set()
        self.renew_session()

    def renew_session(self) -> None:
        """Begin a new Jupyter session: a new worker's messages are told from the old one's."""
        self.session = os.urandom(16).hex()
        self._numbers = count(1)
        self._head = f'{{"msg_id": "{self.session}_{os.getpid()}_'
        self._tail = (
            f'", "username": "username", "session": "{self.session}", '
            f'"version": "{PROTOCOL_VERSION}", "msg_type": "'
        )

    def parse(self, frames: Sequence[bytes]) -> Request:
        """The request in a message's frames.

        Raises:
            WireError: It is malformed, wrongly signed, or has been here before.
        """
        try:
            at = frames.index(_DELIMITER)
        except ValueError:
            raise WireError("no <IDS|MSG> delimiter") from None
        if len(frames) < at + 6:
            raise WireError(f"{len(frames) - at - 2} parts after the signature, 4 are needed")
        signature, signed = frames[at + 1], frames[at + 2 : at + 6]
        if self._sign is not None:
            if not compare_digest(self._sign(signed), signature):
                raise WireError(f"wrong signature {signature!r}")
            self._remember(signature)
        try:
            header, parent, metadata, content = map(from_json, signed)
        except ValueError as error:
            raise WireError(f"a part is no JSON: {error}") from None
        if not (isinstance(header, dict) and "msg_id" in header and "msg_type" in header):
            raise WireError("the header lacks msg_id or msg_type")
        return Request(
            list(frames[:at]),
            signed[0],
            header,
            metadata if isinstance(metadata, dict) else {},
            content if isinstance(content, dict) else {},
            list(frames[at + 6 :]),
            parent if isinstance(parent, dict) else {},
        )

    def _remember(self, signature: bytes) -> None:
        mark = int(signature[:_MARK], 16)
        if mark in self._seen or mark in self._seen_before:
            raise WireError(f"duplicate signature {signature!r}")
        self._seen.add(mark)
        if len(self._seen) >= _HISTORY:
            self._seen_before, self._seen = self._seen, set()

    def build(
        self,
        prefix: Sequence[bytes],
        message_type: str,
        content: bytes,
        parent: bytes = b"{}",
        metadata: bytes = b"{}",
        buffers: Sequence[Buffer] = (),
    ) -> list[Buffer]:
        """The frames of a message.

        Args:
            prefix: Identities or a topic.
            message_type: Its type.
            content: Its content as JSON.
            parent: The parent header as JSON.
            metadata: Its metadata as JSON.
            buffers: Raw bytes beside the content.
        """
        header = (
            f'{self._head}{next(self._numbers)}{self._tail}{message_type}", "date": "{now()}"}}'
        ).encode()
        signed = (header, parent, metadata, content)
        signature = b"" if self._sign is None else self._sign(signed)
        return [*prefix, _DELIMITER, signature, *signed, *buffers]
