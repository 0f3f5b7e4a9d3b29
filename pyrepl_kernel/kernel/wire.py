"""Jupyter's messages on the wire: bytes in, requests out, and the reverse. No I/O.

[identity, …] <IDS|MSG> signature header parent_header metadata content [buffer, …]
"""

from __future__ import annotations

import hmac
import json
import os
from collections import deque
from collections.abc import Sequence
from datetime import UTC, date, datetime
from itertools import count
from typing import Any

__all__ = ["PROTOCOL_VERSION", "Request", "Wire", "WireError", "to_json"]

PROTOCOL_VERSION = "5.5"

_DELIMITER = b"<IDS|MSG>"
_HISTORY = 1 << 16  # signatures remembered, against replays


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
    """

    __slots__ = ("buffers", "content", "header", "identities", "metadata", "raw_header")

    def __init__(
        self,
        identities: list[bytes],
        raw_header: bytes,
        header: dict[str, Any],
        metadata: dict[str, Any],
        content: dict[str, Any],
        buffers: list[bytes],
    ) -> None:
        self.identities = identities
        self.raw_header = raw_header
        self.header = header
        self.metadata = metadata
        self.content = content
        self.buffers = buffers

    @property
    def type(self) -> str:
        """Its message type, ``execute_request`` say."""
        return str(self.header["msg_type"])

    @property
    def id(self) -> str:
        """Its message id."""
        return str(self.header["msg_id"])


def _json_default(value: Any) -> Any:
    if isinstance(value, bytes):
        from base64 import b64encode

        return b64encode(value).decode("ascii")
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_json_default).encode


def to_json(value: Any) -> bytes:
    """A value as JSON; numbers that JSON lacks become text, as Jupyter's clients expect."""
    try:
        text = _encode(value)
    except ValueError:
        text = _encode(_without_nan(value))
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Halves of surrogate pairs: a pair is the character that it stands for, a lone one is none.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


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
        self._hmac = hmac.new(key, digestmod=scheme.removeprefix("hmac-")) if key else None
        self._seen: set[bytes] = set()
        self._seen_order: deque[bytes] = deque()
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

    def _sign(self, frames: Sequence[bytes]) -> bytes:
        if self._hmac is None:
            return b""
        digest = self._hmac.copy()
        for frame in frames:
            digest.update(frame)
        return digest.hexdigest().encode()

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
        if self._hmac is not None:
            if not hmac.compare_digest(self._sign(signed), signature):
                raise WireError(f"wrong signature {signature!r}")
            self._remember(signature)
        try:
            header, _, metadata, content = (json.loads(part) for part in signed)
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
        )

    def _remember(self, signature: bytes) -> None:
        if signature in self._seen:
            raise WireError(f"duplicate signature {signature!r}")
        self._seen.add(signature)
        self._seen_order.append(signature)
        if len(self._seen_order) > _HISTORY:
            self._seen.discard(self._seen_order.popleft())

    def build(
        self,
        prefix: Sequence[bytes],
        message_type: str,
        content: bytes,
        parent: bytes = b"{}",
        metadata: bytes = b"{}",
        buffers: Sequence[bytes] = (),
    ) -> list[bytes]:
        """The frames of a message.

        Args:
            prefix: Identities or a topic.
            message_type: Its type.
            content: Its content as JSON.
            parent: The parent header as JSON.
            metadata: Its metadata as JSON.
            buffers: Raw bytes beside the content.
        """
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        header = (
            f'{self._head}{next(self._numbers)}{self._tail}{message_type}", "date": "{now}"}}'
        ).encode()
        signed = (header, parent, metadata, content)
        return [*prefix, _DELIMITER, self._sign(signed), *signed, *buffers]
