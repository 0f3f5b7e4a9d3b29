"""Python stacks as faulthandler writes them, told in the terms of cells.

faulthandler names a cell's code by its file, ``…/ipykernel_123/4567.py``, where the number is a
hash of its source. The session remembers which sources it sent, and so finds the cell again.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, replace
from itertools import dropwhile

from pyrepl_kernel.protocol.cell_names import cell_hash

__all__ = ["CellSources", "Frame", "ThreadStack", "describe_stacks", "parse_stacks", "user_frames"]

_MOST_SOURCE = 512 * 1024  # characters of sources that are remembered

_THREAD = re.compile(r"(?P<current>Current thread|Thread) (?P<id>0x[0-9a-fA-F]+)(?P<rest>.*)")
_C_STACK = re.compile(r"Current thread's C stack trace")
_FRAME = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+|\?\?\?) in (?P<function>.*)')
_CELL_FILE = re.compile(r"ipykernel_\d+[/\\](?P<hash>\d+)\.py$")
_OURS = "/pyrepl_kernel/"
_CUT_OFF = ("  ...", "  <truncated")


@dataclass(frozen=True)
class Frame:
    """One line of a stack.

    Attributes:
        file: The file, as the interpreter names it.
        line: The line; 0 where the interpreter did not know it.
        function: The function's name.
        cell: What the user knows the cell as, ``In [3]``; empty where the code is in a file.
        source: The cell's text of that line; empty where it is not known.
    """

    file: str
    line: int
    function: str
    cell: str = ""
    source: str = ""

    def __str__(self) -> str:
        place = self.cell or f'File "{self.file}"'
        return f"{place}, line {self.line}, in {self.function}"


@dataclass(frozen=True)
class ThreadStack:
    """The stack of one thread.

    Attributes:
        frames: Its frames, the innermost last.
        is_current: Whether it is the thread that crashed, or that the signal was handled by.
        is_cut_off: Whether there are more frames on the outside than were written.
    """

    frames: tuple[Frame, ...]
    is_current: bool
    is_cut_off: bool = False


def parse_stacks(text: str) -> list[ThreadStack]:
    """The stacks of threads in what faulthandler has written; what is not a stack is passed over.

    Where a text has several dumps, all of their threads are given, in order.
    """
    threads: list[ThreadStack] = []
    is_python = False
    for line in text.splitlines():
        if found := _THREAD.match(line):
            is_python = True
            threads.append(ThreadStack((), found["current"] == "Current thread"))
        elif _C_STACK.match(line):
            is_python = False  # from Python 3.14 on; what is cut off is not Python's stack
        elif not is_python:
            continue
        elif found := _FRAME.match(line):
            number = int(found["line"]) if found["line"].isdecimal() else 0
            frame = Frame(found["file"], number, found["function"])
            # faulthandler begins with the innermost.
            threads[-1] = replace(threads[-1], frames=(frame, *threads[-1].frames))
        elif line.startswith(_CUT_OFF):
            threads[-1] = replace(threads[-1], is_cut_off=True)
    return threads


def user_frames(frames: tuple[Frame, ...]) -> tuple[Frame, ...]:
    """The frames from the first that is a cell's on: what is outside of it is the kernel's."""
    for index, frame in enumerate(frames):
        if frame.cell:
            return frames[index:]
    return frames


def describe_stacks(threads: list[ThreadStack]) -> str:
    """Stacks of all threads but our own, for people."""
    lines = []
    for number, thread in enumerate(threads, 1):
        if all(_OURS in frame.file for frame in thread.frames):
            continue
        # The interpreter lists the oldest last.
        name = "Main thread" if number == len(threads) else f"Thread {number}"
        lines.append(f"{name} (most recent call last):")
        for frame in user_frames(thread.frames):
            lines.append(f"  {frame}")
            if frame.source:
                lines.append(f"    {frame.source}")
    return "\n".join([*lines, ""])


class CellSources:
    """The sources that a worker was sent of late, and what the user knows them as."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, str] = OrderedDict()  # source → name, the latest last
        self._size = 0
        self.latest = ""
        """The name of what was sent last."""

    def add(self, code: str, name: str) -> None:
        """Remember a cell.

        Args:
            code: Its source.
            name: What the user knows it as.
        """
        if code in self._names:
            del self._names[code]
        else:
            self._size += len(code)
        self._names[code] = name
        self.latest = name
        while self._size > _MOST_SOURCE and len(self._names) > 1:
            old, _ = self._names.popitem(last=False)
            self._size -= len(old)

    def resolve(self, threads: list[ThreadStack]) -> list[ThreadStack]:
        """The same stacks, with the cells in them found."""
        wanted = {
            int(found["hash"])
            for thread in threads
            for frame in thread.frames
            if (found := _CELL_FILE.search(frame.file))
        }
        cells: dict[int, tuple[str, str]] = {}
        for code, name in reversed(self._names.items()):
            if not wanted - cells.keys():
                break
            cells.setdefault(cell_hash(code), (code, name))
        return [
            replace(thread, frames=tuple(_in_cell(frame, cells) for frame in thread.frames))
            for thread in threads
        ]


def _in_cell(frame: Frame, cells: dict[int, tuple[str, str]]) -> Frame:
    found = _CELL_FILE.search(frame.file)
    if found is None or int(found["hash"]) not in cells:
        return frame
    code, name = cells[int(found["hash"])]
    lines = list(dropwhile(lambda line: not line.strip(), code.splitlines()))  # as IPython does
    source = lines[frame.line - 1] if 0 < frame.line <= len(lines) else ""
    return replace(frame, cell=name, source=source.strip())
