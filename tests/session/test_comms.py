"""Comm messages of a session, as far as how they travel is concerned."""

from __future__ import annotations

from pyrepl_kernel.protocol.messages import CommMessage
from pyrepl_kernel.session.session import Session
from tests.session.support import Following

ANSWERS = 50

SETUP = f"""
import comm, threading
answering = comm.create_comm(target_name='t', comm_id='c')
gate = threading.Event()

@answering.on_msg
def answer(message):
    for number in range({ANSWERS}):
        answering.send(dict(number=number))
    if message['content']['data'].get('waits'):
        gate.wait(20)

class Counting:
    def __init__(self, sock):
        self.sock, self.calls = sock, 0

    def send(self, data):
        self.calls += 1
        return self.sock.send(data)

    def __getattr__(self, name):
        return getattr(self.sock, name)

channel = get_ipython().send.__self__._channel
counting = channel._sock = Counting(channel._sock)
"""


def numbers(served: Following) -> list[int]:
    """What the answers say, in the order in which they came."""
    return [message.data["number"] for message in served.messages if type(message) is CommMessage]


async def test_answers_to_a_comm_message_travel_with_its_result() -> None:
    async with Session() as session:
        await session.run(SETUP)
        before = await session.run("counting.calls")
        served = Following(session, CommMessage("msg", "c"))
        assert (await served.result()).status == "ok"
        after = await session.run("counting.calls")
    assert numbers(served) == list(range(ANSWERS))
    assert before.result is not None and after.result is not None
    # One for each answer otherwise; a few, where the machine stood still in between.
    assert int(after.result["text/plain"]) - int(before.result["text/plain"]) < ANSWERS / 2


async def test_answers_do_not_wait_for_a_handler_that_takes_its_time() -> None:
    async with Session() as session:
        await session.run(SETUP)
        served = Following(session, CommMessage("msg", "c", data={"waits": True}))
        await served.until(lambda: len(numbers(served)) == ANSWERS)
        await session.interrupt()
        assert (await served.result()).ename == "KeyboardInterrupt"
    assert numbers(served) == list(range(ANSWERS))
