"""iopub under pressure: when output pauses, when it goes on, and what is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio

from pyrepl_kernel.kernel import channels
from pyrepl_kernel.kernel.channels import Publisher, make_context
from pyrepl_kernel.kernel.connection import open_connection
from pyrepl_kernel.kernel.loans import HIGH_WATER
from pyrepl_kernel.kernel.subscribers import Subscribers

MEGABYTE = 1 << 20
ENOUGH = 20.0


class Iopub:
    """A publisher, and whether it wants output to pause."""

    def __init__(self, path: Path) -> None:
        self.connection = open_connection(str(path))
        self.context = make_context()
        self.is_paused = False
        self.changed = asyncio.Event()
        self.subscribed = asyncio.Event()
        self.publisher = Publisher(
            self.context,
            self.connection,
            lambda topic: self.subscribed.set(),
            lambda: self._change(True),
            lambda: self._change(False),
        )

    def _change(self, is_paused: bool) -> None:
        self.is_paused = is_paused
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(ENOUGH):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def subscriber(self, high_water_mark: int = 2) -> zmq.asyncio.Socket:
        """A client that takes no more than it reads, as far as that can be had."""
        socket = zmq.asyncio.Context.instance().socket(zmq.SUB)
        socket.rcvhwm, socket.rcvbuf, socket.linger = high_water_mark, 1 << 16, 0
        socket.subscribe(b"")
        self.subscribed.clear()
        socket.connect(self.connection.endpoint("iopub"))
        async with asyncio.timeout(ENOUGH):
            await self.subscribed.wait()
        return socket

    def fill(self, size: int = MEGABYTE) -> int:
        """Send numbered messages until output is to pause; how many."""
        for number in range(100_000):
            self.publisher.send([b"topic", b"%08d" % number + b"x" * size])
            if self.is_paused:
                return number + 1
        raise AssertionError("there is no end to it")


@asynccontextmanager
async def running(tmp_path: Path) -> AsyncIterator[Iopub]:
    iopub = Iopub(tmp_path / "connection.json")
    try:
        yield iopub
    finally:
        iopub.publisher.close()
        zmq.asyncio.Context.instance().destroy(linger=0)
        iopub.context.destroy(linger=0)


async def read(socket: zmq.asyncio.Socket) -> int:
    async with asyncio.timeout(ENOUGH):
        _, body = await socket.recv_multipart()
    return int(body[:8])


async def test_without_a_subscriber_nothing_is_held_up(tmp_path: Path) -> None:
    async with running(tmp_path) as iopub:
        for _ in range(3 * HIGH_WATER // MEGABYTE):
            iopub.publisher.send([b"topic", bytes(MEGABYTE)])
        await iopub.until(lambda: not iopub.is_paused)


async def test_large_messages_pause_by_bytes_and_none_is_lost(tmp_path: Path) -> None:
    async with running(tmp_path) as iopub:
        subscriber = await iopub.subscriber()
        sent = iopub.fill()
        assert HIGH_WATER // MEGABYTE <= sent <= 2 * HIGH_WATER // MEGABYTE
        assert [await read(subscriber) for _ in range(sent)] == list(range(sent))
        await iopub.until(lambda: not iopub.is_paused)


async def test_small_messages_pause_by_number_and_none_is_lost(tmp_path: Path) -> None:
    async with running(tmp_path) as iopub:
        subscriber = await iopub.subscriber()
        sent = iopub.fill(size=10_000)
        assert [await read(subscriber) for _ in range(sent)] == list(range(sent))
        await iopub.until(lambda: not iopub.is_paused)


async def test_what_waits_is_never_left_to_news_that_was_taken_in_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descriptor tells once of new room; whatever asks the socket for something takes that in.

    So nothing may come between a send that failed and the wait for the descriptor.
    """
    last = ""
    send, get = channels._send_message, channels._get

    def sending(*arguments: Any) -> None:
        nonlocal last
        last = "failed"
        send(*arguments)
        last = "sent"

    def asking(*arguments: Any) -> Any:
        nonlocal last
        last = "asked"
        return get(*arguments)

    monkeypatch.setattr(channels, "_send_message", sending)
    monkeypatch.setattr(channels, "_get", asking)
    async with running(tmp_path) as iopub:
        subscriber = await iopub.subscriber()
        sent = iopub.fill(size=10_000)
        for number in range(sent, sent + 3000):
            iopub.publisher.send([b"topic", b"%08d" % number + bytes(10_000)])
        for number in range(sent + 3000):
            assert await read(subscriber) == number
            waits = bool(iopub.publisher._unsent) and not iopub.publisher._is_scheduled
            assert not waits or last == "failed"
        await iopub.until(lambda: not iopub.is_paused)


async def test_a_pause_is_asked_for_again_of_another_worker(tmp_path: Path) -> None:
    async with running(tmp_path) as iopub:
        subscriber = await iopub.subscriber()
        iopub.fill()
        iopub.is_paused = False  # it has been replaced
        iopub.publisher.send([b"topic", b"00000000" + bytes(MEGABYTE)])
        assert iopub.is_paused
        subscriber.close()


async def test_a_slow_reader_is_not_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(channels, "_STUCK", 1.0)
    async with running(tmp_path) as iopub:
        subscriber = await iopub.subscriber()
        sent = iopub.fill()
        numbers = []
        while iopub.is_paused:  # longer than the client is given, and a message now and then
            numbers.append(await read(subscriber))
            await asyncio.sleep(0.15)
        assert numbers == list(range(len(numbers)))
        rest = range(len(numbers), sent)
        assert [await read(subscriber) for _ in rest] == list(rest)
        assert not caplog.records


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Half a second, where it is half a minute otherwise."""
    monkeypatch.setattr(channels, "_STUCK", 0.5)
    caplog.set_level(logging.WARNING, "pyrepl_kernel")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("size", [MEGABYTE, 10_000])
async def test_a_client_that_reads_nothing_is_cut_off_and_the_others_lose_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    async with running(tmp_path) as iopub:
        stuck = await iopub.subscriber()
        other = await iopub.subscriber(high_water_mark=10_000)
        sent = iopub.fill(size)
        assert [await read(other) for _ in range(sent)] == list(range(sent))
        await iopub.until(lambda: not iopub.is_paused)
        assert "1 client(s) disconnected" in caplog.text
        # It holds up nothing any more, and nothing is kept for it.
        for number in range(sent, 2 * sent):
            iopub.publisher.send([b"topic", b"%08d" % number + bytes(size)])
            assert await read(other) == number
            assert not iopub.is_paused
        stuck.close()


@pytest.mark.usefixtures("impatient")
async def test_a_client_that_was_cut_off_is_welcome_when_it_reads_on(tmp_path: Path) -> None:
    async with running(tmp_path) as iopub:
        stuck = await iopub.subscriber()
        sent = iopub.fill()
        await iopub.until(lambda: not iopub.is_paused)
        iopub.subscribed.clear()
        welcome = asyncio.create_task(iopub.subscribed.wait())
        numbers = []
        while not welcome.done():
            reading = asyncio.create_task(read(stuck))
            await asyncio.wait([reading, welcome], return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                numbers.append(reading.result())
            else:
                reading.cancel()
        assert numbers == list(range(len(numbers)))
        assert len(numbers) < sent
        iopub.publisher.send([b"topic", b"%08d" % sent])
        assert await read(stuck) == sent
        stuck.close()


@pytest.mark.usefixtures("impatient")
async def test_a_client_that_is_not_found_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # As over ipc, where nobody can say who has taken what.
    monkeypatch.setattr(channels, "_subscribers_of", lambda port: Subscribers(0))
    async with running(tmp_path) as iopub:
        stuck = await iopub.subscriber()
        other = await iopub.subscriber(high_water_mark=10_000)
        sent = iopub.fill()
        await iopub.until(lambda: not iopub.is_paused)
        assert "a client has read no output" in caplog.text
        iopub.publisher.send([b"topic", b"%08d" % sent + bytes(MEGABYTE)])
        assert [await read(other) for _ in range(sent + 1)] == list(range(sent + 1))
        stuck.close()
