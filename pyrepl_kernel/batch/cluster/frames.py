"""What a Dask worker and its pool process say to each other: JSON behind a length of 8 bytes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

__all__ = ["read", "write"]


async def read(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next message; None when the other side has ended."""
    try:
        length = int.from_bytes(await reader.readexactly(8))
        message: dict[str, Any] = json.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return message


def write(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    """Send a message, if anybody is there to read it."""
    if writer.is_closing():
        return
    body = json.dumps(message).encode()
    writer.write(len(body).to_bytes(8) + body)
