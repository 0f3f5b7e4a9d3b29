"""Streams that carry messages, on asyncio.

    source ──read()──▶ FrameReader ──sink(message)──▶ queue ──receive()──▶ whoever waits
             or pour() one task,                      (or a sink of the owner's own)
                       the whole life long

    send(message) ──▶ FrameWriter ──write()──▶ destination

A frame is read however slowly it comes: there is no timeout on reading. What ends a transport is
the end of its stream, an error of the protocol, or ``close()``; all who wait then get an error.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import logging
import socket
import termios
from collections import deque
from collections.abc import Callable
from typing import Protocol, Self, runtime_checkable

from pyrepl_kernel.errors import ProtocolError, TransportClosed, TransportNotStarted
from pyrepl_kernel.protocol.framing import (
    MAX_FRAME_SIZE,
    FrameDecoder,
    KeptMemory,
    encode_parts,
)
from pyrepl_kernel.protocol.messages import Buffer, Message

__all__ = ["FrameReader", "FrameWriter", "MessageTransport", "PipeTransport", "SocketStream"]

log = logging.getLogger("pyrepl_kernel.protocol")

_CHUNK = 64 * 1024  # larger ones are fetched from the system and given back each time
_LARGE_CHUNK = 1024 * 1024  # where the bytes need no memory but their own
_HIGH_WATER = 1024 * 1024
_KEPT_FOR = 5.0  # seconds that the memory of a huge message is kept for one that follows

Sink = Callable[[Message], None]


class ByteSource(Protocol):
    """What a reader needs: an ``asyncio.StreamReader`` has it."""

    async def read(self, n: int, /) -> bytes:
        """At least one byte and at most ``n``; nothing at the end of the stream."""
        ...


@runtime_checkable
class ByteSpring(Protocol):
    """What a reader likes better: a source that hands over bytes the moment they are there."""

    async def pour(self, decoder: FrameDecoder, on_bytes: Callable[[], None], /) -> None:
        """Put bytes into ``decoder`` and call ``on_bytes``, again and again, until the end.

        What ``on_bytes`` raises ends it, and is raised here.
        """
        ...


class ByteDestination(Protocol):
    """What a writer needs: an ``asyncio.StreamWriter`` has it."""

    def write(self, data: Buffer, /) -> None:
        """Take bytes to send."""
        ...

    async def drain(self) -> None:
        """Wait until more may be written."""
        ...

    def close(self) -> None:
        """Close the stream."""
        ...


class FrameReader:
    """Reads frames in one background loop, and gives each message to ``sink``.

    Args:
        source: Where the bytes come from.
        sink: Called for each message, in order, on the event loop.
        on_end: Called once when the loop ends, with the error that ended it; None at a clean end
            of the stream, between two frames.
        max_frame_size: Largest body accepted, in bytes.
    """

    def __init__(
        self,
        source: ByteSource | ByteSpring,
        sink: Sink,
        on_end: Callable[[Exception | None], None],
        *,
        max_frame_size: int = MAX_FRAME_SIZE,
    ) -> None:
        self._source = source
        self._sink = sink
        self._on_end = on_end
        self._decoder = FrameDecoder(max_frame_size)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the loop; it runs until the stream ends."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="frame-reader")

    async def stop(self) -> None:
        """Stop the loop, if it still runs."""
        task = self._task
        if task is None or task is asyncio.current_task():
            return
        task.cancel()
        await asyncio.wait([task])

    async def _run(self) -> None:
        error: Exception | None = None
        source, decoder = self._source, self._decoder
        try:
            if isinstance(source, ByteSpring):
                await source.pour(decoder, self._give)
            else:
                while data := await source.read(_CHUNK):
                    decoder.feed(data)
                    self._give()
            decoder.finish()
        except (ProtocolError, OSError) as problem:
            error = problem
        except Exception as problem:
            # A fault of the sink's: the loop cannot go on, and whoever waits has to hear of it.
            log.exception("a message could not be handled")
            error = problem
        finally:
            # Cancelled too, as all tasks are when an event loop is wound up.
            self._on_end(error)

    def _give(self) -> None:
        next_message, sink = self._decoder.next_message, self._sink
        while (message := next_message()) is not None:
            sink(message)


class FrameWriter:
    """Writes messages as frames.

    Args:
        destination: Where the bytes go.
        max_frame_size: Largest body sent, in bytes.
    """

    def __init__(
        self, destination: ByteDestination, *, max_frame_size: int = MAX_FRAME_SIZE
    ) -> None:
        self._destination = destination
        self._max = max_frame_size

    def write(self, message: Message) -> None:
        """Hand over a message; it is sent as soon as the stream takes it.

        Raises:
            FrameTooLarge: Nothing was sent.
            TypeError: The message holds what no frame can carry; nothing was sent.
        """
        for part in encode_parts(message, self._max):
            self._destination.write(part)

    async def drain(self) -> None:
        """Wait until the stream has room again."""
        await self._destination.drain()

    def close(self) -> None:
        """Close the stream."""
        self._destination.close()


class MessageTransport:
    """Messages both ways over a pair of byte streams.

    Args:
        reader: Where bytes come from (an ``asyncio.StreamReader``, say).
        writer: Where bytes go (an ``asyncio.StreamWriter``, say).
        sink: Called for each message that arrives; by default they queue up for ``receive()``.
        on_end: Called once when the incoming stream ends, with its error or None.
        max_frame_size: Largest frame body either way, in bytes.
    """

    def __init__(
        self,
        reader: ByteSource | ByteSpring,
        writer: ByteDestination,
        *,
        sink: Sink | None = None,
        on_end: Callable[[Exception | None], None] | None = None,
        max_frame_size: int = MAX_FRAME_SIZE,
    ) -> None:
        self._queue: deque[Message] = deque()
        self._arrival = asyncio.Event()
        self._ended = False
        self._error: Exception | None = None
        self._started = False
        self._owner_on_end = on_end
        self._reader = FrameReader(
            reader, sink or self._enqueue, self._finish, max_frame_size=max_frame_size
        )
        self._writer = FrameWriter(writer, max_frame_size=max_frame_size)

    async def start(self) -> None:
        """Start reading; needed before anything else."""
        self.start_now()

    def start_now(self) -> None:
        """As ``start``, for callers that cannot wait."""
        self._started = True
        self._reader.start()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    @property
    def is_closed(self) -> bool:
        """Whether the incoming stream has ended or the transport was closed."""
        return self._ended

    def _enqueue(self, message: Message) -> None:
        self._queue.append(message)
        self._arrival.set()

    def _finish(self, error: Exception | None) -> None:
        if self._ended:
            return
        self._ended = True
        self._error = error
        self._arrival.set()
        if self._owner_on_end is not None:
            self._owner_on_end(error)

    def _check_usable(self) -> None:
        if not self._started:
            raise TransportNotStarted
        if self._ended:
            raise self._error or TransportClosed("the transport is closed")

    def send_nowait(self, message: Message) -> None:
        """Send a message without waiting for room in the stream.

        Raises:
            TransportNotStarted: ``start()`` has not been called.
            TransportClosed: The transport is closed or its peer has gone.
            FrameTooLarge: The message is too large; nothing was sent.
        """
        self._check_usable()
        self._writer.write(message)

    async def send(self, message: Message) -> None:
        """Send a message, and wait while the stream is full; errors as ``send_nowait``."""
        self.send_nowait(message)
        await self._writer.drain()

    async def receive(self) -> Message:
        """The next message; what arrived before the end is still given out after it.

        Raises:
            TransportNotStarted: ``start()`` has not been called.
            TransportClosed: The stream has ended between two frames.
            ProtocolError: The stream is broken; the same error is raised each time.
        """
        if not self._started:
            raise TransportNotStarted
        while not self._queue:
            self._check_usable()
            self._arrival.clear()
            await self._arrival.wait()
        return self._queue.popleft()

    async def close(self) -> None:
        """Stop reading and close the stream; who waits in ``receive()`` gets TransportClosed."""
        await self._reader.stop()
        self._finish(TransportClosed("the transport is closed"))
        self._writer.close()


class SocketStream:
    """A non-blocking socket (or socket pair's end) as source and destination of bytes.

    Reads and writes go to the socket at once when it is ready, without a detour over a buffer of
    the event loop's, nor over a task that would have to be woken for each read. ``finish()`` lets
    a reader have what is in the socket and then the end, even if somebody else still holds the
    other end open: a child that the dead worker left behind.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._decoder = FrameDecoder()
        self._on_bytes: Callable[[], None] = lambda: None
        self._end: asyncio.Future[None] | None = None  # of a reading that has begun
        self._left = -1  # bytes that a dead peer has left in the socket; -1 while it lives
        self._closed = False
        self._unsent: deque[memoryview] = deque()
        self._unsent_size = 0
        self._room: asyncio.Future[None] | None = None
        self._watching = False
        self._paused = False
        self._memory = KeptMemory()
        self._filled_at = 0.0  # when bytes came to lie there
        self._keeping: asyncio.TimerHandle | None = None

    # -- reading

    async def pour(self, decoder: FrameDecoder, on_bytes: Callable[[], None], /) -> None:
        """Put what comes into the decoder and call ``on_bytes``, until the end of the stream."""
        self._decoder = decoder
        decoder.memory = self._memory.take
        self._on_bytes = on_bytes
        self._end = self._loop.create_future()
        if self._closed:
            return
        if self._left >= 0:
            self._loop.call_soon(self._read_rest)
        else:
            self._watch()
        try:
            await self._end
        finally:
            self._unwatch()

    @property
    def _is_reading(self) -> bool:
        return self._end is not None and not self._end.done()

    def _read(self, limit: int = _CHUNK) -> int:
        """Read once, at most ``limit`` bytes: how many there were, -1 for nothing now."""
        if self._closed:
            return 0
        room = self._decoder.room()
        try:
            if room is not None:
                size = self._sock.recv_into(room, min(len(room), max(limit, _LARGE_CHUNK)))
                self._decoder.filled(size)
                self._filled_at = self._loop.time()
                if self._keeping is None:
                    self._keeping = self._loop.call_later(_KEPT_FOR, self._look_at_memory)
                return size
            data = self._sock.recv(limit)
        except (BlockingIOError, InterruptedError):
            return -1
        except OSError:
            return 0
        self._decoder.feed(data)
        return len(data)

    def _look_at_memory(self) -> None:
        left = self._filled_at + _KEPT_FOR - self._loop.time()
        if left > 0:
            self._keeping = self._loop.call_later(left, self._look_at_memory)
        else:
            self._forget_memory()

    def _forget_memory(self) -> None:
        self._memory.forget()
        if self._keeping is not None:
            self._keeping.cancel()
            self._keeping = None

    def _watch(self) -> None:
        if not (self._watching or self._paused or self._closed):
            self._loop.add_reader(self._sock.fileno(), self._on_readable)
            self._watching = True

    def _unwatch(self) -> None:
        if self._watching:
            self._loop.remove_reader(self._sock.fileno())
            self._watching = False

    def _on_readable(self) -> None:
        if not self._is_reading:
            self._unwatch()
        elif (size := self._read()) == 0:
            self._stop()
        elif size > 0:
            self._hand_over()

    def _hand_over(self) -> None:
        try:
            self._on_bytes()
        except Exception as error:
            self._stop(error)

    def _stop(self, error: Exception | None = None) -> None:
        """The reading has come to its end."""
        self._unwatch()
        self._forget_memory()
        if self._end is None or self._end.done():
            return
        if error is None:
            self._end.set_result(None)
        else:
            self._end.set_exception(error)

    def _read_rest(self) -> None:
        """Read what a dead peer has left, and no more."""
        while self._is_reading and self._left > 0:
            if (size := self._read(min(self._left, _CHUNK))) <= 0:
                break
            self._left -= size
            self._hand_over()
        self._stop()

    def pause_reading(self) -> None:
        """Take nothing more from the socket until ``resume_reading``: the peer has to wait."""
        self._paused = True
        self._unwatch()

    def resume_reading(self) -> None:
        """Go on reading."""
        self._paused = False
        if self._is_reading and self._left < 0:
            self._watch()

    def finish(self) -> None:
        """The peer is dead: what has arrived is still handed over, and then comes the end."""
        if self._left >= 0 or self._closed:
            return
        waiting = array.array("i", [0])
        fcntl.ioctl(self._sock, termios.FIONREAD, waiting)
        # And no more than that: a child of the peer's may go on writing for ever.
        self._left = waiting[0]
        self._paused = False
        self._unwatch()
        if self._is_reading:
            self._loop.call_soon(self._read_rest)

    # -- writing

    def write(self, data: Buffer, /) -> None:
        """Send bytes now as far as the socket takes them, and the rest when it can."""
        if self._closed:
            return
        view = memoryview(data)
        if not self._unsent:
            try:
                sent = self._sock.send(view)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except ConnectionError:
                return  # the peer is gone; the reading side says so to all who wait
            if sent == len(view):
                return
            view = view[sent:]
            self._loop.add_writer(self._sock.fileno(), self._send_more)
        self._unsent.append(view)
        self._unsent_size += len(view)

    def _send_more(self) -> None:
        while self._unsent:
            view = self._unsent[0]
            try:
                sent = self._sock.send(view)
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                self._unsent.clear()
                self._unsent_size = 0
                break
            self._unsent_size -= sent
            if sent < len(view):
                self._unsent[0] = view[sent:]
            else:
                self._unsent.popleft()
            self._wake_writer()
        self._loop.remove_writer(self._sock.fileno())
        self._wake_writer()

    def _wake_writer(self) -> None:
        if self._unsent_size <= _HIGH_WATER and self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def drain(self) -> None:
        """Wait while more than a megabyte is unsent."""
        while self._unsent_size > _HIGH_WATER and not self._closed:
            if self._room is None or self._room.done():
                self._room = self._loop.create_future()
            await asyncio.shield(self._room)

    def close(self) -> None:
        """Close the socket; whoever waits on it goes on."""
        if self._closed:
            return
        self._closed = True
        self._unwatch()
        if self._unsent:
            self._loop.remove_writer(self._sock.fileno())
            self._unsent.clear()
            self._unsent_size = 0
        self._sock.close()
        self._stop()
        self._wake_writer()


class PipeTransport(MessageTransport):
    """Messages over one end of a socket pair, the other end of which a worker holds.

    Args:
        sock: This side's end; the transport owns it from here on.
        sink: Called for each message that arrives; by default they queue up for ``receive()``.
        on_end: Called once when the incoming stream ends, with its error or None.
        max_frame_size: Largest frame body either way, in bytes.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        sink: Sink | None = None,
        on_end: Callable[[Exception | None], None] | None = None,
        max_frame_size: int = MAX_FRAME_SIZE,
    ) -> None:
        self._stream = SocketStream(sock)
        super().__init__(
            self._stream, self._stream, sink=sink, on_end=on_end, max_frame_size=max_frame_size
        )

    def finish(self) -> None:
        """The peer is known to be dead: deliver what it sent, then end."""
        self._stream.finish()

    def close_now(self) -> None:
        """As ``close`` after the stream has ended: there is no loop left to stop."""
        self._finish(TransportClosed("the transport is closed"))
        self._writer.close()

    def pause_reading(self) -> None:
        """Let the peer wait."""
        self._stream.pause_reading()

    def resume_reading(self) -> None:
        """Go on reading."""
        self._stream.resume_reading()
