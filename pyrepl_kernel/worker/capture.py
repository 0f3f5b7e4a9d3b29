"""What a cell prints, on its way out: ``sys.stdout``, ``sys.stderr``, and their common buffer.

    print() ──▶ OutStream.write ──▶ segments: (stream, cell, [text, …])
                                        │  when the cell ends, when it is much, or
                                        │  when the flusher's moment has come
                                        ▼
                                    Channel.send(OutputMessage, …)

Both streams share one buffer, so that their order is kept. What C code and child processes write
does not come this way: it goes through descriptors 1 and 2 to the session.
"""

from __future__ import annotations

import _thread
import codecs
import io
import os
import threading
import time
from _thread import start_new_thread
from collections.abc import Iterable
from contextlib import suppress
from sys import settrace
from typing import Any

from pyrepl_kernel.protocol.messages import Message, OutputMessage
from pyrepl_kernel.worker.channel import Channel
from pyrepl_kernel.worker.interrupts import InterruptGuard
from pyrepl_kernel.worker.parent import FollowsParent, current_execution

__all__ = ["OutStream", "OutputBuffer", "current_execution"]

FIRST_DELAY = 0.008
"""Seconds until the first output of a burst is sent."""
PIECE_SIZE = 1 << 20
"""Characters in one message: while one side packs a piece, the other unpacks that before it."""
BURST_DELAY = 0.05
"""Seconds between the messages of a burst."""
FLUSH_SIZE = 1 << 20
"""Characters after which the buffer is sent at once; the writer waits if nobody takes it."""


class _Segment:
    __slots__ = ("execution_id", "parts", "stream")

    def __init__(self, stream: str, execution_id: str, *parts: str) -> None:
        self.stream = stream
        self.execution_id = execution_id
        self.parts = list(parts)


class OutputBuffer:
    """Text of both streams that has not been sent yet."""

    def __init__(self, channel: Channel, guard: InterruptGuard) -> None:
        self._channel = channel
        self._guard = guard
        self._lock = threading.RLock()
        self._segments: list[_Segment] = []
        self._last = _Segment("", "")
        self._size = 0
        self._armed = False
        self._wake: _thread.LockType | None = None
        self.is_forked = False
        os.register_at_fork(before=self.flush, after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        # A child that the user forked writes straight to the descriptor; what was unsent at the
        # moment of the fork is its parent's to send.
        self._lock = threading.RLock()
        self._segments = []
        self._last = _Segment("", "")
        self._size = 0
        self.is_forked = True

    def write(self, stream: str, text: str) -> None:
        """Add text; it is sent in a moment."""
        execution_id = current_execution()
        with self._lock:
            last = self._last
            if last.stream == stream and last.execution_id == execution_id:
                last.parts.append(text)
            else:
                # Whole before anybody can see it: a signal handler may print and flush meanwhile.
                last = _Segment(stream, execution_id, text)
                self._last = last
                self._segments.append(last)
            self._size += len(text)
            if self._armed and self._size < FLUSH_SIZE:
                return
            self._armed = True
        if self._size >= FLUSH_SIZE:
            self.flush()
        else:
            self._wake_flusher()

    def _take(self) -> list[_Segment]:
        with self._lock:
            segments = self._segments
            self._segments = []
            self._last = _Segment("", "")
            self._size = 0
            self._armed = False
        return segments

    def take_messages(self) -> list[Message]:
        """All that is unsent, as messages; whoever takes them sends them."""
        # A character takes up to four bytes, and the rest of a message its share.
        size = min(PIECE_SIZE, max(1, (self._channel.max_frame_size - 1024) // 4))
        messages: list[Message] = []
        for segment in self._take():
            text = "".join(segment.parts)
            messages += [
                OutputMessage(text[start : start + size], segment.stream, segment.execution_id)
                for start in range(0, len(text), size)
            ]
        return messages

    def flush(self) -> None:
        """Send what is unsent."""
        if self._segments and not self.is_forked:
            self.send_after_output()

    def send_after_output(self, *messages: Message) -> None:
        """Send messages, and before them all text written so far."""
        # Under the lock, so that what is taken first is posted first; but never while sending,
        # which may wait for the session: a signal handler of the user's may print at any moment,
        # also in a thread that is inside of ``write``. The guard is for what was taken: it must
        # reach the channel, interrupt or not.
        with self._lock, self._guard:
            self._channel.post(*self.take_messages())
            self._channel.post(*messages)
        self._channel.flush()

    # ------------------------------------------------------------ the flusher

    def _wake_flusher(self) -> None:
        if self._wake is None:
            self._wake = _thread.allocate_lock()
            self._wake.acquire()
            # Not a threading.Thread: the user's threading.enumerate() is the user's.
            start_new_thread(self._flush_by_time, (self._wake,))
        elif self._wake.locked():
            with suppress(RuntimeError):  # another thread has woken it in this moment
                self._wake.release()

    def _flush_by_time(self, wake: _thread.LockType) -> None:
        last = 0.0
        while True:
            in_burst = time.monotonic() - last < 2 * BURST_DELAY
            time.sleep(BURST_DELAY if in_burst else FIRST_DELAY)
            settrace(None)  # a debugger's tracing is for the user's threads
            if self._segments:
                self.flush()
                last = time.monotonic()
            wake.acquire()


class OutStream(FollowsParent, io.TextIOBase):
    """``sys.stdout`` or ``sys.stderr`` of a worker.

    Args:
        buffer: Where the text goes.
        name: ``stdout`` or ``stderr``.
        fd: The descriptor that C code and children use for the same stream.
    """

    encoding = "UTF-8"
    errors: str | None = "strict"

    def __init__(self, buffer: OutputBuffer, name: str, fd: int) -> None:
        super().__init__()
        self._buffer = buffer
        self.name = name
        self._fd = fd
        self._bytes = BytesStream(self)

    def write(self, text: str) -> int:
        """Write text.

        Raises:
            TypeError: ``text`` is not a str.
            ValueError: The stream is closed.
        """
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text)}")
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if text:
            if self._buffer.is_forked:
                self._write_directly(text)
            else:
                self._buffer.write(self.name, text)
        return len(text)

    def _write_directly(self, text: str) -> None:
        data = memoryview(text.encode("utf-8", "replace"))
        while data:
            data = data[os.write(self._fd, data) :]

    def writelines(self, lines: Iterable[Any]) -> None:
        """Write each of the strings."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Send what was written to either stream so far."""
        self._buffer.flush()

    def fileno(self) -> int:
        """A real descriptor that reaches the notebook too."""
        return self._fd

    def isatty(self) -> bool:
        """Always False."""
        return False

    def readable(self) -> bool:
        """Always False."""
        return False

    def seekable(self) -> bool:
        """Always False."""
        return False

    def writable(self) -> bool:
        """Always True."""
        return True

    def close(self) -> None:
        """Flush; a stream of a worker stays open, whoever closes it."""
        self.flush()

    def _is_master_process(self) -> bool:
        # Asked by test suites of front ends, and by libraries that fork.
        return not self._buffer.is_forked

    @property
    def buffer(self) -> BytesStream:
        """The same stream for bytes."""
        return self._bytes


class BytesStream(io.BufferedIOBase):
    """``sys.stdout.buffer``: bytes, in order with the text."""

    def __init__(self, stream: OutStream) -> None:
        super().__init__()
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def raw(self) -> Any:
        """The same again: there is no layer below."""
        return self

    @property
    def name(self) -> str:
        """As the text stream's."""
        return self._stream.name

    def write(self, data: Any) -> int:
        """Write bytes, decoded as UTF-8; a character may come in pieces.

        Raises:
            TypeError: ``data`` is not made of bytes.
        """
        if isinstance(data, str):
            raise TypeError("a bytes-like object is required, not 'str'")
        raw = bytes(memoryview(data))
        self._stream.write(self._decoder.decode(raw))
        return len(raw)

    def flush(self) -> None:
        """Send what was written so far."""
        self._stream.flush()

    def fileno(self) -> int:
        """As the text stream's."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """Always True."""
        return True

    def close(self) -> None:
        """Flush; the stream stays open."""
        self._stream.flush()
