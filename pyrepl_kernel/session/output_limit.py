"""Keeps the head and the tail of what a cell writes, and counts the middle."""

from __future__ import annotations

import os
import time
from collections import deque
from typing import IO

from pyrepl_kernel.protocol.messages import (
    DisplayMessage,
    ErrorMessage,
    InputMessage,
    Message,
    OutputMessage,
)

__all__ = ["OutputLimit"]


class OutputLimit:
    """The text of one cell's streams, held to a limit.

    The first half passes at once. Of the rest the last half is kept, and passes when the cell
    ends, when it shows an error or asks for input. Displays pass always.

    Args:
        limit: Characters.
        folder: Where the whole text of a cell above the limit goes to; empty for nowhere.
    """

    def __init__(self, limit: int, folder: str = "") -> None:
        self._limit = limit
        self._folder = folder
        self._passed = 0
        self._total = 0
        self._head: list[str] = []  # kept only where a file may need it
        self._tail: deque[OutputMessage] = deque()
        self._tail_size = 0
        self._left_out = 0
        self._file: IO[str] | None = None
        self._path = ""

    def admit(self, message: Message) -> list[Message]:
        """What may pass now that a message has come."""
        if isinstance(message, OutputMessage):
            return self._admit_text(message)
        if isinstance(message, DisplayMessage) and message.kind == "clear":
            self._passed = self._tail_size = self._left_out = 0
            self._tail.clear()
        if isinstance(message, ErrorMessage | InputMessage):
            return [*self.flush(), message]
        return [message]

    def _admit_text(self, message: OutputMessage) -> list[Message]:
        text = message.data
        room = max(0, self._limit // 2 - self._passed)
        now, later = text[:room], text[room:]
        self._passed += len(now)
        if self._folder:
            self._total += len(text)
            self._keep_whole(text)
        if later:
            self._keep(_with_text(message, later))
        return [_with_text(message, now)] if now else []

    def _keep(self, message: OutputMessage) -> None:
        """Put text into the tail, and leave out what no longer fits."""
        self._tail.append(message)
        self._tail_size += len(message.data)
        excess = self._tail_size - (self._limit - self._limit // 2)
        while excess > 0:
            oldest = self._tail.popleft()
            gone = min(excess, len(oldest.data))
            if gone < len(oldest.data):
                self._tail.appendleft(_with_text(oldest, oldest.data[gone:]))
            self._left_out += gone
            self._tail_size -= gone
            excess -= gone

    def _keep_whole(self, text: str) -> None:
        if self._file is None and self._total <= self._limit:
            self._head.append(text)
            return
        try:
            if self._file is None:
                os.makedirs(self._folder, exist_ok=True)
                stamp = time.strftime("%Y%m%d-%H%M%S")
                path = os.path.join(self._folder, f"output-{stamp}-{os.urandom(3).hex()}.txt")
                self._file = open(path, "w", encoding="utf-8")  # until the end
                self._path = path
                self._file.write("".join(self._head))
                self._head.clear()
            self._file.write(text)
        except OSError as error:
            self._path = f"nowhere, since {self._folder} cannot be written to: {error.strerror}"
            self._folder = ""

    def flush(self) -> list[Message]:
        """What was kept of the tail, and before it how much was left out."""
        kept: list[Message] = list(self._tail)
        if self._left_out:
            first = self._tail[0]
            where = f"; the whole text is in {self._path}" if self._path else ""
            note = (
                f"\n[... {self._left_out:,} characters were left out: the limit of a cell's output "
                f"is {self._limit:,}{where} ...]\n"
            )
            kept.insert(0, _with_text(first, note))
        self._passed = self._passed if not kept else 0
        self._tail.clear()
        self._tail_size = self._left_out = 0
        return kept

    def close(self) -> None:
        """The cell has ended."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _with_text(message: OutputMessage, text: str) -> OutputMessage:
    return OutputMessage(text, message.stream, message.execution_id)
