"""What a cell prints, on its way out: ``sys.stdout``, ``sys.stderr``, and their common buffer.

    print() ──▶ OutStream.write ──▶ log: [origin, text, origin, text, …]
                                        │  when the cell ends, when it is much, or
                                        │  when the flusher's moment has come
                                        ▼
                                    Channel.send(OutputMessage, …)

Both streams share one log, so that their order is kept. What C code and child processes write
does not come this way: it goes through descriptors 1 and 2 to the session.

A write is what the user's code pays for, so it takes no lock: it adds to the log by one call into
C, which no other thread and no signal handler can come between.
"""

from __future__ import annotations

import _thread
import codecs
import io
import os
import threading
import time
from _thread import start_new_thread
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from itertools import groupby
from operator import itemgetter
from sys import settrace
from typing import Any

from pyrepl_kernel.protocol.messages import Message, OutputMessage
from pyrepl_kernel.worker.channel import Channel
from pyrepl_kernel.worker.interrupts import InterruptGuard
from pyrepl_kernel.worker.parent import (
    Cause,
    FollowsParent,
    cause_of_context,
    current_execution,
)

__all__ = ["OutStream", "OutputBuffer", "Recording", "current_execution"]

FIRST_DELAY = 0.008
"""Seconds until the first output of a burst is sent."""
PIECE_SIZE = 1 << 20
"""Characters in one message: while one side packs a piece, the other unpacks that before it."""
BURST_DELAY = 0.05
"""Seconds between the messages of a burst."""
BURST_SIZE = 16 << 10
"""Bytes of displays that go out together: while they are on their way, the next are being made."""
FLUSH_SIZE = 1 << 20
"""Characters after which the buffer is sent at once; the writer waits if nobody takes it."""


_ORIGIN = itemgetter(0)
_TEXT = itemgetter(1)

Origin = tuple[str, str]
"""The execution that wrote a text, and the stream: ``stdout`` or ``stderr``."""
Recorder = Callable[[str], None]


class OutputBuffer:
    """Text of both streams that has not been sent yet.

    Attributes:
        log: Origin, text, origin, text, and so on; always the same list.
        size: Characters in it, about: several threads may count at the same time.
        is_armed: Whether somebody is going to send it.
        recorders: Origin → what is called with each of its texts that is about to be sent.
        is_forked: Whether this process is a child that the user's code forked.
        fds: The descriptors that such a child writes to, by the name of the stream.
    """

    def __init__(self, channel: Channel, guard: InterruptGuard) -> None:
        self._channel = channel
        self._guard = guard
        self._lock = threading.RLock()  # whoever takes first posts first
        self.log: list[Any] = []
        self.size = 0
        self.is_armed = False
        self._wake: _thread.LockType | None = None
        self._posted = 0  # bytes of messages that are to be sent soon
        self._sent_at = 0.0
        self.recorders: dict[Origin, Recorder] = {}
        self.is_forked = False
        self.fds: dict[str, int] = {}
        self._thread = 0
        self._is_running = _thread.allocate_lock()  # held until the flusher knows its number
        os.register_at_fork(before=self.flush, after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        # A child that the user forked writes straight to the descriptor; what was unsent at the
        # moment of the fork is its parent's to send.
        self._lock = threading.RLock()
        self.log.clear()
        self.is_armed = False
        self.is_forked = True

    def attach(self) -> None:
        """The channel was attached to a session of this process's own: begin anew."""
        self._take()
        self._wake = None  # of a thread that the fork has left behind
        self._thread = 0
        self.is_forked = False

    def on_write(self) -> None:
        """Something was added that is the first in a while, or makes it much."""
        if self.is_forked:
            self._write_directly()
            return
        self.is_armed = True
        if self.size >= FLUSH_SIZE:
            self.flush()
        else:
            self._wake_flusher()

    def _write_directly(self) -> None:
        for (_, stream), text in self._take():
            data = memoryview(text.encode("utf-8", "replace"))
            while data:
                data = data[os.write(self.fds[stream], data) :]

    def _take(self) -> list[tuple[Origin, str]]:
        """Take all that is unsent, the texts of one origin in a row joined."""
        # First, so that whoever writes from here on sees that it has to be sent.
        self.is_armed = False
        self.size = 0
        # Between these two no call, and so no other thread and no signal handler.
        log = self.log[:]
        del self.log[:]
        if not log:
            return []
        origins, texts = log[0::2], log[1::2]
        if origins.count(origins[0]) == len(origins):
            return [(origins[0], "".join(texts))]
        return [
            (origin, "".join(map(_TEXT, group)))
            for origin, group in groupby(zip(origins, texts, strict=True), _ORIGIN)
        ]

    def take_messages(self) -> list[Message]:
        """All that is unsent, as messages; whoever takes them sends them."""
        # A character takes up to four bytes, and the rest of a message its share.
        size = min(PIECE_SIZE, max(1, (self._channel.max_frame_size - 1024) // 4))
        messages: list[Message] = []
        for origin, text in self._take():
            if text and origin in self.recorders:
                self.recorders[origin](text)
            execution_id, stream = origin
            messages += [
                OutputMessage(text[start : start + size], stream, execution_id)
                for start in range(0, len(text), size)
            ]
        return messages

    def flush(self) -> None:
        """Send what is unsent."""
        if (self.log or self._posted) and not self.is_forked:
            self.send_after_output()

    def settle(self) -> None:
        """Let the recorders have what is unsent; it is sent with whatever is sent next."""
        if self.log and not self.is_forked:
            with self._lock, self._guard:
                self._channel.post(*self.take_messages())

    def send_after_output(self, *messages: Message) -> None:
        """Send messages, and before them all text written so far."""
        # Under the lock, so that what is taken first is posted first; but never while sending,
        # which may wait for the session: a signal handler of the user's may print at any moment.
        # The guard is for what was taken: it must reach the channel, interrupt or not.
        with self._lock, self._guard:
            if self.log:
                self._channel.post(*self.take_messages())
            self._channel.post(*messages)
            self._posted = 0
        self._channel.flush()

    def send_soon(self, *messages: Message) -> None:
        """As ``send_after_output``, but in a burst what follows within moments goes with it."""
        with self._lock, self._guard:
            if self.log:
                self._channel.post(*self.take_messages())
            self._posted += self._channel.post(*messages)
        now = time.monotonic()
        if self._posted >= BURST_SIZE or now - self._sent_at > FIRST_DELAY:
            self.send_after_output()
        elif not self.is_armed:
            self.is_armed = True
            self._wake_flusher()
        self._sent_at = now

    # ------------------------------------------------------------ the flusher

    @property
    def thread(self) -> int:
        """The number of the flusher's thread; 0 before there is one."""
        with self._is_running:
            return self._thread

    def _wake_flusher(self) -> None:
        if not self._channel.is_attached:
            return  # nobody hears it, and a template has no thread but its own
        if self._wake is None:
            self._wake = _thread.allocate_lock()
            self._wake.acquire()
            self._is_running.acquire()
            # Not a threading.Thread: the user's threading.enumerate() is the user's.
            start_new_thread(self._flush_by_time, (self._wake,))
            # In a crash Python 3.14 writes no stack at all while a thread exists that never ran.
            with self._is_running:
                pass
        elif self._wake.locked():
            with suppress(RuntimeError):  # another thread has woken it in this moment
                self._wake.release()

    def _flush_by_time(self, wake: _thread.LockType) -> None:
        last = 0.0
        self._thread = threading.get_native_id()
        self._is_running.release()
        while True:
            in_burst = time.monotonic() - last < 2 * BURST_DELAY
            time.sleep(BURST_DELAY if in_burst else FIRST_DELAY)
            settrace(None)  # a debugger's tracing is for the user's threads
            if self.log or self._posted:
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
        buffer.fds[name] = fd
        self.name = name
        self._fd = fd
        self._bytes = BytesStream(self)
        # One object, since threads of different executions may write at the same time.
        self._latest: tuple[Cause, Origin] = (("", {}), ("", name))

    def write(self, text: str) -> int:
        """Write text.

        Raises:
            TypeError: ``text`` is not a str.
        """
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text)}")
        cause = cause_of_context(None)
        if cause is None:
            cause = current_execution.latest
        latest = self._latest
        if latest[0] is not cause:
            self._latest = latest = (cause, (cause[0], self.name))
        buffer = self._buffer
        buffer.log += (latest[1], text)
        buffer.size = size = buffer.size + len(text)
        if not buffer.is_armed or size >= FLUSH_SIZE:
            buffer.on_write()
        return len(text)

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

    def record(self, recorder: Recorder | None) -> Recorder | None:
        """Have what this execution writes from here on given to a recorder too, in pieces.

        Args:
            recorder: It; None for none.

        Returns:
            The recorder before it, which has got all that was written until now.
        """
        buffer = self._buffer
        buffer.settle()
        origin = (current_execution(), self.name)
        before = buffer.recorders.pop(origin, None)
        if recorder is not None:
            buffer.recorders[origin] = recorder
        return before

    def settle(self) -> None:
        """Let recorders have what they have not got yet."""
        self._buffer.settle()

    def _is_master_process(self) -> bool:
        # Asked by test suites of front ends, and by libraries that fork.
        return not self._buffer.is_forked

    @property
    def buffer(self) -> BytesStream:
        """The same stream for bytes."""
        return self._bytes


class Recording(AbstractContextManager[None]):
    """Within it, what an execution writes to a stream is given to a recorder too.

    Args:
        stream: The stream.
        recorder: Called with each piece.
    """

    __slots__ = ("_other", "_stream")

    def __init__(self, stream: OutStream, recorder: Recorder) -> None:
        self._stream = stream
        self._other: Recorder | None = recorder  # the one that is not in use

    def __enter__(self) -> None:
        self._other = self._stream.record(self._other)

    def __exit__(self, *exc_info: object) -> None:
        self._other = self._stream.record(self._other)


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
