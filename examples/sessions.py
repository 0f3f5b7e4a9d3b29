"""Run Python in worker processes of your own: no Jupyter, no sockets, no threads.

python examples/sessions.py
"""

import asyncio
import os

from pyrepl_kernel import ExecuteMessage, Session, WarmupError, WorkerDied
from pyrepl_kernel.protocol.messages import ErrorMessage, OutputMessage


async def collected(session: Session) -> None:
    """``run`` waits for the end of a cell and gives everything that came of it."""
    outcome = await session.run("print('area:'); math.pi * radius**2")
    assert outcome.status == "ok" and outcome.result is not None
    print("run:      ", outcome.stdout.strip(), outcome.result["text/plain"])

    # An exception in a cell is a value here, and the session lives on.
    failed = await session.run("radius / 0")
    assert failed.status == "error" and failed.error is not None
    print("error:    ", failed.error.ename, "-", failed.error.evalue)
    assert (await session.run("radius")).result == {"text/plain": "2.0"}


async def streamed(session: Session) -> None:
    """``execute`` gives each message as it comes; here, to stop a cell that would never end."""
    cell = ExecuteMessage("print('working', flush=True)\nwhile True: pass", store_history=False)
    async for message in session.execute(cell):
        if isinstance(message, OutputMessage):
            print("execute:  ", message.data.strip())
            await session.interrupt()
        elif isinstance(message, ErrorMessage):
            print("interrupt:", message.ename)
            assert message.ename == "KeyboardInterrupt"


async def ended(session: Session) -> None:
    """Code that kills its process takes nothing else with it."""
    try:
        await session.run("import os; os._exit(3)")
    except WorkerDied as death:
        print("death:    ", death.reason)
        assert death.exit_code == 3

    # A restart is a new process, with the warmup and without the rest.
    await session.restart()
    outcome = await session.run("radius, 'os' in globals()")
    assert outcome.result == {"text/plain": "(2.0, False)"}
    print("restart:  ", outcome.result["text/plain"])


async def main() -> None:
    """Show one session's life, and a warmup that fails."""
    async with Session(warmup_code="import math\nradius = 2.0") as session:
        print(f"session:   worker {session.pid}, started by {os.getpid()}")
        await collected(session)
        await streamed(session)
        await ended(session)

    try:
        await Session(warmup_code="import no_such_module").start()
    except WarmupError as error:
        print("warmup:   ", error.ename, "-", error.evalue)
        assert error.ename == "ModuleNotFoundError"


if __name__ == "__main__":
    asyncio.run(main())
