"""What is counted without another program: bytes of a cell, and the modules of each process."""

import asyncio
import subprocess
import sys

from pyrepl_kernel.protocol.framing import FrameDecoder
from pyrepl_kernel.protocol.messages import Buffer
from pyrepl_kernel.protocol.transport import SocketStream
from pyrepl_kernel.session.session import Session

_CELLS = {
    "pass": "pass",
    "print(1)": "print(1)",
    "1,000 lines": "for i in range(1000): print(i)",
    "a display": "from IPython.display import HTML, display; display(HTML('<b>1</b>'))",
}
_KERNEL_PROCESS = (
    "import sys; from pyrepl_kernel.kernel.launch import import_asyncio; import_asyncio(); "
    "import logging, pyrepl_kernel.kernel.kernel; "
    "print(*sorted(sys.modules))"
)


def bytes_for() -> dict[str, float]:
    """Bytes between session and worker for each of some cells, both ways."""
    return asyncio.run(_count_bytes())


async def _count_bytes() -> dict[str, float]:
    total = 0
    feed, filled, write = FrameDecoder.feed, FrameDecoder.filled, SocketStream.write

    def count_feed(self: FrameDecoder, data: bytes) -> None:
        nonlocal total
        total += len(data)
        feed(self, data)

    def count_filled(self: FrameDecoder, size: int) -> None:
        nonlocal total
        total += size
        filled(self, size)

    def count_write(self: SocketStream, data: Buffer, /) -> None:
        nonlocal total
        total += len(data)
        write(self, data)

    counts: dict[str, float] = {}
    FrameDecoder.feed = count_feed  # type: ignore[method-assign]
    FrameDecoder.filled = count_filled  # type: ignore[method-assign]
    SocketStream.write = count_write  # type: ignore[method-assign]
    try:
        async with Session() as session:
            await session.run("pass")
            for name, code in _CELLS.items():
                before = total
                await session.run(code)
                counts[f"bytes, {name}"] = total - before
    finally:
        FrameDecoder.feed = feed  # type: ignore[method-assign]
        FrameDecoder.filled = filled  # type: ignore[method-assign]
        SocketStream.write = write  # type: ignore[method-assign]
    return counts


def modules_of_kernel_process() -> list[str]:
    """Names of the modules that a kernel process has loaded when it begins to serve."""
    command = [sys.executable, "-P", "-c", _KERNEL_PROCESS]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def modules_of_worker() -> list[str]:
    """Names of the modules that a worker has loaded when its first cell runs."""

    async def ask() -> str:
        async with Session() as session:
            return (await session.run("import sys; print(*sorted(sys.modules))")).stdout

    return asyncio.run(ask()).split()
